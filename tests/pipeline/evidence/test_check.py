"""Every kind of evidence that must be refused, signed with a trusted key where that is not the point."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compilers.backend import find_format
from evals.responses import pack_responses, unpack_responses
from evals.scorecard import Scorecard
from matrices.cells.measurement import Measurement
from matrices.ledger.db import open_database
from pipeline.evidence.check import _Check
from pipeline.evidence.document import EvidenceFile, Measured, read_report, write_report
from pipeline.evidence.import_report import import_reports
from registry.digest import digest_value
from registry.errors import NotFoundError, RefusedError, SchemaError, SignatureError
from registry.host import Host
from registry.signing import generate_keys
from tests.pipeline.evidence.conftest import Box, Build

OTHER = digest_value("another")

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture
def import_one(build: Build, box: Box, tmp_path: Path) -> Callable[[EvidenceFile], object]:
    """Signs a report with the node's key and imports it; checks that a refusal wrote nothing."""

    def call(report: EvidenceFile) -> object:
        path = tmp_path / "evidence.json"
        write_report(report, path=path, private_key=box.root / "node.key")
        before, database = build.cells(), open_database(build.workspace.database_url)
        try:
            trusted = [box.root / "node.pub"]
            return import_reports(
                [path], workspace=build.workspace, database=database, trusted=trusted, at=datetime.now(UTC)
            )
        finally:
            database.close()
            assert build.cells() == before, "something was written"

    return call


def with_result(report: EvidenceFile, **changes: object) -> EvidenceFile:
    """The report with another first result."""
    first = report.results[0].model_copy(update=changes)
    return report.model_copy(update={"results": (first, *report.results[1:])})


def on(result: Measured, **changes: object) -> Measurement:
    """What a result was measured on, changed."""
    return result.measurement.model_copy(update=changes)


def with_chip(report: EvidenceFile, chip: str) -> EvidenceFile:
    """The report with another name of the chip throughout."""
    first = report.results[0]
    parts = {
        name: part.model_copy(update={"measurement": part.measurement.model_copy(update={"chip": chip})})
        for name in ("verify", "speed")
        if (part := getattr(first, name)) is not None
    }
    cards = tuple(card.model_copy(update={"chip": chip}) for card in first.scorecards)
    changed = with_result(report, measurement=on(first, chip=chip), scorecards=cards, **parts)
    return with_node(changed, chip=chip)


def renamed(report: EvidenceFile, chip: str) -> Host:
    """The report's machine with another processor's name."""
    return report.node.host.model_copy(update={"chip": chip})


def with_card(report: EvidenceFile, **changes: object) -> EvidenceFile:
    """The report with another scorecard in its first result."""
    card = report.results[0].scorecards[0].model_copy(update=changes)
    return with_result(report, scorecards=(card,))


def with_node(report: EvidenceFile, **changes: object) -> EvidenceFile:
    """The report of another machine."""
    return report.model_copy(update={"node": report.node.model_copy(update=changes)})


def test_the_report_of_a_node_reads_back(report: EvidenceFile):
    assert [one.problem for one in report.results] == [None, None]
    assert report.quality == "measured"
    assert all(one.verify and one.speed and one.scorecards for one in report.results)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"max_abs": ', '"max_abs": 1'),
        ('"runtime_version": "', '"runtime_version": "9.'),
        ('"value": 0.0', '"value": 1.0'),
        ('"chip": "', '"chip": "A better '),
        ('"target": "cpu-x86-64-v3"', '"target": "cpu-x86-64-v4"'),
    ],
)
def test_a_file_that_was_changed_after_it_was_signed_is_refused(
    build: Build, evidence_file: Path, tmp_path: Path, box: Box, old: str, new: str
):
    text = evidence_file.read_text()
    assert old in text
    path = tmp_path / "evidence.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SignatureError, match="was changed after it was signed"):
        read_report(path, trusted=[box.root / "node.pub"])


def test_a_changed_file_ends_the_command_with_8_and_the_reason(
    build: Build, evidence_file: Path, tmp_path: Path, box: Box
):
    path = tmp_path / "evidence.json"
    path.write_text(evidence_file.read_text().replace('"value": 0.0', '"value": 1.0', 1))
    before = build.cells()
    ran = build.place.rung("evidence", "import", str(path), "--key", str(box.root / "node.pub"))
    assert ran.code == 8
    assert "was changed after it was signed" in ran.err
    assert build.cells() == before


@pytest.mark.parametrize("cut", [0, 100, -40])
def test_a_damaged_file_is_refused(evidence_file: Path, tmp_path: Path, box: Box, cut: int):
    path = tmp_path / "evidence.json"
    path.write_bytes(evidence_file.read_bytes()[:cut])
    with pytest.raises(SignatureError, match="is not a signed evidence file"):
        read_report(path, trusted=[box.root / "node.pub"])
    with pytest.raises(NotFoundError):
        read_report(tmp_path / "absent.json", trusted=[])


@pytest.mark.parametrize(
    "text",
    [
        '{"evidence": {"a": NaN}, "signature": {}}',
        '{"evidence": {"a": 1e999}, "signature": {}}',
        '{"evidence": {"a": "\\ud800"}, "signature": {}}',
        '{"evidence": {}, "signature": {"\\udfff": 1}}',
        "[" * 200_000,
        "[]",
        "{}",
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, box: Box, text: str):
    path = tmp_path / "evidence.json"
    path.write_text(text)
    with pytest.raises(SignatureError, match="is not a signed evidence file"):
        read_report(path, trusted=[box.root / "node.pub"])


def test_an_unsigned_file_is_refused(evidence_file: Path, tmp_path: Path, box: Box):
    document = json.loads(evidence_file.read_text())
    del document["signature"]
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SignatureError, match="it holds no signature"):
        read_report(path, trusted=[box.root / "node.pub"])


def test_a_key_that_nobody_trusted_is_refused(build: Build, evidence_file: Path):
    ran = build.place.rung("evidence", "import", str(evidence_file))
    assert ran.code == 8
    assert "which this workspace does not trust" in ran.err


def test_another_key_that_claims_to_be_a_trusted_one_is_refused(
    report: EvidenceFile, tmp_path: Path, box: Box
):
    generate_keys(tmp_path / "thief.key", tmp_path / "thief.pub")
    path = tmp_path / "evidence.json"
    write_report(report, path=path, private_key=tmp_path / "thief.key")
    document, own = json.loads(path.read_text()), tmp_path / "own.json"
    write_report(report, path=own, private_key=box.root / "node.key")
    document["signature"]["verificationMaterial"] = json.loads(own.read_text())["signature"][
        "verificationMaterial"
    ]
    path.write_text(json.dumps(document))
    with pytest.raises(SignatureError):
        read_report(path, trusted=[box.root / "node.pub"])


def test_a_form_that_this_version_does_not_know_is_told(report: EvidenceFile, tmp_path: Path, box: Box):
    path = tmp_path / "evidence.json"
    write_report(
        report.model_copy(update={"schema_version": 3}), path=path, private_key=box.root / "node.key"
    )
    with pytest.raises(SchemaError, match="has schema 3, this version of Rung reads up to 2"):
        read_report(path, trusted=[box.root / "node.pub"])


def test_evidence_for_another_digest_is_refused(import_one, report: EvidenceFile):
    with pytest.raises(RefusedError, match=r"is of the artifact|is not in the registry"):
        import_one(with_result(report, artifact=OTHER))
    other = report.results[1].artifact
    with pytest.raises(RefusedError, match=r"is of the artifact \w+, the one that the matrix holds is"):
        import_one(with_result(report, artifact=other))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: with_node(r, runtimes={"onnxruntime": "9.9"}), "claims onnxruntime 9.9"),
        (lambda r: with_node(r, runtimes={}), "claims onnxruntime None"),
        (
            lambda r: with_result(r, measurement=on(r.results[0], runtime_version="9.9")),
            "its result says 9.9",
        ),
        (
            lambda r: with_result(
                r,
                verify=r.results[0].verify.model_copy(
                    update={"measurement": on(r.results[0], runtime_version="9.9")}
                ),
            ),
            "its parity says 9.9",
        ),
        (
            lambda r: with_result(
                r,
                speed=r.results[0].speed.model_copy(
                    update={"measurement": on(r.results[0], runtime_version="9.9")}
                ),
            ),
            "its speed says 9.9",
        ),
        (lambda r: with_card(r, runtime_version="9.9"), "its scorecard of retrieval says 9.9"),
    ],
)
def test_a_runtime_version_other_than_the_claimed_one_is_refused(
    import_one, report: EvidenceFile, change, said
):
    with pytest.raises(RefusedError, match=said):
        import_one(change(report))


@pytest.mark.parametrize(
    ("format_", "compiled", "ran", "fits"),
    [
        ("tvm", "0.27+ffi0.1+nvcc13", "0.27+ffi0.1", True),
        ("tvm", "0.27+ffi0.1", "0.28+ffi0.1", False),
        ("tvm", "0.27+ffi0.1", "0.27+ffi0.2", False),
        ("iree", "3.13.0", "3.13.1", True),
        ("iree", "3.13.0", "3.14.0", False),
        ("onnxruntime", "1.32.0", "1.40.0", True),
    ],
)
def test_compiled_code_is_bound_to_its_runtimes_version_a_graph_is_not(
    build: Build, report: EvidenceFile, format_, compiled, ran, fits
):
    manifest = build.workspace.store.find_artifact(report.results[0].artifact)
    bound = manifest.model_copy(update={"format": format_, "toolchain_version": compiled})
    assert find_format(format_).runs(ran, bound) == fits


def test_a_runtime_that_is_not_of_the_toolchain_that_compiled_is_refused(
    build: Build, report: EvidenceFile, tmp_path: Path
):
    manifest = build.workspace.store.find_artifact(report.results[0].artifact)
    bound = manifest.model_copy(
        update={"format": "tvm", "toolchain": "tvm", "toolchain_version": "0.27+ffi0.1"}
    )
    one = report.results[0]
    newer = on(one, runtime="tvm", runtime_version="0.28+ffi0.1")
    parts = {"measurement": newer, "speed": None, "scorecards": ()}
    parts["verify"] = one.verify.model_copy(update={"measurement": newer})
    other = with_node(report, runtimes={"tvm": "0.28+ffi0.1"})
    database = open_database(build.workspace.database_url)
    check = _Check(tmp_path / "f", other, build.workspace, database)
    with pytest.raises(
        RefusedError, match=r"was built with tvm 0\.27\+ffi0\.1, it was measured with tvm 0\.28"
    ):
        check.check_versions(one.model_copy(update=parts), bound)
    database.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.model_copy(update={"kit": OTHER}), "which this workspace never issued"),
        (lambda r: r.model_copy(update={"kit": None}), "without a kit"),
        (lambda r: r.model_copy(update={"target": "cpu-x86-64-v4"}), "its kit is for `cpu-x86-64-v3`"),
        (
            lambda r: r.model_copy(update={"created_at": datetime.now(UTC) + timedelta(days=2)}),
            "from the future",
        ),
        (
            lambda r: with_node(r, host=r.node.host.model_copy(update={"features": ("sse2",)})),
            "lacks abm, avx, avx2, bmi1, which `cpu-x86-64-v3` needs",
        ),
        (lambda r: r.model_copy(update={"results": (r.results[0],) * 2}), "two results for one cell"),
        (lambda r: with_result(r, cell="tiny-a/9:fp32:cpu-x86-64-v3:onnxruntime"), "is no cell of"),
        (
            lambda r: with_result(r, measurement=on(r.results[0], runtime="tvm")),
            "is of the format `onnxruntime`, not `tvm`",
        ),
        (lambda r: with_node(r, chip="a better chip"), "its chip is `a better chip`, on its machine"),
        (lambda r: with_chip(r, "NVIDIA H200"), "its chip is `NVIDIA H200`, on its machine"),
        (
            lambda r: with_chip(with_node(r, host=renamed(r, "NVIDIA H200")), "NVIDIA H200"),
            "`NVIDIA H200` does not run `cpu-x86-64-v3`",
        ),
        (lambda r: with_result(r, measurement=on(r.results[0], at=LONG_AGO)), "the artifact was built"),
        (lambda r: with_card(r, measured_at=LONG_AGO), "the artifact was built"),
        (lambda r: with_node(r, driver="1"), "with driver 1"),
        (lambda r: with_result(r, measurement=on(r.results[0], via="emulator")), "by emulator"),
        (lambda r: with_card(r, chip="a better chip"), "its scorecard of retrieval of `a better chip`"),
        (lambda r: with_card(r, subject=OTHER), "is of the artifact"),
        (lambda r: with_card(r, tasks_digest=OTHER), "is of the tasks"),
        (lambda r: with_card(r, task_type="reasoning"), "does not ask for `reasoning`"),
        (lambda r: with_card(r, batch_size=1), "was taken with batch size 1"),
        (lambda r: with_card(r, available=5), "had 5 samples to take"),
        (lambda r: with_card(r, outcomes=()), "cannot be judged"),
        (lambda r: with_result(r, scorecards=r.results[0].scorecards * 2), "two scorecards of one task type"),
        (
            lambda r: with_result(
                r,
                verify=r.results[0].verify.model_copy(
                    update={"parity": r.results[0].verify.parity.model_copy(update={"probe": OTHER})}
                ),
            ),
            "is not of its kit's probe",
        ),
    ],
)
def test_what_does_not_hold_against_the_workspace_is_refused(import_one, report: EvidenceFile, change, said):
    with pytest.raises(RefusedError, match=said):
        import_one(change(report))


def test_one_bad_file_keeps_the_good_ones_out_too(
    build: Build, evidence_file: Path, tmp_path: Path, box: Box
):
    bad = tmp_path / "bad.json"
    bad.write_text(evidence_file.read_text().replace('"value": 0.0', '"value": 1.0', 1))
    before, database = build.cells(), open_database(build.workspace.database_url)
    trusted = [box.root / "node.pub"]
    try:
        with pytest.raises(SignatureError):
            import_reports(
                [evidence_file, bad],
                workspace=build.workspace,
                database=database,
                trusted=trusted,
                at=datetime.now(UTC),
            )
    finally:
        database.close()
    assert build.cells() == before


def _all_right(card: Scorecard) -> dict[str, object]:
    return {"outcomes": tuple(one.model_copy(update={"value": 1.0}) for one in card.outcomes)}


def _without_responses(card: Scorecard) -> dict[str, object]:
    return {"responses": None}


def _picked(card: Scorecard) -> dict[str, object]:
    given = unpack_responses(card.responses or "")
    return {"outcomes": card.outcomes[1:], "responses": pack_responses(given[1:])}


def _garbled(card: Scorecard) -> dict[str, object]:
    return {"responses": "AAAA"}


def _made_up(card: Scorecard) -> dict[str, object]:
    """Log-probabilities that the artifact did not give; the likeliest choice stays so."""
    given = unpack_responses(card.responses or "")
    shifted = [
        tuple((one[0] - 7.0, one[1]) if isinstance(one, tuple) else one for one in sample) for sample in given
    ]
    return {"responses": pack_responses(shifted)}


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (_all_right, "its response gives 0"),
        (_without_responses, "has no responses"),
        (_picked, "is not the one that has to be taken there"),
        (_garbled, "cannot be read"),
        (_made_up, "samples that were run again contradict it"),
    ],
)
def test_a_trusted_node_that_lies_about_its_samples_is_refused(
    import_one, report: EvidenceFile, lie: Callable[[Scorecard], dict[str, object]], said: str
):
    forged = with_card(report, **lie(report.results[0].scorecards[0]))
    with pytest.raises(RefusedError, match=said):
        import_one(forged)
