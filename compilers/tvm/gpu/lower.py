"""Lowering to GPUs: interchange graph and layout of the weights → machine code and `launches.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compilers.model.network import Network
from compilers.toolchain import Lowered, Support, Supported, Unsupported
from compilers.tvm.common.forms import TensorForm
from compilers.tvm.gpu.plan import CODE_NAMES, LAUNCHES_NAME
from registry.recipe import Recipe
from registry.target import Target


def supports_gpu(recipe: Recipe) -> Support:
    """Whether there are kernels for a recipe."""
    if recipe.activations == "float":
        return Supported()
    return Unsupported(
        "not_implemented", f"no GPU kernels round activations to integers, as {recipe.layout} does"
    )


def lower_gpu(network: Network, tensors: Mapping[str, TensorForm], target: Target, *, out: Path) -> Lowered:
    """Compile into the empty directory `out`.

    Raises:
        BuildError: There are no kernels for the network or its weights, or a compiler failed.
        ToolchainMissingError: `nvcc` or `ld.lld` is not installed.
    """
    from compilers.tvm.gpu.compile import compile_kernels
    from compilers.tvm.gpu.program import build_launches

    made = compile_kernels(build_launches(network, tensors=tensors), target)
    entry = CODE_NAMES[target.kind]
    (out / entry).write_bytes(made.code)
    (out / LAUNCHES_NAME).write_text(made.plan.model_dump_json() + "\n", encoding="utf-8")
    return Lowered(entry=entry, files=(entry, LAUNCHES_NAME), options={"compiler": made.compiler})
