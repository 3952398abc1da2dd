"""Queries on the matrix's database: cells, history, rulings, releases, build records. Nothing here writes."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from matrices.cells.cell import Cell, Evidence
from matrices.ledger.build_records import BuildRecord
from matrices.ledger.db import Database
from matrices.ledger.db_rows import (
    read_cell,
    read_evidence,
    read_removal,
    read_ruling,
    read_seal,
    read_stage,
)
from matrices.ledger.models import (
    CellRow,
    EvidenceRow,
    ReleaseRow,
    RemovalRow,
    RulingRow,
    RulingSealRow,
    StageRow,
)
from matrices.ledger.removal import Removal, RemovedKind
from matrices.releases.release import Release
from matrices.releases.ruling import Approval, Ruling
from matrices.releases.ruling_chain import SealedRuling
from registry.errors import ConfigurationError, CorruptError, NotFoundError, SchemaError

CELLS: Final = CellRow.__table__  # type: ignore[attr-defined]  # SQLModel's plugin does not declare it
EVIDENCE: Final = EvidenceRow.__table__  # type: ignore[attr-defined]  # as above
RULINGS: Final = RulingRow.__table__  # type: ignore[attr-defined]  # as above
SEALS: Final = RulingSealRow.__table__  # type: ignore[attr-defined]  # as above
RELEASES: Final = ReleaseRow.__table__  # type: ignore[attr-defined]  # as above
REMOVALS: Final = RemovalRow.__table__  # type: ignore[attr-defined]  # as above
STAGES: Final = StageRow.__table__  # type: ignore[attr-defined]  # as above
_SHORTEST_DIGEST: Final = 6


def cells(
    database: Database,
    *,
    family: str | None = None,
    checkpoint: str | None = None,
    recipe: str | None = None,
    target: str | None = None,
    toolchain: str | None = None,
    state: str | None = None,
) -> list[Cell]:
    """All cells that match every filter, sorted by tier, checkpoint, recipe, target and toolchain."""
    filters = {
        "family": family, "checkpoint": checkpoint, "recipe": recipe,
        "target": target, "toolchain": toolchain, "state": state,
    }  # fmt: skip
    wanted = [CELLS.c[name] == value for name, value in filters.items() if value is not None]
    with database.reading() as connection:
        return select_cells(connection, *wanted)


def find_cell(database: Database, name: str) -> Cell:
    """The cell that `name` identifies.

    Args:
        database: Where to look.
        name: A full id; the start of one; the first six or more hexadecimal digits of the artifact's digest;
            or parts of an id joined by `:`, each found in the id in that order, such as `mid:w4:tvm`.

    Raises:
        NotFoundError: No cell matches; the hint suggests similar names.
        ConfigurationError: Several cells match; the hint lists them.
    """
    with database.reading() as connection:
        return select_cells(connection, CELLS.c.id == match_id(connection, name))[0]


def history(database: Database, cell: str) -> list[Evidence | Ruling]:
    """Everything recorded about a cell, oldest first: evidence of every artifact it ever had, and rulings.

    Args:
        database: Where to look.
        cell: The full id.

    Raises:
        NotFoundError: No such cell.
    """
    with database.reading() as connection:
        match_id(connection, cell, whole=True)
        entries: list[Evidence | Ruling] = []
        entries += select_evidence(connection, EVIDENCE.c.cell_id == cell).get(cell, [])
        entries += select_rulings(connection, RULINGS.c.cell_id == cell)
    return sorted(entries, key=lambda entry: entry.at)


def rulings(database: Database, *, family: str | None = None) -> dict[str, Ruling]:
    """Cell id → the latest ruling on the artifact that the cell has now."""
    with database.reading() as connection:
        owned = sa.select(CELLS.c.id, CELLS.c.artifact)
        artifacts = {
            row.id: row.artifact
            for row in connection.execute(owned if family is None else owned.where(CELLS.c.family == family))
        }
        return {
            ruling.cell: ruling
            for ruling in select_rulings(connection)
            if ruling.cell in artifacts and ruling.artifact == artifacts[ruling.cell]
        }


def all_rulings(database: Database) -> list[Ruling]:
    """Every ruling, in the order in which they were made."""
    with database.reading() as connection:
        return select_rulings(connection)


def sealed_rulings(database: Database) -> list[SealedRuling]:
    """Every ruling with its seal, in the order in which they were made."""
    with database.reading() as connection:
        return [SealedRuling(read_ruling(row), read_seal(row)) for row in select_sealed(connection)]


def approvals(database: Database, *, family: str | None = None) -> dict[str, Approval]:
    """Cell id → its approval, for every cell that is approved now."""
    approved = {cell.id for cell in cells(database, family=family, state="approved")}
    found: dict[str, Approval] = {}
    for cell, ruling in rulings(database, family=family).items():
        if cell in approved and (approval := ruling.approval()):
            found[cell] = approval
    return found


def release(database: Database, name: str) -> Release:
    """The release with a name.

    Raises:
        NotFoundError: No such release.
        CorruptError: It was edited outside Rung.
    """
    with database.reading() as connection:
        row = connection.execute(sa.select(RELEASES).where(RELEASES.c.name == name)).first()
        known = connection.execute(sa.select(RELEASES.c.name)).scalars().all()
    if row is None:
        raise NotFoundError(f"no release `{name}`", hint=_near(name, known, what="release"))
    return read_release(row)


def releases(database: Database, *, family: str | None = None) -> list[Release]:
    """All releases but removed ones, oldest first."""
    gone = {one.name for one in removals(database, kind="release")}
    return [one for one in all_releases(database, family=family) if one.name not in gone]


def removals(database: Database, *, kind: RemovedKind) -> list[Removal]:
    """All removals of a kind, oldest first."""
    with database.reading() as connection:
        return select_removals(connection, REMOVALS.c.kind == kind)


def all_releases(database: Database, *, family: str | None = None) -> list[Release]:
    """All releases that were ever created, removed ones too, oldest first."""
    wanted = sa.select(RELEASES).order_by(RELEASES.c.created_at, RELEASES.c.name)
    with database.reading() as connection:
        rows = connection.execute(
            wanted if family is None else wanted.where(RELEASES.c.family == family)
        ).all()
    return [read_release(row) for row in rows]


def releases_with(database: Database, *, cell: str, artifact: str | None = None) -> list[str]:
    """Names of the releases that hold a cell (with this artifact, if one is given)."""
    return [
        one.name
        for one in releases(database)
        if any(
            released.cell.id == cell and artifact in (None, released.cell.artifact) for released in one.cells
        )
    ]


def find_stage(database: Database, key: str) -> BuildRecord | None:
    """The record of a finished stage; None if it never finished."""
    with database.reading() as connection:
        row = connection.execute(sa.select(STAGES).where(STAGES.c.key == key)).first()
    return None if row is None else read_stage(row)


def stages(database: Database, *, stage: str | None = None) -> list[BuildRecord]:
    """All records of finished stages, sorted by the time they finished."""
    wanted = sa.select(STAGES).order_by(STAGES.c.finished_at, STAGES.c.key)
    with database.reading() as connection:
        rows = connection.execute(wanted if stage is None else wanted.where(STAGES.c.stage == stage)).all()
    return [read_stage(row) for row in rows]


def select_cells(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Cell]:
    """Cells that meet all conditions on the table of cells."""
    order = ("tier", "checkpoint", "recipe", "target", "toolchain")
    rows = connection.execute(
        sa.select(CELLS).where(*where).order_by(*(CELLS.c[name] for name in order))
    ).all()
    steps = select_evidence(connection, EVIDENCE.c.cell_id.in_(sa.select(CELLS.c.id).where(*where)))
    return [read_cell(row, evidence=steps.get(row.id, [])) for row in rows]


def select_evidence(connection: Connection, *where: sa.ColumnElement[bool]) -> dict[str, list[Evidence]]:
    """Cell id → its evidence in the order in which it was recorded."""
    found: dict[str, list[Evidence]] = defaultdict(list)
    for row in connection.execute(sa.select(EVIDENCE).where(*where).order_by(EVIDENCE.c.seq)):
        found[row.cell_id].append(read_evidence(row))
    return found


def select_rulings(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Ruling]:
    """Rulings in the order in which they were recorded."""
    rows = connection.execute(sa.select(RULINGS).where(*where).order_by(RULINGS.c.seq))
    return [read_ruling(row) for row in rows]


def select_removals(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Removal]:
    """Removals in the order in which they were recorded."""
    rows = connection.execute(sa.select(REMOVALS).where(*where).order_by(REMOVALS.c.seq))
    return [read_removal(row) for row in rows]


def select_sealed(connection: Connection) -> Sequence[sa.Row[Any]]:  # Any: rows' columns
    """Rows of all rulings with the columns of their seals, in the order in which they were recorded."""
    seals = [column for column in SEALS.c if column.name != "ruling"]
    joined = RULINGS.outerjoin(SEALS, RULINGS.c.seq == SEALS.c.ruling)
    return connection.execute(sa.select(*RULINGS.c, *seals).select_from(joined).order_by(RULINGS.c.seq)).all()


def match_id(connection: Connection, name: str, *, whole: bool = False) -> str:
    """The full id of the cell that `name` identifies (`whole`: only a full id will do); see `find_cell`."""
    known = {row.id: row.artifact for row in connection.execute(sa.select(CELLS.c.id, CELLS.c.artifact))}
    if name in known:
        return name
    found = [] if whole or not name else _matches(name, known)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"`{one}`" for one in sorted(found)[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ConfigurationError(f"`{name}` matches {len(found)} cells", hint=f"name one of {listed}{more}")
    raise NotFoundError(f"no cell `{name}` in the matrix", hint=_near(name, known, what="cell"))


def _matches(name: str, known: dict[str, str | None]) -> list[str]:
    """Ids that match by their start, else by digest, else by parts."""
    if starts := [one for one in known if one.startswith(name)]:
        return starts
    digits = name.removeprefix("sha256:")
    if len(digits) >= _SHORTEST_DIGEST and set(digits) <= set("0123456789abcdef"):
        by_digest = [one for one, digest in known.items() if digest and digest[7:].startswith(digits)]
        if by_digest:
            return by_digest
    return [one for one in known if _has_parts(one.split(":"), name.split(":"))]


def _has_parts(whole: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether each part is found in a separate field, in order."""
    fields = iter(whole)
    return all(part and any(part in field for field in fields) for part in parts)


def _near(name: str, known: Iterable[str], *, what: str) -> str:
    choices = sorted(known)
    if near := difflib.get_close_matches(name, choices, n=3, cutoff=0.4):
        return "did you mean " + " or ".join(f"`{one}`" for one in near) + "?"
    verb = {"cell": "rung matrix show", "release": "rung release list"}[what]
    return f"there are {len(choices)} {what}s; `{verb}` lists them"


def read_release(row: sa.Row[Any]) -> Release:  # Any: a row's columns
    """The release of a row, its digest checked."""
    try:
        found = Release.parse(row.document, where=row.name)
    except SchemaError as error:
        raise CorruptError(
            f"the database's release cannot be read: {error.message}", hint="restore a backup of the database"
        ) from error
    if found.digest != row.digest:
        raise CorruptError(
            f"the database's release `{row.name}` has digest {found.digest}, recorded is {row.digest}",
            hint="it was edited outside Rung; restore a backup of the database",
        )
    return found
