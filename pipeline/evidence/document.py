"""Evidence files: what a node measured, in one JSON file that is signed with the node's key.

    {"evidence": {…}, "signature": {…}}

The signature is an OpenSSF model-signing bundle over one file `evidence.json`, the canonical JSON of the
first part, so that the `model-signing` package verifies it as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime

from compilers.portable.node_compile import NodeCompile
from evals.scorecard import Scorecard
from matrices.cells.measurement import Measurement
from pipeline.stages.speed import SpeedOutput
from pipeline.stages.verify import VerifyOutput
from registry.atomic import write_atomically
from registry.digest import Digest, canonical_json, short
from registry.document import Document, JsonObject, Upgrade
from registry.errors import NotFoundError, SignatureError
from registry.host import Host
from registry.signed_document import sign_bytes, verify_bytes
from registry.signing import fingerprint, signer
from registry.value import Value

SIGNED_NAME: Final = "evidence.json"
MAX_BYTES: Final = 512 << 20


class Machine(Value):
    """The machine that measured."""

    host: Host
    chip: str
    """The chip that ran the artifacts, by its own name."""
    driver: str | None
    runtimes: dict[str, str]
    """Runtime → version, of those that can be used there."""
    rung: str
    """Version of Rung."""
    python: str
    system: str
    """Kernel and C library, as the platform names them."""


class MeasurementProblem(Value):
    """Why something was not measured."""

    code: str
    message: str
    hint: str


class Measured(Value):
    """What was measured on one artifact; what is absent was not."""

    cell: str
    artifact: Digest
    measurement: Measurement
    """What it was measured on; its runtime is the artifact's format."""
    verify: VerifyOutput | None = None
    """It loaded, and how close it is."""
    scorecards: tuple[Scorecard, ...] = ()
    """Per task type, sample by sample; verdicts are made where the evidence is imported."""
    speed: SpeedOutput | None = None
    compiled: NodeCompile | None = None
    """A portable artifact's compilation on the node."""
    problem: MeasurementProblem | None = None
    """Why the rest is absent."""


def _to_version_2(document: JsonObject) -> JsonObject:
    """Version 2 has what was measured on which chip as one object, where version 1 had its fields inline."""
    node = document["node"]
    return document | {"results": [_result_of_version_2(one, node=node) for one in document["results"]]}


def _result_of_version_2(result: JsonObject, *, node: JsonObject) -> JsonObject:
    moved = ("runtime", "runtime_version", "at")
    on = {name: result.get(name) for name in moved} | {name: node.get(name) for name in ("chip", "driver")}
    after = {name: value for name, value in result.items() if name not in moved} | {"measurement": on}
    for part, holds in (("verify", "parity"), ("speed", "speed")):
        if (found := result.get(part)) is not None:
            own = {name: found.get(name) for name in ("runtime_version", "chip", "driver")}
            after[part] = {holds: found[holds], "measurement": on | own}
    return after


class EvidenceFile(Document):
    """All that one run on a node brought."""

    KIND: ClassVar[str] = "evidence file"
    RENEW: ClassVar[str] = "run `rung evidence run` with the version of Rung that this workspace has"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (_to_version_2,)

    schema_version: Literal[2] = 2
    kit: Digest | None
    """The kit that it answers; None for a compilation alone."""
    target: str
    node: Machine
    created_at: AwareDatetime
    quality: Literal["measured", "not asked", "lm-eval is not installed"] = "not asked"
    results: tuple[Measured, ...]
    """By cell id."""


def write_report(report: EvidenceFile, *, path: Path, private_key: Path) -> None:
    """Sign a report and write it as one file, whole or not at all.

    Raises:
        ConfigurationError: The key cannot sign.
        StorageFullError: No space left.
    """
    data = canonical_json(report.content)
    signature = sign_bytes(data, name=SIGNED_NAME, private_key=private_key)
    document = {"evidence": json.loads(data), "signature": json.loads(signature)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n")


def read_report(path: Path, *, trusted: Iterable[Path]) -> tuple[EvidenceFile, Path]:
    """The report of a file, and the trusted key that signed it.

    Args:
        path: The file.
        trusted: Public keys.

    Raises:
        NotFoundError: No such file.
        SignatureError: No trusted key signed it, or it was changed since.
        SchemaError: It is not an evidence file that this version reads.
    """
    document = _parse(path)
    signature = canonical_json(document["signature"])
    key = _signing_key(path, signer(document["signature"]), trusted=list(trusted))
    try:
        verify_bytes(
            canonical_json(document["evidence"]), name=SIGNED_NAME, signature=signature, public_key=key
        )
    except SignatureError as error:
        raise SignatureError(
            f"evidence file `{path}` was changed after it was signed, or its signature is not one: "
            + error.message,
            hint="fetch it from the node again",
        ) from error
    return EvidenceFile.parse(document["evidence"], where=str(path)), key


def _signing_key(path: Path, named: str | None, *, trusted: list[Path]) -> Path:
    for key in trusted:
        if named is None or fingerprint(key) == named:
            return key
    who = "a key that it does not name" if named is None else f"the key {short(named)}"
    known = ", ".join(f"{short(fingerprint(key))} ({key.name})" for key in trusted) or "none"
    raise SignatureError(
        f"evidence file `{path}` is signed with {who}, which this workspace does not trust",
        hint=f"trusted are {known}; if the node is yours, `rung evidence trust KEY` takes its public key",
    )


def _parse(path: Path) -> dict[str, JsonObject]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _not_signed(path, f"it has more than {MAX_BYTES} bytes")
        document = json.loads(path.read_bytes())
        canonical_json(document)  # refuses NaN, 1e999 and "\ud800", which Python reads and JSON does not have
    except OSError as error:
        raise NotFoundError(
            f"cannot read evidence file `{path}`: {error.strerror}", hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _not_signed(
            path, "it is not JSON, or holds a number or text that JSON cannot represent"
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("evidence"), dict):
        raise _not_signed(path, "it holds no evidence")
    if not isinstance(document.get("signature"), dict):
        raise _not_signed(path, "it holds no signature")
    return document


def _not_signed(path: Path, why: str) -> SignatureError:
    return SignatureError(
        f"`{path}` is not a signed evidence file: {why}",
        hint="fetch it from the node again, which makes it with `rung evidence run --key KEY --out FILE`",
    )
