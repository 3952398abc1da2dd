"""QNN's node side: loads HTP context binaries on a machine with a Qualcomm NPU."""

from __future__ import annotations

from compilers.qnn.provider import CHIPS, find_provider, find_version
from compilers.qnn.step import open_qnn_session
from compilers.runtime import Bundle, check_host, check_runnable, find_artifact_target
from compilers.static.session import StaticSession
from compilers.toolchain import Support, Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import LoadError
from registry.host import Host


class QnnRuntime:
    """Runs artifacts of the format `qnn` on the HTP alone; an emulation is never taken for one."""

    accepts: ArtifactFormat = "qnn"

    def version(self) -> str:
        """Versions of onnxruntime-qnn and onnxruntime.

        Raises:
            ToolchainMissingError: They are not installed, or too old.
        """
        return find_version()

    def supports(self, manifest: Manifest, host: Host) -> Support:
        """Whether the host has the HTP that the artifact was compiled for."""
        target = find_artifact_target(manifest, self.accepts)
        if isinstance(target, Unsupported):
            return target
        if target.architecture not in CHIPS:
            return Unsupported("never", f"`{target.name}` is not one of Qualcomm's HTPs")
        return check_host(host, target)

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> StaticSession:
        """A session on the HTP.

        Raises:
            LoadError: The host has no such HTP, or the files cannot be loaded on it alone.
            ToolchainMissingError: onnxruntime-qnn is not installed.
        """
        target = check_runnable(self, bundle, host, threads=threads)
        provider = find_provider()
        if provider.emulates:
            raise LoadError(
                f"artifact of target `{bundle.manifest.target}` cannot run here: this machine can only "
                "emulate an HTP",
                hint="serve it on a machine with the NPU; `rung build` rehearses it by emulation",
            )
        return open_qnn_session(bundle.path, provider=provider, chip=CHIPS[target.architecture])
