"""GPU artifacts of small checkpoints, and the tools that making or running them needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compilers.export.graph import export_graph
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle
from compilers.toolchain import Lowered, LoweringInput
from compilers.tvm.gpu.opencl import open_opencl
from compilers.tvm.gpu.tools import find_lld, find_nvcc
from compilers.tvm.lower import TvmToolchain
from compilers.tvm.rehearse import rehearse_tvm
from registry.errors import ToolchainMissingError
from registry.target import find_target
from tests.compilers.conftest import Built


def require(find: Callable[[], object]) -> None:
    """Skip the test where a tool is missing."""
    try:
        find()
    except ToolchainMissingError as error:
        pytest.skip(error.message)


def require_opencl() -> None:
    """Skip the test where no OpenCL device is there."""
    if open_opencl() is None:
        pytest.skip("no OpenCL device; install `pocl-opencl-icd`")


def source_of(built: Built, folder: Path) -> LoweringInput:
    """What a toolchain lowers, of a checkpoint that another one has lowered."""
    return LoweringInput(
        recipe=built.recipe, facts=built.facts, weights=built.weights,
        graph=export_graph(built.architecture, out=folder),
    )  # fmt: skip


def lower(built: Built, target: str, out: Path) -> Lowered:
    """Lower for a GPU, or skip where the compiler is missing."""
    require(find_nvcc if target.startswith("cuda") else find_lld)
    (out / "graph").mkdir(parents=True)
    source = source_of(built, out / "graph")
    lowered = TvmToolchain().lower(source, find_target(target), out=out)
    (out / "weights.safetensors").symlink_to(built.weights)
    return lowered


def bundle_of(built: Built, target: str, out: Path) -> Bundle:
    """The artifact of a checkpoint for a GPU."""
    lowered = lower(built, target, out)
    made = {"format": "tvm", "toolchain": "tvm", "target": target, "entry": lowered.entry}
    return Bundle(built.manifest.model_copy(update={**made, "options": dict(lowered.options)}), out)


def rehearsal_of(built: Built, out: Path) -> Rehearsal:
    """The artifact through OpenCL."""
    require_opencl()
    found = rehearse_tvm(bundle_of(built, "rocm-gfx942", out))
    assert isinstance(found, Rehearsal)
    return found
