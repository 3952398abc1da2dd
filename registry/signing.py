"""Signatures over directories, in the OpenSSF model-signing format, with elliptic-curve key files.

A signature is a Sigstore bundle (v0.3) around a DSSE envelope around an in-toto statement that lists every
file with its SHA-256. `model_signing verify key` of the `model-signing` package verifies what `sign` makes,
and `verify` accepts what that package signs with a key; the tests check both.

The format is implemented here on top of `cryptography` alone, because importing `model_signing` 1.1.1 takes
1.1 s and pulls in the keyless half (HTTP, TUF, OpenID), which a serving node neither needs nor should carry.
Nothing here uses a network.

Sources: https://github.com/sigstore/model-transparency (`model_signing/_signing`),
https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md,
https://github.com/in-toto/attestation/tree/main/spec/v1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.atomic import (
    flush,
    storage_errors,
    sweep,
    sync_directory,
    temporary_file,
    write_atomically,
)
from registry.digest import canonical_json, digest_file
from registry.errors import ConfigurationError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
        EllipticCurveSignatureAlgorithm,
    )

BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
_RESIGN = "sign it again with the key that you trust, or fetch it again from its publisher"
_LISTED = 5


def generate_keys(private: Path, public: Path) -> None:
    """Create a key pair (NIST P-256, PEM) unless one exists; only its owner can read the private key.

    An existing pair is kept. A missing public key is derived from the private one; a public key alone belongs
    to someone else, and no private key is created for it.

    Raises:
        ConfigurationError: The existing private key cannot be read.
        StorageFullError: No space left.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if public.exists() and not private.exists():
        return
    with storage_errors(private):
        private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        public.parent.mkdir(parents=True, exist_ok=True)
        sweep(
            private.parent, name=private.name
        )  # of one killed after the key had its name: a copy of the key
    if not private.exists():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_new(private, pem)
    if not public.exists():
        write_atomically(public, _public_pem(_private_key(private).public_key()))


def fingerprint(public_key: Path) -> str:
    """The digest of a public key, by which signatures name it; the same for every form of its file.

    Raises:
        ConfigurationError: The key cannot be used.
    """
    return "sha256:" + _key_hint(_public_key(public_key))


def signer(bundle: Mapping[str, Any]) -> str | None:  # Any: JSON
    """The fingerprint of the key that a signature's JSON says it was made with; not verified."""
    material = bundle.get("verificationMaterial")
    key = material.get("publicKey") if isinstance(material, dict) else None
    hint = key.get("hint") if isinstance(key, dict) else None
    return f"sha256:{hint}" if isinstance(hint, str) and hint else None


def sign(directory: Path, *, signature: Path, private_key: Path) -> None:
    """Sign every file below `directory`, except the signature itself.

    Args:
        directory: What to sign.
        signature: File to write, inside or outside `directory`.
        private_key: PEM file of an elliptic-curve key.

    Raises:
        SignatureError: `directory` is missing, empty or holds something that cannot be signed.
        ConfigurationError: The key cannot be used.
        StorageFullError: No space left; an earlier signature is kept.
    """
    key = _private_key(private_key)
    ignored = _ignored(directory, signature=signature)
    files = _hash_files(directory, ignored=ignored)
    if not files:
        raise SignatureError(f"there is no file to sign in `{directory}`", hint="check the path")
    payload = canonical_json(_statement(directory.resolve().name, files=files, ignored=ignored))
    public = key.public_key()
    envelope = {
        "payload": _base64(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": _base64(key.sign(_encoded(payload), _algorithm(public))), "keyid": ""}],
    }
    material = {"publicKey": {"hint": _key_hint(public)}, "tlogEntries": []}
    bundle = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    write_atomically(signature, canonical_json(bundle))


def verify(directory: Path, *, signature: Path, public_key: Path) -> None:
    """Check that `directory` holds exactly the files that were signed with a trusted key.

    Raises:
        SignatureError: The signature is missing, is no signature, is of another key, or a file was changed,
        added
            or removed; the message names what differs.
        ConfigurationError: The public key cannot be used.
    """
    statement = _verified_statement(signature, public_key=public_key)
    try:
        signed, ignored = _signed_files(statement)
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError(
            f"signature `{signature}` is not over a list of files: {error}", hint=_RESIGN
        ) from error
    found = _hash_files(directory, ignored={*ignored, *_ignored(directory, signature=signature)})
    differences = _differences(signed, found)
    if differences:
        raise SignatureError(
            f"`{directory}` is not what was signed in `{signature}`: {'; '.join(differences)}", hint=_RESIGN
        )


def sign_message(data: bytes, *, purpose: str, private_key: Path) -> str:
    """The signature over a message, base64: for what is kept in rows of a database and not in files.

    Args:
        data: The message.
        purpose: What it is, part of what is signed: a signature for one purpose does not verify for another.
        private_key: PEM file of an elliptic-curve key.

    Raises:
        ConfigurationError: The key cannot be used.
    """
    key = _private_key(private_key)
    return _base64(key.sign(_encoded(data, kind=purpose), _algorithm(key.public_key())))


def verify_message(data: bytes, *, purpose: str, signature: str, public_key: Path) -> None:
    """Check what `sign_message` made.

    Raises:
        SignatureError: It is not a signature of this key over this message for this purpose.
        ConfigurationError: The key cannot be used.
    """
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public_key)
    try:
        key.verify(base64.b64decode(signature, validate=True), _encoded(data, kind=purpose), _algorithm(key))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"the signature of a {purpose} does not verify with `{public_key}`", hint=_RESIGN
        ) from error


def _verified_statement(signature: Path, *, public_key: Path) -> dict[str, Any]:  # Any: JSON
    """The in-toto statement; verifies its signature first."""
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public_key)
    bundle = _read_bundle(signature)
    try:
        material, envelope = bundle["verificationMaterial"], bundle["dsseEnvelope"]
        hint = material["publicKey"].get("hint")
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
        payload_type = envelope["payloadType"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SignatureError(f"`{signature}` is not a signature by key: {error}", hint=_RESIGN) from error
    if hint and hint != _key_hint(key):
        raise SignatureError(
            f"`{signature}` was made with another key than `{public_key}`",
            hint="give the public key of whoever signed it, if you trust them",
        )
    if bundle.get("mediaType") != BUNDLE_TYPE or payload_type != PAYLOAD_TYPE or len(signatures) != 1:
        raise SignatureError(f"`{signature}` is not one model signature in a v0.3 bundle", hint=_RESIGN)
    try:
        key.verify(signatures[0], _encoded(payload), _algorithm(key))
        statement = json.loads(payload)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"the signature in `{signature}` does not verify with `{public_key}`", hint=_RESIGN
        ) from error
    return dict(statement)


def _signed_files(statement: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:  # Any: JSON
    """Path → digest of the signed files, and the paths that were left out.

    Raises:
        KeyError, TypeError, ValueError: It is another kind of statement.
    """
    if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise ValueError(f"it is a `{statement['predicateType']}`")
    how = statement["predicate"]["serialization"]
    if (how["method"], how["hash_type"]) != ("files", "sha256"):
        raise ValueError(
            f"files are hashed by {how['hash_type']} over {how['method']}, not sha256 over files"
        )
    files: dict[str, str] = {}
    root = hashlib.sha256()
    for resource in statement["predicate"]["resources"]:
        if resource["algorithm"] != "sha256" or resource["name"] in files:
            raise ValueError(f"resource `{resource['name']}` is listed twice or not by sha256")
        files[resource["name"]] = f"sha256:{resource['digest']}"
        root.update(bytes.fromhex(resource["digest"]))
    if [subject["digest"]["sha256"] for subject in statement["subject"]] != [root.hexdigest()]:
        raise ValueError("its subject is not the digest of its files")
    return files, {str(path) for path in how.get("ignore_paths", ())}


def _statement(name: str, *, files: Mapping[str, str], ignored: set[str]) -> dict[str, object]:
    """The in-toto statement over files, as model-signing 1.x writes it."""
    digests = {path: digest.removeprefix("sha256:") for path, digest in files.items()}
    ordered = sorted(digests, key=lambda path: Path(path).parts)  # model-signing sorts by path components
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[path]) for path in ordered)).hexdigest()
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": sorted(ignored)}
    resources = [{"name": path, "algorithm": "sha256", "digest": digests[path]} for path in ordered]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": how, "resources": resources},
    }


def _hash_files(directory: Path, *, ignored: set[str]) -> dict[str, str]:
    """POSIX path → digest of every file below a directory.

    Raises:
        SignatureError: It is missing, or holds a link or a special file, whose content is elsewhere.
    """
    if not directory.is_dir():
        raise SignatureError(f"no directory at `{directory}`", hint="check the path")
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if any(name == one or name.startswith(f"{one}/") for one in ignored):
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise SignatureError(
                f"`{path}` is a link or a special file", hint="replace it with the file itself"
            )
        if path.is_file():
            files[name] = digest_file(path)
    return files


def _differences(signed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    changed = sorted(path for path in signed.keys() & found.keys() if signed[path] != found[path])
    kinds = {
        "changed": changed,
        "added": sorted(found.keys() - signed.keys()),
        "removed": sorted(signed.keys() - found.keys()),
    }
    return [f"{kind} {_listed(paths)}" for kind, paths in kinds.items() if paths]


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(f"`{path}`" for path in paths[:_LISTED]) + more


def _ignored(directory: Path, *, signature: Path) -> set[str]:
    """The signature's own path, where it lies inside the directory."""
    inside = signature.resolve().is_relative_to(directory.resolve())
    return {signature.resolve().relative_to(directory.resolve()).as_posix()} if inside else set()


def _read_bundle(signature: Path) -> dict[str, Any]:  # Any: JSON
    try:
        bundle = json.loads(signature.read_bytes())
    except OSError as error:
        raise SignatureError(
            f"cannot read signature `{signature}`: {error.strerror}", hint="fetch it with what it signs"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"`{signature}` is not a signature: it is not JSON", hint=_RESIGN) from error
    if not isinstance(bundle, dict):
        raise SignatureError(f"`{signature}` is not a signature: no JSON object", hint=_RESIGN)
    return bundle


def _private_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(path, error, kind="private") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _bad_key(path, "it is not an elliptic-curve key", kind="private")
    _algorithm(key.public_key())
    return key


def _public_key(path: Path) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key(path, error, kind="public") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _bad_key(path, "it is not an elliptic-curve key", kind="public")
    _algorithm(key)
    return key


def _bad_key(path: Path, error: object, *, kind: str) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0][:120]
    return ConfigurationError(
        f"cannot use {kind} key `{path}`: {reason}",
        hint="name a PEM file with a NIST P-256, P-384 or P-521 key in rung.toml; `rung init` makes a pair",
    )


def _algorithm(key: EllipticCurvePublicKey) -> EllipticCurveSignatureAlgorithm:
    """ECDSA with the hash that goes with a key's curve in Sigstore's specification."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    match key.curve.name:
        case "secp256r1":
            return ec.ECDSA(hashes.SHA256())
        case "secp384r1":
            return ec.ECDSA(hashes.SHA384())
        case "secp521r1":
            return ec.ECDSA(hashes.SHA512())
    raise ConfigurationError(
        f"a key on the curve {key.curve.name} cannot sign", hint="use a NIST P-256, P-384 or P-521 key"
    )


def _public_pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _key_hint(key: EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_public_pem(key)).hexdigest()


def _encoded(payload: bytes, *, kind: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(kind.encode())} {kind} {len(payload)} ".encode() + payload


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _write_new(path: Path, data: bytes) -> None:
    """Write a private file, unless another process has created it in the meantime; that one is kept."""
    with storage_errors(path), temporary_file(path.parent, name=path.name) as (stream, draft):
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        flush(stream)
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        sync_directory(path.parent)
