"""Taking evidence in: files are verified and checked, all of them, and only then recorded.

Taking the same file again changes nothing, so a call that was killed between two cells can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from matrices.cells.cell import Cell
from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from pipeline.evidence.check import Verified, check_report
from pipeline.evidence.document import EvidenceFile, read_report
from pipeline.evidence.record import with_evidence
from registry.digest import canonical_json, short
from registry.signing import fingerprint
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file."""

    path: Path
    report: EvidenceFile
    key: Path
    """The trusted key that signed it."""
    cells: tuple[Cell, ...]
    """As they stand now."""
    notes: tuple[str, ...]
    """What was not measured, and why."""


def take_in(
    paths: Iterable[Path], *, place: Workspace, database: Database, trusted: Iterable[Path], at: datetime
) -> list[Taken]:
    """Verify evidence files and record them; nothing is recorded unless all of them stand.

    Args:
        paths: Files.
        place: The workspace.
        database: The workspace's.
        trusted: Public keys whose evidence is taken.
        at: Now; a file of a later time is refused.

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
        checked.append((path, report, key, check_report(path, report, place=place, database=database, at=at)))
    taken = [_taken(*one, place=place, database=database) for one in checked]
    place.dirty_marker.touch()  # what the new evidence took the place of is removed by the next build
    return taken


def _taken(
    path: Path,
    report: EvidenceFile,
    key: Path,
    verified: list[Verified],
    *,
    place: Workspace,
    database: Database,
) -> Taken:
    ledger, by = Ledger(database), f"by node key {short(fingerprint(key))}"
    cells = []
    for found in verified:
        listed = query.cells(database, target=report.target)
        before = next(cell for cell in listed if cell.id == found.measured.cell)
        after = with_evidence(before, found, by=by)
        if after is None:
            continue
        for judged in found.judged:
            place.store.add_bytes(canonical_json(judged.card))
        cells.append(ledger.put_cell(after))
    return Taken(path, report, key, tuple(cells), tuple(_notes(report)))


def _notes(report: EvidenceFile) -> list[str]:
    notes = [
        f"{one.cell}: {one.problem.code}: {one.problem.message}"
        for one in report.results
        if one.problem is not None
    ]
    if report.quality == "lm-eval is not installed":
        notes.append("quality was not measured: lm-eval is not installed on the node")
    return notes
