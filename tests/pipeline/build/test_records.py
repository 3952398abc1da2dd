"""Records answer only while the bytes that they name are in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from matrices.ledger.build_records import BuildRecord
from pipeline.build.records import Recorded, Records
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.stage import StageKey
from registry.digest import digest_value
from registry.errors import NotFoundError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY = StageKey("probe", digest_value("key"), ProbeOutput)
OUTPUT = ProbeOutput(tokens=digest_value("tokens"), logits=digest_value("logits"))


@dataclass
class Database:
    records: dict[str, BuildRecord] = field(default_factory=dict)

    def find_stage(self, key: str) -> BuildRecord | None:
        return self.records.get(key)


@dataclass
class Blobs:
    digests: set[str] = field(default_factory=set)

    def has(self, digest: str) -> bool:
        return digest in self.digests

    def read_bytes(self, digest: str) -> bytes:
        raise NotFoundError(f"no blob {digest}", hint="none is read here")


def database() -> Database:
    record = BuildRecord(
        key=KEY.digest,
        stage="probe",
        output=OUTPUT.model_dump(mode="json"),
        started_at=NOW,
        finished_at=NOW,
        seconds=0.0,
    )
    return Database({KEY.digest: record})


def test_an_output_is_found_by_its_key_as_a_value_of_its_type() -> None:
    records = Records(database(), Blobs({OUTPUT.tokens, OUTPUT.logits}))
    assert records.find(KEY) == Recorded(OUTPUT, NOW)
    assert records.output(KEY) == OUTPUT


def test_a_record_whose_blob_is_gone_is_no_answer() -> None:
    assert Records(database(), Blobs({OUTPUT.tokens})).find(KEY) is None


def test_a_record_that_is_written_later_is_found_then() -> None:
    empty, blobs = Database(), Blobs({OUTPUT.tokens, OUTPUT.logits})
    records = Records(empty, blobs)
    assert records.find(KEY) is None
    empty.records |= database().records
    assert records.output(KEY) == OUTPUT
