"""Import evidence files: all of them are verified and checked, and only then recorded.

Importing the same file again changes nothing, so a call that was killed between two cells can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from evals.scorecard import Scorecard
from matrices.cells.cell import Cell
from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from pipeline.evidence.check import Verified, check_report
from pipeline.evidence.document import EvidenceFile, read_report
from pipeline.evidence.recheck import Rechecked, recheck
from pipeline.evidence.record import with_evidence
from registry.digest import canonical_json, short
from registry.signing import fingerprint
from registry.store import Store
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ImportedReport:
    """What an imported evidence file changed."""

    path: Path
    report: EvidenceFile
    key: Path
    """The trusted key that signed it."""
    cells: tuple[Cell, ...]
    """As they are now."""
    notes: tuple[str, ...]
    """What was not measured, and why."""
    rechecked: Rechecked
    """How its scorecards were checked."""


def import_reports(
    paths: Iterable[Path],
    *,
    workspace: Workspace,
    database: Database,
    trusted: Iterable[Path],
    at: datetime,
    say: Callable[[str], None] = lambda text: None,
) -> list[ImportedReport]:
    """Verify evidence files and record them; nothing is recorded unless all of them hold.

    Args:
        paths: Files.
        workspace: The workspace.
        database: The workspace's.
        trusted: Public keys whose evidence is accepted.
        at: Now; a file of a later time is refused.
        say: Called with what is being done.

    Raises:
        NotFoundError: No such file.
        SignatureError: A file was changed, is not signed, or is signed with a key that is not trusted.
        RefusedError: What a file says does not hold against the workspace.
        SchemaError: A file was written by another version.
    """
    keys = list(trusted)
    checked: list[tuple[Path, EvidenceFile, Path, list[Verified]]] = []
    for path in paths:
        report, key = read_report(path, trusted=keys)
        checked.append(
            (path, report, key, check_report(path, report, workspace=workspace, database=database, at=at))
        )
    rechecked = [
        recheck(path, report, verified, workspace=workspace, say=say) for path, report, _, verified in checked
    ]
    imported = [
        _imported(*one, workspace=workspace, database=database, rechecked=how)
        for one, how in zip(checked, rechecked, strict=True)
    ]
    workspace.dirty_marker.touch()  # the next build removes what the new evidence replaced
    return imported


def _imported(
    path: Path,
    report: EvidenceFile,
    key: Path,
    verified: list[Verified],
    *,
    workspace: Workspace,
    database: Database,
    rechecked: Rechecked,
) -> ImportedReport:
    ledger, by = Ledger(database), f"by node key {short(fingerprint(key))}"
    cells = []
    for found in verified:
        listed = query.cells(database, target=report.target)
        before = next(cell for cell in listed if cell.id == found.measured.cell)
        after = with_evidence(before, found, by=by, earlier=_scorecards(before, workspace.store))
        if after is None:
            continue
        for judged in found.judged:
            workspace.store.add_bytes(canonical_json(judged.card))
        cells.append(ledger.put_cell(after))
    return ImportedReport(path, report, key, tuple(cells), tuple(_notes(report)), rechecked)


def _scorecards(cell: Cell, store: Store) -> dict[str, Scorecard]:
    """Task type → the scorecard that the cell's result rests on, where the store has it."""
    found = {}
    for result in cell.tasks:
        if store.has(result.scorecard):
            data = store.read_bytes(result.scorecard)
            found[result.task_type] = Scorecard.model_validate_json(data)
    return found


def _notes(report: EvidenceFile) -> list[str]:
    notes = [
        f"{one.cell}: {one.problem.code}: {one.problem.message}"
        for one in report.results
        if one.problem is not None
    ]
    if report.quality == "lm-eval is not installed":
        notes.append("quality was not measured: lm-eval is not installed on the node")
    return notes
