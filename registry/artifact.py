"""Artifacts: content-addressed bundles of files, and the manifest that describes one.

A bundle on disk is a directory with `manifest.json` and exactly the files that the manifest lists. The
artifact's digest is the digest of its manifest's canonical JSON, and the manifest holds each file's digest.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from registry.checkpoint import FileEntry
from registry.digest import Digest, digest_value
from registry.value import Value

SCHEMA_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"

ArtifactFormat = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]
"""Where toolchains and runtimes meet, such as `tvm`; which formats there are, `compilers/backend.py` says."""


class ModelFacts(Value):
    """What a runtime and a server must know of the model, without its framework."""

    architecture: str
    """`LlamaForCausalLM` …"""
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    max_context: int
    """Positions that the checkpoint was made for, in tokens."""
    sliding_window: int | None = None
    """Keys that a query sees, in tokens, itself included; None: all."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    add_bos: bool


class Manifest(Value):
    """The description of an artifact."""

    schema_version: Literal[1] = SCHEMA_VERSION
    build_key: Digest
    """Hash of checkpoint digest, recipe, target, toolchain, its version and its options."""
    format: ArtifactFormat
    toolchain: str
    toolchain_version: str
    target: str
    checkpoint: str
    """`name/version`."""
    checkpoint_digest: Digest
    family: str
    licence: str
    recipe: str
    facts: ModelFacts
    files: tuple[FileEntry, ...]
    """Sorted by path: compiled code, `weights.safetensors`, tokenizer files."""
    entry: str
    """Path of the file that the runtime opens first."""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """What the runtime must be told to run it as it was evaluated; keys are the format's own."""
    memory_bytes: int
    """Estimate of resident memory to load it, without KV cache."""
    kv_bytes_per_token: int
    """KV cache of one token over all layers."""

    @property
    def digest(self) -> str:
        """The artifact's digest."""
        return digest_value(self)

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)
