"""The TVM runtime: opens an artifact on a node, packs its weights, refuses what would not run there."""

from __future__ import annotations

from compilers.plan_file import PLAN_NAME, read_plan_file
from compilers.runtime import Bundle, Session, check_host, check_runnable, find_artifact_target
from compilers.toolchain import Support, Unsupported
from compilers.tvm.common.library import Library, installed_version, load_runtime, use_threads
from compilers.tvm.common.weights import open_weights
from compilers.tvm.cpu.memory import make_parameter
from compilers.tvm.cpu.plan import LibraryPlan
from compilers.tvm.cpu.session import TvmSession
from registry.artifact import ArtifactFormat, Manifest
from registry.host import Host
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
        target = find_artifact_target(manifest, self.accepts)
        if isinstance(target, Unsupported):
            return target
        if target.kind not in ("cpu", "cuda", "rocm"):
            return Unsupported("not_implemented", f"TVM has no session for {target.kind} targets")
        return check_host(host, target)

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> Session:
        """A session on `threads` threads, at most as many as there are cores, or on a GPU.

        Raises:
            LoadError: The host lacks something, or the files are damaged or do not belong together.
            ToolchainMissingError: The runtime is not installed.
        """
        target = check_runnable(self, bundle, host, threads=threads)
        if target.kind != "cpu":
            from compilers.tvm.gpu.open import open_session

            return open_session(bundle, target)
        plan = read_plan_file(bundle.path / PLAN_NAME, LibraryPlan)
        weights = open_weights(bundle.path / WEIGHTS_NAME, plan.tensors)
        library = Library(bundle.path / bundle.manifest.entry)
        use_threads(threads)
        ffi = load_runtime()
        parameters = []
        for parameter in plan.parameters:
            parameters.append(make_parameter(parameter, weights, library))
            weights.forget_pages()  # else the file's and the packed form would both be in memory
        tensors = [ffi.from_dlpack(array) for array in parameters]
        return TvmSession(
            library, plan, tensors, max_context=bundle.manifest.facts.max_context, threads=threads
        )
