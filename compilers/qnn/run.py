"""QNN's node side: loads HTP context binaries on a machine with a Qualcomm NPU."""

from __future__ import annotations

from compilers.qnn.provider import CHIPS, find_provider, find_version
from compilers.qnn.step import open_qnn_session
from compilers.runtime import Bundle
from compilers.static.session import StaticSession
from compilers.toolchain import Support, Supported, Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import LoadError
from registry.host import Host
from registry.target import find_target, missing_features


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
        if manifest.format != self.accepts:
            return Unsupported("never", f"the artifact's format is `{manifest.format}`")
        target = find_target(manifest.target, where="the manifest")
        if target.architecture not in CHIPS:
            return Unsupported("never", f"`{target.name}` is none of Qualcomm's HTPs")
        if lacking := missing_features(host, target=target):
            return Unsupported("never", f"the host lacks {', '.join(lacking)} of `{target.name}`")
        return Supported()

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> StaticSession:
        """A session on the HTP.

        Raises:
            LoadError: The host has no such HTP, or the files cannot be loaded on it alone.
            ToolchainMissingError: onnxruntime-qnn is not installed.
        """
        support = self.supports(bundle.manifest, host)
        if isinstance(support, Unsupported):
            raise LoadError(
                f"artifact of target `{bundle.manifest.target}` cannot run here: {support.reason}",
                hint="resolve again on this host",
            )
        provider = find_provider()
        if provider.emulates:
            raise LoadError(
                f"artifact of target `{bundle.manifest.target}` cannot run here: this machine can only "
                "emulate an HTP",
                hint="serve it on a machine with the NPU; `rung build` rehearses it by emulation",
            )
        target = find_target(bundle.manifest.target, where="the manifest")
        return open_qnn_session(bundle.path, provider=provider, chip=CHIPS[target.architecture])
