"""Signed documents: one JSON document and the signature over it, written whole, and read only once verified.

Releases and kits are directories of the two files; an evidence file and a revocation list hold both in one
file, `{KEY: {…}, "signature": {…}}`, which is replaced whole. The signature is an OpenSSF
model-signing bundle (`registry/signing.py`) over a directory with the document alone, so that the
`model-signing` package verifies it as well.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.atomic import temporary_directory, write_atomically
from registry.digest import canonical_json
from registry.errors import NotFoundError, SignatureError
from registry.signing import sign, verify


@dataclass(frozen=True, slots=True)
class SignedNames:
    """What the files of a kind of document are called."""

    kind: str
    """For messages: `release`."""
    document: str
    signature: str
    obtain: str
    """How to get one, for hints."""


def write_signed(data: bytes, *, directory: Path, names: SignedNames, private_key: Path) -> None:
    """Write and sign a document into a new directory; it is there whole or not at all.

    Raises:
        ConfigurationError: The key cannot sign.
        StorageFullError: No space is left.
        RegistryError: The directory cannot be written, or is not empty.
    """
    with temporary_directory(directory) as draft:
        write_atomically(draft / names.document, data)
        sign(draft, signature=draft / names.signature, private_key=private_key)
        draft.chmod(0o755)


def read_signed(directory: Path, *, names: SignedNames, public_key: Path) -> bytes:
    """The bytes of a directory's document, after its signature has been verified.

    Raises:
        NotFoundError: There is none.
        SignatureError: The signature is missing, of another key, or over other bytes.
    """
    path, signature = directory / names.document, directory / names.signature
    if not path.is_file():
        raise NotFoundError(f"no {names.kind} at `{directory}`", hint=names.obtain)
    if not signature.is_file():
        raise SignatureError(
            f"the {names.kind} at `{directory}` is not signed: `{names.signature}` is missing",
            hint=f"fetch the {names.kind} again; without its signature it is not trusted",
        )
    verify(directory, signature=signature, public_key=public_key)
    return path.read_bytes()


def write_signed_file(
    content: dict[str, Any],  # Any: JSON
    *,
    path: Path,
    key: str,
    private_key: Path,
) -> None:
    """Sign JSON and write it with its signature as one file, which replaces an earlier one whole.

    Args:
        content: What to sign.
        path: The file.
        key: Its key in the file, and with `.json` the name that is signed.
        private_key: PEM file.

    Raises:
        ConfigurationError: The key cannot sign.
        StorageFullError: No space is left.
    """
    data = canonical_json(content)
    signature = sign_bytes(data, name=f"{key}.json", private_key=private_key)
    document = {key: json.loads(data), "signature": json.loads(signature)}
    write_atomically(path, json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n")


def read_signed_file(data: bytes, *, where: str, key: str, public_key: Path) -> dict[str, Any]:  # Any: JSON
    """The JSON in the bytes of such a file, after its signature has been verified.

    Raises:
        SignatureError: It is not such a file, or is not signed with the key over this content.
    """
    try:
        document = json.loads(data)
        content, signature = document[key], document["signature"]
        signed, bundle = canonical_json(content), canonical_json(signature)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise SignatureError(
            f"`{where}` is not a signed file of `{key}`", hint="fetch it again from its publisher"
        ) from error
    if not isinstance(content, dict):
        raise SignatureError(f"`{where}` holds no `{key}`", hint="fetch it again from its publisher")
    try:
        verify_bytes(signed, name=f"{key}.json", signature=bundle, public_key=public_key)
    except SignatureError as error:
        raise SignatureError(f"`{where}`: {error.message}", hint=error.hint) from error
    return content


def sign_bytes(data: bytes, *, name: str, private_key: Path) -> bytes:
    """The signature over a file of a name and content.

    Raises:
        ConfigurationError: The key cannot sign.
    """
    with tempfile.TemporaryDirectory(prefix="rung-signed-") as scratch:
        signature = Path(scratch) / "signature"
        sign(_only_file(Path(scratch), name, data), signature=signature, private_key=private_key)
        return signature.read_bytes()


def verify_bytes(data: bytes, *, name: str, signature: bytes, public_key: Path) -> None:
    """Verify a signature over a file of a name and content.

    Raises:
        SignatureError: It is not of this key, or not over this content.
    """
    with tempfile.TemporaryDirectory(prefix="rung-signed-") as scratch:
        path = Path(scratch) / "signature"
        path.write_bytes(signature)
        directory = _only_file(Path(scratch), name, data)
        try:
            verify(directory, signature=path, public_key=public_key)
        except SignatureError as error:
            message = error.message.splitlines()[0].replace(f"{scratch}/", "")
            raise SignatureError(message, hint=error.hint) from error


def _only_file(scratch: Path, name: str, data: bytes) -> Path:
    directory = scratch / "signed"
    directory.mkdir()
    (directory / name).write_bytes(data)
    return directory
