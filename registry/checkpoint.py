"""Checkpoints: immutable weights, configuration and tokenizer in the Hugging Face layout.

`registry/intake.py` reads and checks a directory; `registry/mlflow.py` registers it as a model version. This
module holds the value that every later step receives.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from registry.digest import Digest
from registry.value import Value

MAX_FILE_BYTES: Final = 1 << 50
_MAX_PATH: Final = 1024
_MAX_NAME: Final = 255
"""Bytes of one component that every common file system accepts."""


def check_path(path: str) -> str:
    """The path itself, if it is a relative POSIX path that stays inside its tree on every system.

    Raises:
        ValueError: It is absolute, has a component that is empty, `.`, `..` or too long, a backslash, or a
            character that does not print (a NUL, a line feed, one that changes the direction of writing).
    """
    names = path.split("/")
    if len(path) > _MAX_PATH or any(name in ("", ".", "..") for name in names):
        raise ValueError("is not a relative path inside the tree")
    if not path.isprintable() or "\\" in path or path.startswith("~"):
        raise ValueError("has a character that a file name must not have")
    if any(len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME for name in names):
        raise ValueError(f"has a name of more than {_MAX_NAME} bytes")
    return path


FilePath = Annotated[str, AfterValidator(check_path)]
"""Relative POSIX path inside a tree."""
FileSize = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class FileEntry(Value):
    """One file of a checkpoint, variant or artifact, by content."""

    path: FilePath
    """Relative POSIX path inside the tree."""
    digest: Digest
    size_bytes: FileSize


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
