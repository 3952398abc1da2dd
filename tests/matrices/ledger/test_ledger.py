from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from compilers.check.speed import Speed
from matrices.cells.cell import Evidence
from matrices.ledger import query
from matrices.ledger.build_records import BuildRecord
from matrices.ledger.db import Database, open_database
from matrices.ledger.ledger import Ledger
from matrices.ledger.removal import Removal
from matrices.releases.release import Release
from matrices.releases.ruling import Ruling
from registry.digest import digest_value
from registry.errors import ConfigurationError, NotFoundError, RefusedError, RegistryError

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def _record(key: str = "k", **output: object) -> BuildRecord:
    return BuildRecord(
        key=digest_value(key), stage="export", output=output or {"n": 1}, started_at=NOW,
        finished_at=NOW + timedelta(seconds=2), seconds=2.0, peak_memory_bytes=123,
    )  # fmt: skip


def test_a_stage_comes_back_as_it_was_put(ledger: Ledger):
    record = _record(digest="sha256:…", nested={"a": [1, 2.5, None, True]})
    assert ledger.find_stage(record.key) is None
    assert ledger.put_stage(record) == record
    assert ledger.find_stage(record.key) == record


def test_the_first_result_of_a_stage_stands(ledger: Ledger):
    first = ledger.put_stage(_record(n=1))
    assert ledger.put_stage(_record(n=2)) == first


def test_a_forgotten_stage_may_have_another_result(ledger: Ledger):
    ledger.put_stage(_record(n=1))
    ledger.forget_stages([_record().key])
    assert ledger.put_stage(_record(n=2)).output == {"n": 2}


def test_a_cell_comes_back_as_it_was_put_and_putting_it_again_changes_nothing(database, ledger, new_cell):
    cell = new_cell()
    assert ledger.put_cell(cell) == cell
    assert ledger.put_cell(cell.model_copy(update={"updated_at": NOW})) == cell
    assert query.find_cell(database, cell.id) == cell


def test_every_change_of_state_leaves_evidence_even_if_the_report_has_none(ledger, new_cell):
    ledger.put_cell(new_cell(state="declared"))
    bare = new_cell(state="built").model_copy(update={"evidence": ()})
    after = ledger.put_cell(bare)
    assert [entry.state for entry in after.evidence] == ["declared", "built"]
    assert after.evidence[-1].digest == bare.artifact


def test_text_that_compilers_print_is_stored_on_every_database(ledger, new_cell):
    said = "segfault\x00 in \ud800 \x1b[31mred\x1b[0m"
    stored = ledger.put_cell(new_cell(state="failed", reason=said))
    assert stored.reason == "segfault\ufffd in ? \x1b[31mred\x1b[0m"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "other:w4g32-gptq:cpu-x86-64-v3:tvm"}, "should have the id"),
        ({"artifact": None}, "has no artifact"),
        ({"updated_at": datetime(2026, 1, 1)}, "without a zone"),
        ({"state": "failed", "reason": " "}, "without a reason"),
        ({"state": "approved"}, "only a ruling"),
        ({"state": "withdrawn"}, "only a ruling"),
        ({"state": "great"}, "state"),
        ({"artifact": "sha256:short"}, "artifact"),
    ],
)
def test_a_cell_that_contradicts_itself_is_refused_whole(database, ledger, new_cell, change, problem):
    with pytest.raises(ConfigurationError, match=problem):
        ledger.put_cell(new_cell().model_copy(update=change))
    assert query.cells(database) == []


def test_a_cell_with_all_evidence_is_approved(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    approval = ledger.approve(cell.id, who=" Ada ", why="good  on\nall tasks")
    assert (approval.who, approval.why, approval.waiver) == ("Ada", "good on all tasks", None)
    after = query.find_cell(database, cell.id)
    assert (after.state, after.evidence[-1].state) == ("approved", "approved")
    assert query.approvals(database) == {cell.id: approval}


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"within": False}, "parity is outside the bound"),
        ({"earned": {"extraction": 2, "reasoning": 2}}, "never evaluated for `tool-calling`"),
        ({"earned": {"extraction": 2, "reasoning": 2, "tool-calling": None}}, "does not hold tier 2"),
        (
            {"earned": {"extraction": 2, "reasoning": 3, "tool-calling": 2}},
            "`reasoning` does not hold tier 2",
        ),
        ({"state": "loads"}, "parity was never measured"),
        ({"state": "close"}, "no evaluation of this artifact"),
    ],
)
def test_missing_evidence_refuses_an_approval_unless_it_is_waived(
    database, ledger, new_cell, options, missing
):
    ledger.put_cell(new_cell("demo-flagship/1"))  # its tasks are those of the family
    cell = ledger.put_cell(new_cell(**options))
    with pytest.raises(RefusedError, match=missing) as refused:
        ledger.approve(cell.id, who="Ada", why="we need it")
    assert refused.value.exit_code == 8
    assert "`--waive TEXT`" in refused.value.hint
    assert query.find_cell(database, cell.id) == cell
    assert not [one for one in query.history(database, cell.id) if isinstance(one, Ruling)]
    approval = ledger.approve(cell.id, who="Ada", why="we need it", waiver="shown to the customer")
    assert approval.waiver == "shown to the customer"
    ruling = query.rulings(database)[cell.id]
    assert any(missing in one for one in ruling.missing)
    assert "waiver: shown to the customer" in query.find_cell(database, cell.id).evidence[-1].detail


def test_a_waiver_that_is_not_needed_is_not_recorded(ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    assert ledger.approve(cell.id, who="Ada", why="good", waiver="just in case").waiver is None


@pytest.mark.parametrize("state", ["failed", "unsupported", "declared"])
def test_no_waiver_stands_in_for_an_artifact(ledger, new_cell, state):
    cell = ledger.put_cell(new_cell(state=state, reason="segfault"))
    with pytest.raises(RefusedError, match="there is no artifact"):
        ledger.approve(cell.id, who="Ada", why="we need it", waiver="please")


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("approve", {"who": "", "why": "good"}),
        ("approve", {"who": "Ada", "why": " \n"}),
        ("approve", {"who": "Ada", "why": "good", "waiver": ""}),
        ("reject", {"who": " ", "why": "bad"}),
        ("reject", {"who": "Ada", "why": ""}),
        ("withdraw", {"who": "", "why": "bad"}),
        ("withdraw", {"who": "Ada", "why": "\t"}),
    ],
)
def test_a_ruling_needs_a_person_and_a_reason(database, ledger, new_cell, verb, said):
    cell = ledger.put_cell(new_cell())
    if verb == "withdraw":
        ledger.approve(cell.id, who="Ada", why="good")
    before = query.history(database, cell.id)
    with pytest.raises(ConfigurationError, match="a ruling needs"):
        getattr(ledger, verb)(cell.id, **said)
    assert query.history(database, cell.id) == before


def test_a_ruling_on_an_unknown_cell_offers_near_ones(ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    with pytest.raises(NotFoundError) as caught:
        ledger.approve(cell.id.replace("mid", "mdi"), who="Ada", why="good")
    assert cell.id in caught.value.hint


def test_an_approval_survives_the_same_build_again(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    ledger.approve(cell.id, who="Ada", why="good")
    approved = query.find_cell(database, cell.id)
    for state in ("declared", "built", "loads", "close", "evaluated"):
        assert ledger.put_cell(new_cell(state=state)) == approved
    assert ledger.put_cell(approved) == approved


def test_another_artifact_loses_the_approval_and_says_so(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    ledger.approve(cell.id, who="Ada", why="good")
    after = ledger.put_cell(new_cell(build="b"))
    assert after.state == "evaluated"
    assert "lost the approval by Ada" in " ".join(entry.detail for entry in after.evidence)
    assert query.approvals(database) == {}
    assert ledger.put_cell(new_cell()).state == "evaluated", "an approval that was lost does not come back"


@pytest.mark.parametrize(
    "worse",
    [
        {"earned": {"extraction": 2, "reasoning": None, "tool-calling": 2}},
        {"state": "loads", "within": False},
        {"state": "failed", "reason": "it crashes now"},
    ],
)
def test_an_approval_falls_with_the_evidence_it_rested_on(database, ledger, new_cell, worse):
    cell = ledger.put_cell(new_cell())
    ledger.approve(cell.id, who="Ada", why="good")
    after = ledger.put_cell(new_cell(**worse).model_copy(update={"artifact": cell.artifact}))
    assert after.state == worse.get("state", "evaluated")
    assert any(entry.detail.startswith("lost the approval by Ada: ") for entry in after.evidence)


def test_what_was_waived_does_not_take_the_approval_away_again(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell(within=False))
    ledger.approve(cell.id, who="Ada", why="good", waiver="known")
    assert ledger.put_cell(new_cell(within=False, accuracy=0.87)).state == "approved"


@pytest.mark.parametrize("verb", ["reject", "withdraw"])
def test_what_a_person_refused_stays_refused_until_a_person_approves_it(database, ledger, new_cell, verb):
    cell = ledger.put_cell(new_cell())
    if verb == "withdraw":
        ledger.approve(cell.id, who="Ada", why="good")
    getattr(ledger, verb)(cell.id, who="Bob", why="a customer complained")
    state = {"reject": "rejected", "withdraw": "withdrawn"}[verb]
    assert ledger.put_cell(new_cell()).state == state
    assert ledger.put_cell(new_cell(build="b")).state == "evaluated"
    again = ledger.put_cell(new_cell())
    assert (again.state, again.reason) == (state, f"{state} by Bob: a customer complained")
    ledger.approve(cell.id, who="Ada", why="the customer was wrong")
    assert query.find_cell(database, cell.id).state == "approved"
    verbs = [one.verb for one in query.history(database, cell.id) if isinstance(one, Ruling)]
    assert verbs[-2:] == [verb, "approve"]


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_the_same_ruling_again_is_recorded_once(database, ledger, new_cell, verb):
    cell = ledger.put_cell(new_cell())
    first = getattr(ledger, verb)(cell.id, who="Ada", why="so")
    before = query.history(database, cell.id)
    assert getattr(ledger, verb)(cell.id, who="Ada", why="so") == first
    assert query.history(database, cell.id) == before
    getattr(ledger, verb)(cell.id, who="Ada", why="for another reason")
    assert len(query.history(database, cell.id)) == len(before) + 2, "a ruling and its evidence"


def test_only_an_approved_cell_can_be_withdrawn(ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    with pytest.raises(RefusedError, match="is evaluated"):
        ledger.withdraw(cell.id, who="Bob", why="x")


def test_expired_evidence_takes_the_approval_until_it_is_obtained_again(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    ledger.approve(cell.id, who="Ada", why="good")
    assert ledger.expire(cell.id, why="onnxruntime moved on").state == "expired"
    assert query.approvals(database) == {}
    after = ledger.put_cell(new_cell(version="1.32.0"))
    assert after.state == "evaluated"
    assert after.evidence[-1].measurement.runtime_version == "1.32.0"


def _again(entry, *, at):
    on = entry.measurement and entry.measurement.model_copy(update={"at": at})
    return entry.model_copy(update={"at": at, "measurement": on})


def test_evidence_obtained_again_on_an_earlier_version_counts_as_the_latest(ledger, new_cell):
    for version in ("1.31.1", "1.32.0", "1.31.1"):
        cell = new_cell(version=version)
        newer = tuple(_again(one, at=datetime.now(UTC)) for one in cell.evidence)
        stored = ledger.put_cell(cell.model_copy(update={"evidence": newer}))
    versions = [one.measurement.runtime_version for one in stored.evidence if one.state == "evaluated"]
    assert versions == ["1.31.1", "1.32.0", "1.31.1"]


def _release(cell, manifest, approval, *, name="r1", by="Ada", at=NOW) -> Release:
    from matrices.releases.release import ReleasedCell

    released = ReleasedCell(cell=cell, manifest=manifest, approval=approval)
    return Release(
        name=name, family="demo", created_at=at, created_by=by, ladder_digest=digest_value("l"), tiers=3,
        tasks=("extraction",), cells=(released,),
    )  # fmt: skip


def test_a_release_is_recorded_once_and_never_with_other_content(database, ledger, new_cell, new_manifest):
    cell = ledger.put_cell(new_cell())
    approval = ledger.approve(cell.id, who="Ada", why="good")
    cell = query.find_cell(database, cell.id)
    first = ledger.put_release(_release(cell, new_manifest(), approval))
    assert query.release(database, "r1") == first
    assert (
        ledger.put_release(_release(cell, new_manifest(), approval, by="Bob", at=datetime.now(UTC))) == first
    )
    with pytest.raises(RefusedError, match="exists with other content"):
        ledger.put_release(_release(cell, new_manifest(), approval).model_copy(update={"tiers": 2}))
    ledger.withdraw(cell.id, who="Bob", why="no")
    assert query.release(database, "r1") == first
    assert query.releases_with(database, cell=cell.id, artifact=cell.artifact) == ["r1"]
    with pytest.raises(RefusedError, match="is withdrawn now"):
        ledger.put_release(_release(cell, new_manifest(), approval, name="r2"))
    assert [one.name for one in query.releases(database)] == ["r1"]


def _writer(url: str, number: int, barrier: object) -> None:
    sys.path.insert(0, str(ROOT))
    database = open_database(url)
    ledger = Ledger(database)
    barrier.wait()  # type: ignore[attr-defined]
    for count in range(20):
        ledger.put_stage(_record(f"shared {count}", writer=number))
        ledger.put_stage(_record(f"own {number} {count}"))
    database.close()


def test_two_processes_write_at_once_and_agree(url: str):
    database = open_database(url)
    spawn = multiprocessing.get_context("fork")
    barrier = spawn.Barrier(2)
    processes = [spawn.Process(target=_writer, args=(url, number, barrier)) for number in range(2)]
    database.close()
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    found = query.stages(database)
    assert len(found) == 60
    shared = [one for one in found if "writer" in one.output]
    assert len(shared) == 20
    database.close()


def test_rulings_of_two_writers_follow_one_another(url: str, new_cell):
    one, two = open_database(url), open_database(url)
    cell = Ledger(one).put_cell(new_cell())
    Ledger(one).approve(cell.id, who="Ada", why="good")
    Ledger(two).withdraw(cell.id, who="Bob", why="bad")
    with pytest.raises(RefusedError, match="is withdrawn"):
        Ledger(one).withdraw(cell.id, who="Ada", why="mine")
    assert query.find_cell(one, cell.id) == query.find_cell(two, cell.id)
    one.close()
    two.close()


def test_a_killed_writer_leaves_no_half_cell_and_no_lock(url: str, tmp_path: Path, new_cell):
    database = open_database(url)
    cell = Ledger(database).put_cell(new_cell(state="built"))
    program = (
        "import os, signal, sys\n"
        "from matrices.ledger import ledger\nfrom matrices.cells.cell import Cell\n"
        "from matrices.ledger.db import open_database\n"
        "ledger._append = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cell = Cell.model_validate_json(open(sys.argv[2]).read())\n"
        "ledger.Ledger(open_database(sys.argv[1])).put_cell(cell)\n"
    )
    path = tmp_path / "cell.json"
    path.write_text(new_cell().model_dump_json())
    done = subprocess.run([sys.executable, "-c", program, url, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert query.find_cell(database, cell.id) == cell
    deadline = time.monotonic() + 30
    while True:  # PostgreSQL notices the dead client when it reads from it
        assert time.monotonic() < deadline
        if Ledger(database).put_cell(new_cell()).state == "evaluated":
            break
    assert database.problems() == []
    database.close()


def test_evidence_keeps_the_order_in_which_it_was_recorded(database: Database, ledger: Ledger, new_cell):
    cell = new_cell(state="built")
    entries = tuple(
        Evidence(state="built", digest=cell.artifact, at=NOW - timedelta(minutes=n), detail=f"try {n}")
        for n in range(5)
    )
    ledger.put_cell(cell.model_copy(update={"evidence": entries}))
    assert query.find_cell(database, cell.id).evidence == entries
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM rung_evidence")).scalar_one() == 5


def _timed(cell):
    speed = Speed(
        prompt_tokens=8, prefill_tokens_per_s=10.0, context=12, decode_steps=4, decode_tokens_per_s=5.0,
        repeats=1, threads=1,
    )  # fmt: skip
    last = cell.evidence[-1]
    on = last.measurement.model_copy(update={"driver": "580.1"})
    entry = last.model_copy(update={"state": "benchmarked", "detail": "timed", "measurement": on})
    steps = (*cell.evidence, entry)
    return cell.model_copy(update={"speed": speed, "state": "benchmarked", "evidence": steps})


def test_means_driver_and_speed_are_stored_and_read_back(ledger, new_cell):
    stored = ledger.put_cell(_timed(new_cell()))
    assert stored.state == "benchmarked"
    assert stored.speed.decode_tokens_per_s == 5.0
    assert (stored.evidence[-1].via, stored.evidence[-1].measurement.driver) == ("chip", "580.1")


def test_a_build_takes_back_neither_speed_nor_the_state_that_it_gave(ledger, new_cell):
    timed = ledger.put_cell(_timed(new_cell()))
    assert ledger.put_cell(new_cell()) == timed
    measured_anew = ledger.put_cell(new_cell(accuracy=0.9))
    assert (measured_anew.state, measured_anew.speed) == ("benchmarked", timed.speed)
    other_runtime = ledger.put_cell(new_cell(accuracy=0.8, version="9"))
    assert other_runtime.state == "evaluated", "the speed was of another version"
    assert ledger.put_cell(new_cell(build="b")).speed is None, "and of another artifact"


def test_what_a_node_compiled_is_not_portable_again_after_a_build(ledger, new_cell):
    built = new_cell(state="built", target="npu-intel")
    entry = Evidence(state="portable", digest=built.artifact, at=built.updated_at)
    portable = built.model_copy(update={"state": "portable", "evidence": (built.evidence[0], entry)})
    assert ledger.put_cell(portable).state == "portable"
    compiled = built.model_copy(update={"evidence": (*portable.evidence, built.evidence[1])})
    assert ledger.put_cell(compiled).state == "built"
    assert ledger.put_cell(portable).state == "built"


def test_an_expired_cell_stays_so_until_it_is_measured_again(ledger, new_cell):
    cell = ledger.put_cell(new_cell(target="cuda-sm90", toolchain="tvm"))
    ledger.expire(cell.id, why="the driver moved")
    again = ledger.put_cell(new_cell(target="cuda-sm90", toolchain="tvm", state="built"))
    assert (again.state, again.reason) == ("expired", "the driver moved")
    assert ledger.put_cell(new_cell(target="cuda-sm90", toolchain="tvm")).state == "evaluated"


def test_a_removed_release_keeps_its_document_and_nobody_uses_its_name_again(
    database, ledger, new_cell, new_manifest
):
    cell = ledger.put_cell(new_cell())
    approval = ledger.approve(cell.id, who="Ada", why="good")
    release = ledger.put_release(_release(query.find_cell(database, cell.id), new_manifest(), approval))
    removal = Removal(
        kind="release", name="r1", digest=release.digest, who="Bob", why="too\nold", at=NOW,
        overridden=("a node holds it",),
    )  # fmt: skip
    stored = ledger.put_removal(removal)
    assert stored == removal.model_copy(update={"why": "too old"})
    assert query.releases(database) == []
    assert query.all_releases(database) == [release] == [query.release(database, "r1")]
    assert ledger.put_removal(removal.model_copy(update={"who": "Eve"})) == stored
    assert query.removals(database, kind="release") == [stored]
    assert query.removals(database, kind="checkpoint") == []
    with pytest.raises(RefusedError, match="was removed by Bob: too old"):
        ledger.put_release(release)


@pytest.mark.parametrize("change", ["UPDATE rung_removal SET who = 'Eve'", "DELETE FROM rung_removal"])
def test_the_record_of_a_removal_cannot_be_changed(database, ledger, change):
    ledger.put_removal(
        Removal(kind="checkpoint", name="a/1", digest=digest_value(1), who="Bob", why="old", at=NOW)
    )
    with pytest.raises(RegistryError, match="append-only"), database.writing() as connection:
        connection.execute(sa.text(change))


def test_a_removal_needs_a_person_and_a_reason(ledger):
    for who, why in (("", "old"), ("Bob", " \n")):
        with pytest.raises(ConfigurationError):
            ledger.put_removal(
                Removal(kind="release", name="r", digest=digest_value(1), who=who, why=why, at=NOW)
            )
