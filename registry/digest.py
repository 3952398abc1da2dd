"""Content digests: of bytes, files, values and trees.

A digest is the string `sha256:` followed by 64 lower-case hexadecimal digits, the form of the OCI image
specification (https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, StringConstraints

CHUNK_BYTES = 1 << 20
PATTERN = re.compile(r"^sha256:[0-9a-f]{64}$")

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def digest_bytes(data: bytes) -> str:
    """The digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's content, read in chunks of 1 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            state.update(chunk)
    return "sha256:" + state.hexdigest()


def canonical_json(value: object) -> bytes:
    """`value` as JSON with sorted keys, no white space and UTF-8: equal values give equal bytes.

    Raises:
        ValueError: `value` holds NaN or infinity, which JSON cannot represent.
        TypeError: `value` holds something that JSON cannot represent.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    ).encode()


def digest_value(value: object) -> str:
    """The digest of a value's canonical JSON."""
    return digest_bytes(canonical_json(value))


def digest_tree(files: Mapping[str, str]) -> str:
    """The digest of a tree of files, independent of their order.

    Args:
        files: Relative POSIX path → digest of the file's content.
    """
    return digest_value(dict(files))


def short(digest: str) -> str:
    """The first 12 hexadecimal digits, for display."""
    return digest.removeprefix("sha256:")[:12]


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"no canonical JSON form for {type(value).__name__}")
