"""Finished layers of a quantization on disk, so that one which was killed goes on where it was.

One file per layer: a line with the digest of the rest, then codes and scales in safetensors. It appears whole
or not at all. What is damaged, or of other matrices, texts or forms, is not used, and computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from compilers.quantize.coded import Coded
from registry.atomic import write_atomically
from registry.digest import Digest, digest_bytes


@dataclass(frozen=True, slots=True)
class SavedLayers:
    """The layers of one quantization that are finished."""

    directory: Path | None
    """Where they are; None: nowhere, each quantization starts at its first layer."""
    binding: Digest
    """Digest of what the codes depend on; layers that were saved under another one are not used."""

    def read(self, index: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Coded] | None:
        """Codes of the matrices of a layer, by name; None where it is not finished, or cannot be used."""
        if self.directory is None:
            return None
        try:
            digest, _, content = self._path(self.directory, index).read_bytes().partition(b"\n")
        except OSError:
            return None
        if digest != digest_bytes(self.binding.encode() + content).encode():
            return None
        try:
            tensors = load(content)
        except SafetensorError:
            return None
        found: dict[str, Coded] = {}
        for name, shape in shapes.items():
            codes, scales = tensors.get(f"{name}.codes"), tensors.get(f"{name}.scales")
            if codes is None or scales is None or tuple(codes.shape) != shape:
                return None
            found[name] = Coded(codes=codes.to(torch.int16), scales=scales)
        return found

    def write(self, index: int, layer: Mapping[str, Coded]) -> None:
        """Keep a layer.

        Raises:
            StorageFullError: No space left.
            RegistryError: The directory cannot be written to.
        """
        if self.directory is None:
            return
        tensors = {f"{name}.codes": coded.codes.to(torch.int8) for name, coded in layer.items()}
        tensors |= {f"{name}.scales": coded.scales for name, coded in layer.items()}
        content = save(tensors)
        digest = digest_bytes(self.binding.encode() + content)
        write_atomically(self._path(self.directory, index), digest.encode() + b"\n" + content)

    def _path(self, directory: Path, index: int) -> Path:
        return directory / f"layer-{index:04d}"
