from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from matrices.cells.cell import Cell
from matrices.ledger.merge import STATE_OF, merge
from matrices.releases.ruling import Ruling, Verb

REPORTS = st.tuples(
    st.just("report"),
    st.sampled_from(["declared", "built", "loads", "close", "evaluated", "failed", "expired"]),
    st.sampled_from(["a", "b"]),
)
RULINGS = st.tuples(st.just("rule"), st.sampled_from(["approve", "reject", "withdraw"]), st.just(""))


def _rule(cell: Cell, verb: Verb, ruled: list[Ruling]) -> Cell:
    ruling = Ruling(
        cell=cell.id, verb=verb, who="Ada", why="so", at=cell.updated_at + timedelta(days=len(ruled)),
        artifact=cell.artifact,
    )  # fmt: skip
    ruled.append(ruling)
    return cell.model_copy(update={"state": STATE_OF[verb], "reason": ""})


@settings(deadline=None, max_examples=150)
@given(steps=st.lists(REPORTS | RULINGS, min_size=1, max_size=12))
def test_law_no_sequence_of_reports_contradicts_a_person(new_cell, steps):
    """An approved cell is approved by a person as it is; what a person refused is never offered again."""
    cell: Cell | None = None
    ruled: list[Ruling] = []
    for kind, name, build in steps:
        if kind == "rule":
            if (
                cell is not None
                and cell.artifact is not None
                and not (name == "withdraw" and cell.state != "approved")
            ):
                cell = _rule(cell, name, ruled)
            continue
        reported = new_cell(state=name, build=build, reason="r" if name in ("failed", "expired") else "")
        before = cell
        merged = merge(before, reported, ruled=ruled)
        cell = merged.cell.model_copy(
            update={"evidence": (*(before.evidence if before else ()), *merged.fresh)}
        )
        latest = next((one for one in reversed(ruled) if one.artifact == cell.artifact), None)
        if cell.state == "approved":
            assert latest is not None
            assert latest.verb == "approve"
            assert before is not None
            assert (before.state, before.artifact) == ("approved", cell.artifact)
        if latest is not None and cell.artifact is not None and latest.verb != "approve":
            assert cell.state == STATE_OF[latest.verb]
        if before is None or before.state != cell.state:
            assert any(entry.state == cell.state for entry in merged.fresh)
        again = merge(cell, reported, ruled=ruled)
        assert again.cell.state == cell.state
        assert again.fresh == ()
