"""The IREE runtime: opens an artifact on a node, on the device that its target names and no other."""

from __future__ import annotations

from compilers.iree.device import open_accelerator, open_cpu, open_session
from compilers.iree.package import RUNTIME, installed_version
from compilers.iree.target import DRIVERS
from compilers.plan_file import PLAN_NAME
from compilers.runtime import Bundle, check_host, check_runnable, find_artifact_target
from compilers.static.plan import read_plan
from compilers.static.session import StaticSession
from compilers.toolchain import Support, Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.host import Host
from registry.target import accelerator_for
from registry.variant import WEIGHTS_NAME


class IreeRuntime:
    """Runs artifacts of the format `iree`."""

    accepts: ArtifactFormat = "iree"

    def version(self) -> str:
        """Version of IREE's runtime.

        Raises:
            ToolchainMissingError: It is not installed, or of another series.
        """
        return installed_version(RUNTIME)

    def supports(self, manifest: Manifest, host: Host) -> Support:
        """Whether this artifact can run on this host, and why not; reads no file."""
        target = find_artifact_target(manifest, self.accepts)
        if isinstance(target, Unsupported):
            return target
        if target.kind != "cpu" and target.kind not in DRIVERS:
            return Unsupported("never", f"IREE has no driver for {target.kind} targets")
        return check_host(host, target)

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> StaticSession:
        """A session on `threads` threads of the CPU, or on the accelerator that the host's facts name.

        Raises:
            LoadError: The host lacks something or has other devices than its facts say, or the files are
                damaged or do not belong together.
            ToolchainMissingError: The runtime is not installed.
        """
        target = check_runnable(self, bundle, host, threads=threads)
        plan = read_plan(bundle.path / PLAN_NAME)
        accelerator = accelerator_for(target, host)
        if accelerator is None:
            device = open_cpu(threads=threads)
        else:
            device = open_accelerator(DRIVERS[target.kind], accelerator, host)
        return open_session(
            device, plan, module=bundle.path / bundle.manifest.entry, weights=bundle.path / WEIGHTS_NAME
        )
