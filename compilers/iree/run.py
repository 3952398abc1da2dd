"""The IREE runtime: opens an artifact on a node, on the device that its target names and no other."""

from __future__ import annotations

from compilers.iree.device import open_cpu, open_device, open_session
from compilers.iree.package import RUNTIME, installed_version
from compilers.iree.target import DRIVERS
from compilers.plan_file import PLAN_NAME
from compilers.runtime import Bundle
from compilers.static.plan import read_plan
from compilers.static.session import StaticSession
from compilers.toolchain import Support, Supported, Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import LoadError, UnknownNameError
from registry.host import Host
from registry.target import find_target, missing_features
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
        if manifest.format != self.accepts:
            return Unsupported("never", f"the artifact's format is `{manifest.format}`, not `iree`")
        try:
            target = find_target(manifest.target)
        except UnknownNameError as error:
            return Unsupported("not_implemented", error.message)
        if target.kind != "cpu" and target.kind not in DRIVERS:
            return Unsupported("never", f"IREE has no driver for {target.kind} targets")
        if missing := missing_features(host, target=target):
            return Unsupported("never", f"the host lacks {', '.join(missing)} of `{target.name}`")
        return Supported()

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> StaticSession:
        """A session on `threads` threads of the CPU, or on the first device of the target's driver.

        Raises:
            LoadError: The host lacks something, or the files are damaged or do not belong together.
            ToolchainMissingError: The runtime is not installed.
        """
        support = self.supports(bundle.manifest, host)
        if isinstance(support, Unsupported):
            raise LoadError(
                f"`{bundle.path}` cannot run here: {support.reason}",
                hint="choose an artifact whose target this host has; `rung resolve` does that",
            )
        if threads < 1:
            raise LoadError(f"{threads} threads", hint="give at least 1 thread")
        plan = read_plan(bundle.path / PLAN_NAME)
        kind = find_target(bundle.manifest.target).kind
        device = open_cpu(threads=threads) if kind == "cpu" else open_device(DRIVERS[kind])
        return open_session(
            device, plan, module=bundle.path / bundle.manifest.entry, weights=bundle.path / WEIGHTS_NAME
        )
