from __future__ import annotations

from pathlib import Path

from pipeline.evidence.document import read_report

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {"evidence-1.json": "sha256:24dda6e9f662a2d648fd64ba9b0534ad42f1db1fc3cc7129be8f90f27b770686"}
"""Of every version of an evidence file that was ever written, as that version computed it."""


def test_evidence_files_of_every_past_version_verify_and_load():
    assert {path.name for path in GOLDEN.glob("*.json")} == set(DIGESTS)
    for name, digest in DIGESTS.items():
        report, key = read_report(GOLDEN / name, trusted=[GOLDEN / "node.pub"])
        assert report.digest == digest
        assert key.name == "node.pub"
        assert report.results[0].speed.speed.decode_tokens_per_s == 99.25
