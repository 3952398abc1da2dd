"""Artifacts: content-addressed bundles of files, and the manifest that describes one.

A bundle on disk is a directory with `manifest.json` and exactly the files that the manifest lists. The
artifact's digest is the digest of its manifest's canonical JSON, and the manifest holds each file's digest.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from registry.checkpoint import FileEntry, FilePath, FileSize
from registry.digest import Digest, digest_value
from registry.errors import CorruptError
from registry.value import Value

SCHEMA_VERSION: Final = 1
MANIFEST_NAME = "manifest.json"

ArtifactFormat = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)]
"""Where toolchains and runtimes meet, such as `tvm`; which formats there are, `compilers/backend.py` says."""

KEPT_SHARE: Final = 16
"""Finished sequences are kept for reuse in this part of what the artifact itself takes."""
MAX_FILES: Final = 4096
MAX_OPTIONS: Final = 256
_Count = Annotated[int, Field(ge=1, le=1 << 24)]
"""Of rows, columns, heads or layers; the largest models have some 300,000 tokens in their vocabulary."""
_Tokens = Annotated[int, Field(ge=1, le=1 << 30)]
_TokenId = Annotated[int, Field(ge=0, le=1 << 24)]
_Name = Annotated[str, Field(max_length=512)]
_Option = Annotated[str, Field(max_length=1 << 16)] | int | float | bool


class ModelFacts(Value):
    """What a runtime and a server must know of the model, without its framework."""

    architecture: _Name
    """`LlamaForCausalLM` …"""
    vocab_size: _Count
    hidden_size: _Count
    layers: _Count
    heads: _Count
    kv_heads: _Count
    head_size: _Count
    max_context: _Tokens
    """Positions that the checkpoint was made for, in tokens."""
    sliding_window: _Tokens | None = None
    """Keys that a query sees, in tokens, itself included; None: all."""
    bos_token_id: _TokenId | None = None
    eos_token_ids: tuple[_TokenId, ...] = Field(default=(), max_length=256)
    add_bos: bool


class Manifest(Value):
    """The description of an artifact."""

    schema_version: Literal[1] = SCHEMA_VERSION
    build_key: Digest
    """Hash of checkpoint digest, recipe, target, toolchain, its version and its options."""
    format: ArtifactFormat
    toolchain: _Name
    toolchain_version: _Name
    target: _Name
    checkpoint: _Name
    """`name/version`."""
    checkpoint_digest: Digest
    family: _Name
    licence: _Name
    recipe: _Name
    left_in_float: tuple[_Name, ...] = Field(default=(), max_length=MAX_FILES)
    """Matrices that the recipe, an integer one, leaves in float, by their names in the state dict, sorted."""
    wide_inputs: tuple[_Name, ...] = Field(default=(), max_length=MAX_FILES)
    """Quantized matrices whose inputs have outliers and are not rounded to 8 bits, by their names, sorted."""
    facts: ModelFacts
    files: tuple[FileEntry, ...] = Field(max_length=MAX_FILES)
    """Sorted by path: compiled code, `weights.safetensors`, tokenizer files."""
    entry: FilePath
    """Path of the file that the runtime opens first; one of `files`."""
    options: dict[_Name, _Option] = Field(default_factory=dict, max_length=MAX_OPTIONS)
    """What the runtime must be told to run it as it was evaluated; keys are the format's own."""
    memory_bytes: FileSize
    """Estimate of resident memory to load it, without KV cache."""
    kv_bytes_per_token: FileSize
    """KV cache of one token over all layers."""

    @model_serializer(mode="wrap")
    def _as_it_always_was(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Without a later addition that is empty, so that the digest of an earlier manifest stays."""
        document: dict[str, object] = write(self)
        for name in ("left_in_float", "wide_inputs"):
            if not document.get(name):
                document.pop(name, None)
        return document

    @model_validator(mode="after")
    def _gives_each_file_its_place(self) -> Self:
        paths = {file.path for file in self.files}
        if len(paths) != len(self.files):
            raise ValueError("files has one path twice")
        if MANIFEST_NAME in paths:
            raise ValueError(f"files has `{MANIFEST_NAME}`, which is the manifest's own place")
        for path in paths:
            inside = next((str(one) for one in PurePosixPath(path).parents if str(one) in paths), None)
            if inside is not None:
                raise ValueError(f"files has `{path}` and also `{inside}`, which would be its directory")
        return self

    @property
    def kept_tokens(self) -> int:
        """Tokens of finished sequences that a server keeps for prompts that begin alike."""
        return self.memory_bytes // KEPT_SHARE // max(1, self.kv_bytes_per_token)

    def serving_memory_bytes(self, *, callers: int, tokens: int) -> int:
        """Memory that a server of it takes at its peak, but for what it keeps of finished sequences.

        Args:
            callers: Sequences that run together.
            tokens: Of each, prompt and answer together.
        """
        return self.memory_bytes + callers * tokens * self.kv_bytes_per_token

    def check_entry(self) -> None:
        """Check that the runtime would open one of the artifact's own files, whose digest is known.

        Raises:
            CorruptError: It would open another.
        """
        if all(file.path != self.entry for file in self.files):
            raise CorruptError(
                f"the entry `{self.entry}` of {self.checkpoint} ({self.recipe}, {self.target}) is not one of "
                "its files",
                hint="do not use this manifest; build the artifact again, or pull it from its publisher",
            )

    @property
    def digest(self) -> str:
        """The artifact's digest."""
        return digest_value(self)

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)
