"""Build a small checkpoint with a recipe and print the parity of each toolchain, as JSON.

    python -m tests.compilers.recipe_parity RECIPE FOLDER TOOLCHAIN [TOOLCHAIN …]

A program of its own, so that a test can run it on another tree.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from compilers.check.probe import make_probe
from compilers.quantize.canonical import dequantized_state
from tests.checkpoints import make_checkpoint
from tests.compilers.conftest import Built
from tests.compilers.references import references_of

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "spread": 2.0}


def main(recipe: str, folder: Path, *toolchains: str) -> None:
    """Print, for each toolchain, whether the bound holds and why, and what quantization did."""
    checkpoint = make_checkpoint(folder / "checkpoint", architecture="LlamaForCausalLM", **SHAPE)
    draw = np.random.default_rng(0)
    calibration = [[int(token) for token in draw.integers(0, 300, 64)] for _ in range(8)]
    found = {}
    for toolchain in toolchains:
        out = folder / toolchain
        out.mkdir()
        built = Built(checkpoint, out, recipe=recipe, toolchain=toolchain, calibration=calibration)
        probe = make_probe(calibration, vocab_size=300, max_context=128)
        weights = dequantized_state(built.weights, built.recipe)
        references = references_of(checkpoint, probe, weights=weights)
        parity = references.parity(built.load(), recipe=built.recipe, toolchain=toolchain)
        found[toolchain] = {
            "within": parity.within,
            "reason": parity.reason,
            "kl": parity.kl,
            "error": built.report.errors["lm_head.weight"],
        }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
