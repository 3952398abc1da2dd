"""Outlier channels, planted in a checkpoint's norms as trained models have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def plant_outliers(checkpoint: Path, weights: Mapping[str, Mapping[int, float]]) -> None:
    """Replace elements of vectors: name in the state dict → index → value."""
    from safetensors.torch import load_file, save_file

    file = checkpoint / "model.safetensors"
    state = load_file(file)
    for name, values in weights.items():
        for index, value in values.items():
            state[name][index] = value
    save_file(state, file, metadata={"format": "pt"})
