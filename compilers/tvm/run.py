"""The TVM runtime: opens an artifact on a node, packs its weights, refuses what would not run as evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from compilers.runtime import Bundle
from compilers.toolchain import Support, Supported, Unsupported
from compilers.tvm.cache import aligned_zeros
from compilers.tvm.library import Library, load_runtime, use_threads
from compilers.tvm.lower import installed_version, read_tensors
from compilers.tvm.plan import PLAN_NAME, Fill, Parameter, Plan
from compilers.tvm.session import TvmSession
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import BuildError, LoadError, UnknownNameError
from registry.target import Host, find_target, missing_features
from registry.value import describe

WEIGHTS_NAME = "weights.safetensors"
DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8}

AnyArray = NDArray[Any]


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
        if target.kind != "cpu":
            return Unsupported("not_implemented", f"there is no TVM session for {target.kind} targets")
        if missing := missing_features(host, target=target):
            return Unsupported("never", f"the host lacks {', '.join(missing)} of `{target.name}`")
        return Supported()

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> TvmSession:
        """A session on `threads` threads. TVM's pool is one per process: the last load sets its size for all.

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
        plan = _read_plan(bundle.path / PLAN_NAME)
        weights = _open_weights(bundle.path / WEIGHTS_NAME, plan)
        library = Library(bundle.path / bundle.manifest.entry)
        use_threads(threads)
        ffi = load_runtime()
        parameters = [_parameter(p, weights, library) for p in plan.parameters]
        tensors = [ffi.from_dlpack(array) for array in parameters]
        return TvmSession(library, plan, tensors, max_context=bundle.manifest.facts.max_context)


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LoadError(f"cannot read `{path}`: {error}", hint="pull or build the artifact again") from error
    except ValidationError as error:
        raise LoadError(
            f"`{path}` is no plan of this version: {describe(error)}", hint="pull or build the artifact again"
        ) from error


def _open_weights(path: Path, plan: Plan) -> dict[str, AnyArray]:
    """The tensors of a weights file, mapped into memory."""
    try:
        found = read_tensors(path)
    except BuildError as error:
        raise LoadError(error.message, hint="pull or build the artifact again") from error
    for name, form in plan.tensors.items():
        if name not in found:
            raise LoadError(
                f"`{path}` has no tensor `{name}`", hint="weights and library do not belong together"
            )
        if found[name] != form:
            raise LoadError(
                f"`{path}`: `{name}` is {found[name].dtype} {list(found[name].shape)}, the library was compiled for "
                f"{form.dtype} {list(form.shape)}",
                hint="weights and library do not belong together",
            )
    return _map_tensors(path)


def _map_tensors(path: Path) -> dict[str, AnyArray]:
    import json

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    size = path.stat().st_size
    tensors: dict[str, AnyArray] = {}
    # Copy on write: tensors must be writable to be passed on, and nobody writes them.
    data: AnyArray = np.memmap(path, np.uint8, mode="c")
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        dtype = np.dtype(DTYPES[entry["dtype"]])
        if end > size or end - begin != dtype.itemsize * int(np.prod(entry["shape"])):
            raise LoadError(f"`{path}` is cut short at `{name}`", hint="pull or build the artifact again")
        tensors[name] = data[begin:end].view(dtype).reshape(entry["shape"])
    return tensors


def _parameter(parameter: Parameter, weights: dict[str, AnyArray], library: Library) -> AnyArray:
    """One packed tensor."""
    if parameter.alias is not None:
        return weights[parameter.alias]
    array = aligned_zeros(parameter.shape, np.dtype(parameter.dtype))
    if parameter.values:
        array[...] = np.asarray(parameter.values, array.dtype).reshape(parameter.shape)
    for fill in parameter.fills:
        _pack(fill, array, weights, library)
    return array


def _pack(fill: Fill, array: AnyArray, weights: dict[str, AnyArray], library: Library) -> None:
    ffi = load_runtime()
    sources = [ffi.from_dlpack(weights[name]) for name in fill.sources]
    try:
        library.function(fill.function)(*sources, ffi.from_dlpack(array), *fill.integers)
    except (RuntimeError, ValueError, TypeError) as error:
        raise LoadError(
            f"packing `{fill.sources[0]}` failed: {error}", hint="weights and library do not belong together"
        ) from error
