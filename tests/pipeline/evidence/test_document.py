from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.evidence.document import EvidenceFile, read_report
from pipeline.kit import Kit, read_kit
from registry.errors import SchemaError

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {
    "evidence-1.json": "sha256:24dda6e9f662a2d648fd64ba9b0534ad42f1db1fc3cc7129be8f90f27b770686",
    "evidence-1-demo.json": "sha256:8a90e2eb8fcf9c08a4a9aef34c4115d2a85738aca1dd04f24e7bae729f0da34f",
    "evidence-2.json": "sha256:360c211f8460385c76756a07b9c77975ce5f76d1044aacdee0d2c05e38a991ac",
}
"""Of every version of an evidence file that was ever written, as that version computed it."""
KIT_DIGESTS = {"kit-1": "sha256:f13fcca0bd46acffbad826332ca796624295ed7f36dcc2259468b29bab9a6d12"}
KEYS = [GOLDEN / "node.pub", GOLDEN / "demo-node.pub"]


@pytest.mark.parametrize("name", DIGESTS)
def test_evidence_files_of_every_past_version_verify_and_load(name: str):
    report, key = read_report(GOLDEN / name, trusted=KEYS)
    assert report.digest == DIGESTS[name]
    assert key in KEYS
    for one in report.results:
        on = one.measurement
        assert (on.chip, on.driver, on.via) == (report.node.chip, report.node.driver, "chip")
        assert on.runtime_version == report.node.runtimes.get(str(on.runtime))
        assert one.speed is None or one.speed.measurement.same_conditions(on)
        assert one.verify is None or one.verify.measurement.same_conditions(on)


def test_every_version_of_evidence_files_and_kits_has_a_golden_file():
    assert {path.name for path in GOLDEN.glob("*.json")} == set(DIGESTS)
    assert f"evidence-{EvidenceFile.newest_version()}.json" in DIGESTS
    assert {path.name for path in GOLDEN.glob("kit-*")} == set(KIT_DIGESTS)
    assert f"kit-{Kit.newest_version()}" in KIT_DIGESTS


def test_what_is_no_evidence_is_named_with_the_right_article():
    with pytest.raises(SchemaError, match="`it` is not an evidence file that this version"):
        EvidenceFile.parse({"schema_version": 2}, where="it")
    with pytest.raises(SchemaError, match="`it` is not a kit that this version"):
        Kit.parse({"schema_version": 1}, where="it")


@pytest.mark.parametrize("name", KIT_DIGESTS)
def test_kits_of_every_past_version_verify_and_keep_their_digest(name: str):
    kit = read_kit(GOLDEN / name, public_key=GOLDEN / "rung.pub")
    assert kit.digest == KIT_DIGESTS[name]
    assert (kit.target, len(kit.subjects)) == ("cpu-x86-64-v3", 20)
    assert [task.entry.chat_template for task in kit.tasks] == [False] * 5, "there was no choice before"


def test_the_golden_evidence_answers_the_golden_kit():
    for name in ("evidence-1-demo.json", "evidence-2.json"):
        report, _ = read_report(GOLDEN / name, trusted=KEYS)
        assert report.kit == KIT_DIGESTS["kit-1"]
        assert report.results[0].verify is not None
        assert report.results[0].verify.parity.within
