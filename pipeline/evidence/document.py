"""Evidence files: what a node measured, in one JSON file that is signed with the node's key.

    {"evidence": {…}, "signature": {…}}

The signature is an OpenSSF model-signing bundle over one file `evidence.json`, the canonical JSON of the
first part, so that the `model-signing` package verifies it as well.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import AwareDatetime, ValidationError

from compilers.portable.node_compile import NodeCompile
from evals.scorecard import Scorecard
from pipeline.stages.speed import SpeedOutput
from pipeline.stages.verify import VerifyOutput
from registry.atomic import write_atomically
from registry.digest import Digest, canonical_json, digest_value, short
from registry.errors import NotFoundError, SchemaError, SignatureError
from registry.host import Host
from registry.signing import fingerprint, sign, signer, verify
from registry.value import Value, describe

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
    runtime: str
    """Format of the artifact, and name of its runtime."""
    runtime_version: str | None = None
    at: AwareDatetime
    verify: VerifyOutput | None = None
    """It loaded, and how close it is."""
    scorecards: tuple[Scorecard, ...] = ()
    """Per task type, sample by sample; verdicts are made where the evidence is taken in."""
    speed: SpeedOutput | None = None
    compiled: NodeCompile | None = None
    """A portable artifact's compilation on the node."""
    problem: MeasurementProblem | None = None
    """Why the rest is absent."""


class EvidenceFile(Value):
    """All that one run on a node brought."""

    schema_version: Literal[1] = 1
    kit: Digest | None
    """The kit that it answers; None for a compilation alone."""
    target: str
    node: Machine
    created_at: AwareDatetime
    quality: Literal["measured", "not asked", "lm-eval is not installed"] = "not asked"
    results: tuple[Measured, ...]
    """By cell id."""

    @property
    def digest(self) -> str:
        """The report's digest."""
        return digest_value(self)


def write_report(report: EvidenceFile, *, path: Path, private_key: Path) -> None:
    """Sign a report and write it as one file, whole or not at all.

    Raises:
        ConfigurationError: The key cannot sign.
        StorageFullError: No space left.
    """
    data = canonical_json(report)
    with tempfile.TemporaryDirectory(prefix="rung-evidence-") as scratch:
        directory, signature = Path(scratch) / "signed", Path(scratch) / "signature"
        directory.mkdir()
        (directory / SIGNED_NAME).write_bytes(data)
        sign(directory, signature=signature, private_key=private_key)
        document = {"evidence": json.loads(data), "signature": json.loads(signature.read_bytes())}
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
        SchemaError: It is no evidence file that this version reads.
    """
    document = _parse(path)
    with tempfile.TemporaryDirectory(prefix="rung-evidence-") as scratch:
        directory, signature = Path(scratch) / "signed", Path(scratch) / "signature"
        directory.mkdir()
        (directory / SIGNED_NAME).write_bytes(canonical_json(document["evidence"]))
        signature.write_bytes(canonical_json(document["signature"]))
        key = _signing_key(path, signature, trusted=list(trusted))
        try:
            verify(directory, signature=signature, public_key=key)
        except SignatureError as error:
            raise SignatureError(
                f"evidence file `{path}` was changed after it was signed, or its signature is not one: "
                + error.message.splitlines()[0].replace(scratch, ""),
                hint="fetch it from the node again",
            ) from error
    try:
        return EvidenceFile.model_validate(document["evidence"]), key
    except ValidationError as error:
        raise SchemaError(
            f"`{path}` is not evidence that this version of Rung reads: {describe(error)}",
            hint="run `rung evidence run` with the version of Rung that this workspace has",
        ) from error


def _signing_key(path: Path, signature: Path, *, trusted: list[Path]) -> Path:
    named = signer(signature)
    for key in trusted:
        if named is None or fingerprint(key) == named:
            return key
    who = "a key that it does not name" if named is None else f"the key {short(named)}"
    known = ", ".join(f"{short(fingerprint(key))} ({key.name})" for key in trusted) or "none"
    raise SignatureError(
        f"evidence file `{path}` is signed with {who}, which this workspace does not trust",
        hint=f"trusted are {known}; if the node is yours, `rung evidence trust KEY` takes its public key",
    )


def _parse(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _not_signed(path, f"it has more than {MAX_BYTES} bytes")
        document = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as error:
        raise NotFoundError(
            f"cannot read evidence file `{path}`: {error.strerror}", hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _not_signed(path, "it is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("evidence"), dict):
        raise _not_signed(path, "it holds no evidence")
    if not isinstance(document.get("signature"), dict):
        raise _not_signed(path, "it holds no signature")
    return document


def _no_number(text: str) -> float:
    """Refuses NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{text} is not a number in JSON")


def _not_signed(path: Path, why: str) -> SignatureError:
    return SignatureError(
        f"`{path}` is not a signed evidence file: {why}",
        hint="fetch it from the node again, which makes it with `rung evidence run --key KEY --out FILE`",
    )
