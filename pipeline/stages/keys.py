"""Build keys: the one rule that resume, cache and staleness come from. Same key, same result.

A key is the digest of everything that a stage's output depends on: its inputs' digests, the options, the
versions of the libraries that do the work, and the digest of this project's own code for the stage.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from compilers.installed import required_version
from registry.checkpoint import Checkpoint
from registry.digest import digest_bytes, digest_file, digest_tree, digest_value
from registry.recipe import Recipe
from registry.target import Target

CODE: Mapping[str, tuple[str, ...]] = {
    "export": ("compilers.export",),
    "quantize": (
        "compilers.quantize",
        "compilers.model.activations",
        "compilers.model.torch_reference",
        "compilers.check.probe",
        "registry.recipe",
    ),
    "reference": ("compilers.model.torch_reference", "evals"),
    "lower-onnxruntime": ("compilers.onnxruntime",),
    "lower-tvm": ("compilers.tvm", "compilers.model.network"),
    "lower-iree": ("compilers.iree", "compilers.static", "compilers.model.network"),
    "lower-qnn": (
        "compilers.qnn",
        "compilers.model.activations",
        "compilers.static",
        "compilers.model.network",
    ),
    "lower-cann": ("compilers.portable", "compilers.static", "compilers.model.network"),
    "lower-openvino": ("compilers.portable", "compilers.static", "compilers.model.network"),
    "prove": ("compilers.proof",),
    "rehearse": (
        "compilers.rehearsal",
        "compilers.aarch64_emulation",
        "compilers.check.parity",
        "compilers.check.probe",
        "compilers.check.bounds",
    ),
    "verify": ("compilers.check.parity", "compilers.check.probe", "compilers.check.bounds"),
    "evaluate": ("evals", "compilers.model.tokenizer"),
}
"""Stage → the modules whose source its output depends on."""
COMMON = ("pipeline.stages",)
"""The form of outputs, and what workers do: part of every stage."""


def stage_key(stage: str, /, **inputs: object) -> str:
    """The key of a stage: its name, its code and its inputs."""
    return digest_value({"stage": stage, "code": code_digest(stage), "inputs": inputs})


def export_key(checkpoint: Checkpoint) -> str:
    """The key of an export: the configuration and tokenizer files, never the weights."""
    small = {f.path: f.digest for f in checkpoint.files if not f.path.endswith(".safetensors")}
    return stage_key("export", files=digest_tree(small), add_bos=checkpoint.add_bos)


def quantize_key(checkpoint: Checkpoint, recipe: Recipe, *, graph: str, calibration: str | None) -> str:
    """The key of a quantization. The calibration set also gives the probe, so it counts for every recipe."""
    return stage_key(
        "quantize",
        checkpoint=checkpoint.digest,
        recipe=recipe,
        graph=graph,
        calibration=calibration,
        torch=version("torch"),
        transformers=version("transformers"),
    )


def lower_key(
    *, graph: str, layout: str, target: Target, toolchain: str, toolchain_version: str, weights: str | None
) -> str:
    """The key of a lowering.

    Without weights, so that a new version of a checkpoint re-uses the code; only a toolchain whose files
    hold the weights' values is keyed by their digest.
    """
    embedded = {} if weights is None else {"weights": weights}
    return stage_key(
        f"lower-{toolchain}",
        graph=graph,
        layout=layout,
        target=target,
        version=toolchain_version,
        **embedded,
    )


def prove_key(*, lowered: Mapping[str, object], target: Target, toolchain: str) -> str:
    """The key of the proof of compiled files."""
    return stage_key("prove", lowered=lowered, target=target, toolchain=toolchain)


def build_key(*, checkpoint: str, recipe: Recipe, lower: str, weights: str) -> str:
    """The key of an artifact."""
    return digest_value({"checkpoint": checkpoint, "recipe": recipe, "lower": lower, "weights": weights})


def version(distribution: str) -> str:
    """The installed version of a distribution, without importing it.

    Raises:
        ToolchainMissingError: It is not installed.
    """
    return required_version(distribution, extra="build,eval")


@functools.cache
def code_digest(stage: str) -> str:
    """The digest of the source files that a stage's output depends on."""
    files: dict[str, str] = {}
    for module in (*COMMON, *CODE.get(stage, ())):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            files[module] = digest_bytes(b"")
        elif spec.submodule_search_locations:
            root = Path(spec.origin).parent
            files |= {
                f"{module}/{p.relative_to(root).as_posix()}": digest_file(p)
                for p in sorted(root.rglob("*.py"))
            }
        else:
            files[module] = digest_file(Path(spec.origin))
    return digest_tree(files)
