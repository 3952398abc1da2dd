"""Checkpoints as what toolchains lower from."""

from __future__ import annotations

import json
from pathlib import Path

from compilers.export.graph import export_graph
from compilers.model.architecture import model_facts, read_architecture
from compilers.quantize.variant import quantize
from compilers.toolchain import LoweringInput
from registry.recipe import parse_recipe


def source_of(
    checkpoint: Path, out: Path, *, recipe: str, calibration: list[list[int]] | None = None
) -> LoweringInput:
    """A checkpoint, exported and quantized into `out`."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture = read_architecture(config, where=str(checkpoint))
    quantize(checkpoint, parse_recipe(recipe), architecture=architecture, out=out, calibration=calibration)
    (out / "graph").mkdir()
    return LoweringInput(
        recipe=parse_recipe(recipe),
        facts=model_facts(architecture, add_bos=False),
        graph=export_graph(architecture, out=out / "graph"),
        weights=out / "weights.safetensors",
    )
