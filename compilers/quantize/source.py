"""The float tensors of a checkpoint directory, read one at a time from its safetensors shards.

The entry of quantization. Names and shapes are checked against the architecture before anything is read, so
that a checkpoint which does not fit is refused by the name of the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from compilers.model.architecture import Architecture, Shape
from compilers.model.tensor_check import check_tensors
from registry.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class CheckpointTensors:
    """The tensors that an architecture expects, as float32.

    Args:
        directory: A checkpoint in the Hugging Face layout.
        architecture: Says which names and shapes there must be.

    Raises:
        CheckpointError: No safetensors; a shard that cannot be read; a tensor that is missing, unexpected, of
            another shape, or not of floating-point type.
    """

    def __init__(self, directory: Path, architecture: Architecture) -> None:
        self.directory = directory
        self._files = _locate(directory)
        self._check(architecture)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, float32.

        Raises:
            CheckpointError: It holds NaN or infinity.
        """
        with _open(self.directory / self._files[name]) as shard:
            tensor: torch.Tensor = shard.get_tensor(name).to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"`{self.directory}`: tensor `{name}` holds NaN or infinity",
                hint="the file is damaged or training diverged; take the checkpoint from its source again",
            )
        return tensor

    def _check(self, architecture: Architecture) -> None:
        found: dict[str, tuple[str, Shape]] = {}
        for file in sorted(set(self._files.values())):
            with _open(self.directory / file) as shard:
                for name in shard.keys():  # noqa: SIM118  # safe_open is no mapping
                    part = shard.get_slice(name)
                    found[name] = (part.get_dtype(), tuple(part.get_shape()))
                    self._files.setdefault(name, file)
        check_tensors(found, architecture, where=str(self.directory))
        if architecture.tie_embeddings and "lm_head.weight" in found:
            self._check_tied()

    def _check_tied(self) -> None:
        if not torch.equal(self.read("lm_head.weight"), self.read("model.embed_tokens.weight")):
            raise self._wrong(
                "lm_head.weight", "differs from the embedding that `tie_word_embeddings` ties it to"
            )

    def _wrong(self, name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"`{self.directory}`: tensor `{name}` {why}",
            hint="config.json and the weights must be of the same checkpoint",
        )


def _locate(directory: Path) -> dict[str, str]:
    """Tensor name → file; for a single file only the file, under the name ``."""
    index = directory / INDEX
    if not index.exists():
        if not (directory / SINGLE).exists():
            raise CheckpointError(
                f"`{directory}` holds neither `{SINGLE}` nor `{INDEX}`",
                hint="weights must be in safetensors; pickled ones are not read",
            )
        return {"": SINGLE}
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"`{index}` is not a safetensors index: {error}", hint="take the checkpoint from its source again"
        ) from error
    if not isinstance(places, Mapping) or not all(Path(str(file)).name == file for file in places.values()):
        raise CheckpointError(
            f"`{index}`: `weight_map` does not map tensors to files beside it",
            hint="take the checkpoint from its source again",
        )
    return dict(places)


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read as safetensors: {error}",
            hint="the file is missing or truncated; take the checkpoint from its source again",
        ) from error
