from __future__ import annotations

import base64
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from registry.errors import ConfigurationError, SignatureError
from registry.signing import generate_keys, sign, verify


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    generate_keys(tmp_path / "keys/a.key", tmp_path / "keys/a.pub")
    return tmp_path / "keys/a.key", tmp_path / "keys/a.pub"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "a").mkdir(parents=True)
    for name in ("a/x", "a-b", "a.txt", "release.json"):
        (root / name).write_text(name)
    return root


def test_what_was_signed_verifies_with_the_signature_inside_or_outside(keys, tree, tmp_path):
    for signature in (tree / "release.sig", tmp_path / "outside.sig"):
        sign(tree, signature=signature, private_key=keys[0])
        verify(tree, signature=signature, public_key=keys[1])
        signature.unlink()


def test_the_private_key_is_readable_by_its_owner_alone_and_keys_stay(keys):
    before = [key.read_bytes() for key in keys]
    assert keys[0].stat().st_mode & 0o777 == 0o600
    generate_keys(*keys)
    assert [key.read_bytes() for key in keys] == before
    keys[1].unlink()
    generate_keys(*keys)
    assert [key.read_bytes() for key in keys] == before
    assert sorted(path.name for path in keys[0].parent.iterdir()) == ["a.key", "a.pub"]


def test_the_copy_of_a_key_that_a_killed_process_left_is_removed(tmp_path):
    private, public = tmp_path / "a.key", tmp_path / "a.pub"
    generate_keys(private, public)
    left = tmp_path / ".a.key.0123456789abcdef0123456789abcdef.partial"
    left.hardlink_to(private)
    generate_keys(private, public)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.key", "a.pub"]


def test_no_private_key_is_made_beside_somebody_elses_public_key(keys, tmp_path):
    generate_keys(tmp_path / "other.key", keys[1])
    assert not (tmp_path / "other.key").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "a/x").write_text("evil"), "changed `a/x`"),
        (lambda root: (root / "new").write_text("new"), "added `new`"),
        (lambda root: (root / "a-b").unlink(), "removed `a-b`"),
        (lambda root: (root / "a-b").rename(root / "c"), "added `c`; removed `a-b`"),
    ],
)
def test_a_file_that_differs_is_named(keys, tree, change, said):
    sign(tree, signature=tree / "release.sig", private_key=keys[0])
    change(tree)
    with pytest.raises(SignatureError, match=said) as caught:
        verify(tree, signature=tree / "release.sig", public_key=keys[1])
    assert caught.value.exit_code == 8
    assert caught.value.hint


def test_of_many_files_that_differ_some_are_named_and_the_others_counted(keys, tree):
    sign(tree, signature=tree / "release.sig", private_key=keys[0])
    for number in range(8):
        (tree / f"new-{number}").write_text("new")
    with pytest.raises(SignatureError, match="`new-3`, `new-4` and 3 more") as caught:
        verify(tree, signature=tree / "release.sig", public_key=keys[1])
    assert "new-5" not in caught.value.message


def test_a_link_cannot_stand_for_a_file(keys, tree, tmp_path):
    sign(tree, signature=tree / "release.sig", private_key=keys[0])
    (tree / "a.txt").rename(tmp_path / "a.txt")
    (tree / "a.txt").symlink_to(tmp_path / "a.txt")
    with pytest.raises(SignatureError, match="link"):
        verify(tree, signature=tree / "release.sig", public_key=keys[1])


def test_another_key_is_said(keys, tree, tmp_path):
    generate_keys(tmp_path / "b.key", tmp_path / "b.pub")
    sign(tree, signature=tree / "release.sig", private_key=keys[0])
    with pytest.raises(SignatureError, match="made with another key"):
        verify(tree, signature=tree / "release.sig", public_key=tmp_path / "b.pub")


def test_a_forged_hint_does_not_help_another_key(keys, tree, tmp_path):
    generate_keys(tmp_path / "b.key", tmp_path / "b.pub")
    signature = tree / "release.sig"
    sign(tree, signature=signature, private_key=tmp_path / "b.key")
    forged = json.loads(signature.read_bytes())
    for hint in ("", None):
        forged["verificationMaterial"]["publicKey"]["hint"] = hint
        signature.write_text(json.dumps(forged))
        with pytest.raises(SignatureError, match="does not verify"):
            verify(tree, signature=signature, public_key=keys[1])


def _edit(bundle: dict, **changes: object) -> dict:
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])) | changes
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return bundle


@pytest.mark.parametrize(
    "damage",
    [
        lambda bundle: "",
        lambda bundle: "not json",
        lambda bundle: "[]",
        lambda bundle: "{}",
        lambda bundle: json.dumps({**bundle, "dsseEnvelope": {}}),
        lambda bundle: json.dumps({**bundle, "dsseEnvelope": None}),
        lambda bundle: json.dumps({**bundle, "mediaType": "other"}),
        lambda bundle: json.dumps({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": []}}),
        lambda bundle: json.dumps({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "payload": "§"}}),
        lambda bundle: json.dumps(_edit(bundle, subject=[])),
        lambda bundle: json.dumps(_edit(bundle, predicate={"serialization": {}, "resources": []})),
    ],
)
def test_garbage_is_no_signature(keys, tree, damage):
    signature = tree / "release.sig"
    sign(tree, signature=signature, private_key=keys[0])
    signature.write_text(damage(json.loads(signature.read_bytes())))
    with pytest.raises(SignatureError, match=r"release\.sig"):
        verify(tree, signature=signature, public_key=keys[1])


def test_a_missing_signature_directory_or_file_is_said(keys, tree, tmp_path):
    with pytest.raises(SignatureError, match="cannot read signature"):
        verify(tree, signature=tree / "none.sig", public_key=keys[1])
    with pytest.raises(SignatureError, match="no directory"):
        sign(tmp_path / "none", signature=tmp_path / "s", private_key=keys[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SignatureError, match="no file to sign"):
        sign(tmp_path / "empty", signature=tmp_path / "s", private_key=keys[0])


def test_keys_that_cannot_be_used_are_named(tree, tmp_path, keys):
    edwards = ed25519.Ed25519PrivateKey.generate()
    weak = ec.generate_private_key(ec.SECP256K1())
    private = [
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for key in (edwards, weak)
    ]
    for content in (None, b"", b"garbage", keys[1].read_bytes(), *private):
        path = tmp_path / "bad.key"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"bad\.key|secp256k1"):
            sign(tree, signature=tree / "s", private_key=path)
    with pytest.raises(ConfigurationError, match=r"a\.key"):
        verify(tree, signature=tree / "s", public_key=keys[0])


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda one: one.name)
def test_signatures_are_those_of_the_model_signing_package_both_ways(tree, tmp_path, curve):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn of their own future on import
        from model_signing import signing, verifying
    key = ec.generate_private_key(curve)
    private, public = tmp_path / "k", tmp_path / "k.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    generate_keys(private, public)
    sign(tree, signature=tree / "release.sig", private_key=private)
    theirs = verifying.Config().use_elliptic_key_verifier(public_key=public)
    theirs.verify(tree, tree / "release.sig")
    (tree / "release.sig").unlink()
    signing.Config().use_elliptic_key_signer(private_key=private).sign(tree, tmp_path / "theirs.sig")
    verify(tree, signature=tmp_path / "theirs.sig", public_key=public)
    (tree / "a/x").write_text("evil")
    with pytest.raises(SignatureError, match="changed `a/x`"):
        verify(tree, signature=tmp_path / "theirs.sig", public_key=public)


def test_verifying_imports_nothing_that_speaks_to_a_network(keys, tree):
    sign(tree, signature=tree / "release.sig", private_key=keys[0])
    heavy = ("sigstore", "requests", "model_signing", "urllib3", "http.client")
    code = "import sys; from pathlib import Path; from registry.signing import verify\n"
    code += "tree, key = map(Path, sys.argv[1:])\n"
    code += "verify(tree, signature=tree / 'release.sig', public_key=key)\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tree), str(keys[1])]
    assert subprocess.check_output(command, cwd=root, text=True).strip() == "[]"
