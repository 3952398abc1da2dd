"""The TVM runtime: opens an artifact on a node, packs its weights, refuses what would not run there."""

from __future__ import annotations

from compilers.plan_file import PLAN_NAME, read_plan_file
from compilers.runtime import Bundle, Session
from compilers.toolchain import Support, Supported, Unsupported
from compilers.tvm.common.library import Library, installed_version, load_runtime, use_threads
from compilers.tvm.common.weights import open_weights
from compilers.tvm.cpu.memory import make_parameter
from compilers.tvm.cpu.plan import LibraryPlan
from compilers.tvm.cpu.session import TvmSession
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import LoadError, UnknownNameError
from registry.host import Host
from registry.target import find_target, missing_features
from registry.variant import WEIGHTS_NAME


class TvmRuntime:
    """Runs artifacts of the format `tvm`."""

    accepts: ArtifactFormat = "tvm"

    def version(self) -> str:
        """Versions of TVM and of its function interface.

        Raises:
            ToolchainMissingError: One of them is not installed.
        """
        return installed_version()

    def supports(self, manifest: Manifest, host: Host) -> Support:
        """Whether this artifact can run on this host, and why not; reads no file."""
        if manifest.format != self.accepts:
            return Unsupported("never", f"the artifact's format is `{manifest.format}`, not `tvm`")
        try:
            target = find_target(manifest.target)
        except UnknownNameError as error:
            return Unsupported("not_implemented", error.message)
        if target.kind in ("cuda", "rocm"):
            if missing := missing_features(host, target=target):
                return Unsupported("never", f"the host has no GPU that runs {', '.join(missing)} code")
            return Supported()
        if target.kind != "cpu":
            return Unsupported("not_implemented", f"there is no TVM session for {target.kind} targets")
        if missing := missing_features(host, target=target):
            return Unsupported("never", f"the host lacks {', '.join(missing)} of `{target.name}`")
        return Supported()

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> Session:
        """A session on `threads` threads, at most as many as there are cores, or on a GPU.

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
        target = find_target(bundle.manifest.target)
        if target.kind != "cpu":
            from compilers.tvm.gpu.open import open_session

            return open_session(bundle, target)
        plan = read_plan_file(bundle.path / PLAN_NAME, LibraryPlan)
        weights = open_weights(bundle.path / WEIGHTS_NAME, plan.tensors)
        library = Library(bundle.path / bundle.manifest.entry)
        use_threads(threads)
        ffi = load_runtime()
        parameters = [make_parameter(p, weights, library) for p in plan.parameters]
        tensors = [ffi.from_dlpack(array) for array in parameters]
        return TvmSession(
            library, plan, tensors, max_context=bundle.manifest.facts.max_context, threads=threads
        )
