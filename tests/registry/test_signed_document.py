from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import NotFoundError, RegistryError, SignatureError
from registry.signed_document import SignedNames, read_signed, sign_bytes, verify_bytes, write_signed
from registry.signing import generate_keys

NAMES = SignedNames(kind="note", document="note.json", signature="note.sig", obtain="write one")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    generate_keys(tmp_path / "key", tmp_path / "key.pub")
    return tmp_path / "key", tmp_path / "key.pub"


def test_a_directory_is_read_back_as_it_was_written(tmp_path: Path, keys: tuple[Path, Path]):
    write_signed(b"{}", directory=tmp_path / "note", names=NAMES, private_key=keys[0])
    assert read_signed(tmp_path / "note", names=NAMES, public_key=keys[1]) == b"{}"
    with pytest.raises(RegistryError):
        write_signed(b"[]", directory=tmp_path / "note", names=NAMES, private_key=keys[0])


def test_what_is_missing_changed_or_unsigned_is_refused(tmp_path: Path, keys: tuple[Path, Path]):
    note = tmp_path / "note"
    with pytest.raises(NotFoundError, match="no note at") as caught:
        read_signed(note, names=NAMES, public_key=keys[1])
    assert caught.value.hint == "write one"
    write_signed(b"{}", directory=note, names=NAMES, private_key=keys[0])
    (note / "note.json").write_bytes(b"{ }")
    with pytest.raises(SignatureError, match="changed"):
        read_signed(note, names=NAMES, public_key=keys[1])
    (note / "note.sig").unlink()
    with pytest.raises(SignatureError, match=r"is not signed: `note\.sig` is missing"):
        read_signed(note, names=NAMES, public_key=keys[1])


def test_a_signature_over_bytes_holds_for_that_name_and_content_alone(keys: tuple[Path, Path]):
    signature = sign_bytes(b"{}", name="note.json", private_key=keys[0])
    verify_bytes(b"{}", name="note.json", signature=signature, public_key=keys[1])
    for name, data in (("note.json", b"{ }"), ("other.json", b"{}")):
        with pytest.raises(SignatureError) as caught:
            verify_bytes(data, name=name, signature=signature, public_key=keys[1])
        assert "rung-signed-" not in caught.value.message
