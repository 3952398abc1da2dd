"""Checkpoints: immutable weights, configuration and tokenizer in the Hugging Face layout.

`registry/intake.py` reads and checks a directory; `registry/mlflow.py` registers it as a model version. This
module holds the value that every later step receives.
"""

from __future__ import annotations

from registry.digest import Digest
from registry.value import Value


class FileEntry(Value):
    """One file of a checkpoint, variant or artifact, by content."""

    path: str
    """Relative POSIX path inside the tree."""
    digest: Digest
    size_bytes: int


class Checkpoint(Value):
    """A registered model version and its contents."""

    name: str
    """MLflow registered model name."""
    version: str
    """MLflow model version, a decimal number."""
    digest: Digest
    """Digest of the tree of `files`."""
    files: tuple[FileEntry, ...]
    """Sorted by path."""
    family: str
    """The model family that the checkpoint belongs to."""
    architecture: str
    """First entry of the configuration's `architectures`: `LlamaForCausalLM` …"""
    parameters: int
    """Number of parameters in the weight files; tied weights count once."""
    licence: str
    """SPDX identifier, or `unknown`."""
    add_bos: bool
    """Whether the tokenizer puts BOS before a prompt; given to every backend explicitly."""
    parent: str | None = None
    """`name/version` of the checkpoint that this one was distilled or tuned from."""

    @property
    def ref(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"
