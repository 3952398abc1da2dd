"""The ledger: the only writer of the matrix's database: stages, cells, rulings, releases and removals.

Each call is one transaction; writers take turns, across processes too. What is written never contradicts a
person's ruling:

- An approval applies to one artifact. A cell that is put with another artifact, or without the evidence that
  the approval was based on, loses it, and its evidence records the loss.
- A rejected or withdrawn artifact stays so, however often it is built again, until a person approves it.
- Only rulings lead to the states `approved`, `rejected` and `withdrawn`.
- A report of an earlier step on the same artifact (from a build that was resumed) undoes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from matrices.cells.cell import Cell, Evidence, task_types
from matrices.cells.missing import missing_evidence
from matrices.ledger import query
from matrices.ledger.build_records import BuildRecord
from matrices.ledger.db import Database
from matrices.ledger.db_rows import (
    cell_columns,
    evidence_columns,
    read_ruling,
    removal_columns,
    ruling_columns,
    seal_columns,
    stage_columns,
    storable,
)
from matrices.ledger.merge import STATE_OF, consistent, merge
from matrices.ledger.models import ReleaseCellRow
from matrices.ledger.query import CELLS, EVIDENCE, RELEASES, REMOVALS, RULINGS, SEALS, STAGES
from matrices.ledger.removal import Removal
from matrices.releases.release import Release
from matrices.releases.ruling import Approval, Ruling, Verb
from matrices.releases.ruling_chain import seal_ruling
from registry.digest import short
from registry.errors import ConfigurationError, CorruptError, RefusedError
from registry.value import Value, configuration_error

_RELEASE_CELLS = ReleaseCellRow.__table__  # type: ignore[attr-defined]  # SQLModel's plugin does not declare it


_Kind = TypeVar("_Kind", bound=Value)


@dataclass(frozen=True, slots=True)
class RulingKeys:
    """The workspace's key pair, with which rulings are signed."""

    private_key: Path
    public_key: Path


class Ledger:
    """Writes stages, cells, rulings and releases.

    Args:
        database: Where.
        keys: What rulings are signed with; None: they are not, and whoever verifies the chain of rulings
            (`matrices/releases/ruling_chain.py`) refuses them.
    """

    def __init__(self, database: Database, *, keys: RulingKeys | None = None) -> None:
        self._database = database
        self._keys = keys

    def find_stage(self, key: str) -> BuildRecord | None:
        """The record of a finished stage; None if it never finished."""
        return query.find_stage(self._database, key)

    def put_stage(self, record: BuildRecord) -> BuildRecord:
        """Record a finished stage; returns the record stored under its key.

        Equal keys have equal results: an existing record, perhaps from another process, is kept.
        """
        checked = _checked(record)
        with self._database.writing() as connection:
            if connection.execute(sa.select(STAGES.c.key).where(STAGES.c.key == checked.key)).first() is None:
                connection.execute(sa.insert(STAGES).values(stage_columns(checked)))
        stored = self.find_stage(checked.key)
        return checked if stored is None else stored

    def forget_stages(self, keys: Iterable[str]) -> None:
        """Remove the records of stages so that they run again when they are needed, all of them or none."""
        with self._database.writing() as connection:
            for key in keys:
                connection.execute(sa.delete(STAGES).where(STAGES.c.key == key))

    def put_cell(self, cell: Cell) -> Cell:
        """Record what a build reports about a cell; returns the stored cell.

        Putting the same cell again changes nothing. Evidence is added, never removed.

        Raises:
            ConfigurationError: The cell contradicts itself, or claims a state that only a ruling gives.
        """
        reported = consistent(_checked(cell))
        with self._database.writing() as connection:
            found = query.select_cells(connection, CELLS.c.id == reported.id)
            before = found[0] if found else None
            ruled = query.select_rulings(connection, RULINGS.c.cell_id == reported.id)
            merged = merge(before, reported, ruled=ruled)
            _store(connection, merged.cell, before=before)
            _append(connection, merged.cell.id, merged.fresh)
            return query.select_cells(connection, CELLS.c.id == reported.id)[0]

    def approve(
        self, cell: str, *, who: str, why: str, waiver: str | None = None, tasks: Iterable[str] | None = None
    ) -> Approval:
        """Approve a cell's artifact for release.

        Args:
            cell: The full id.
            who: The person.
            why: Their reason.
            waiver: Why missing evidence is accepted; recorded, and shown wherever the cell is. It is not
                recorded if nothing is missing.
            tasks: All task types of the ladder; None: those that any cell of the family was evaluated on.

        Raises:
            RefusedError: Evidence is missing and no waiver is given, or there is no artifact at all.
            ConfigurationError: `who`, `why` or the waiver is empty.
            NotFoundError: There is no such cell.
        """
        given = None if waiver is None else _one_line(waiver, what="a waiver")
        with self._database.writing() as connection:
            found = _named(connection, cell)
            ladder = _family_tasks(connection, found.family) if tasks is None else tuple(tasks)
            missing = missing_evidence(found, tasks=ladder)
            _refuse_unapprovable(found, missing=missing, waiver=given)
            ruling = self._rule(
                connection,
                found,
                "approve",
                who=who,
                why=why,
                missing=missing,
                waiver=given if missing else None,
            )
        approval = ruling.approval()
        if approval is None:
            raise RefusedError(f"`{cell}` has no artifact to approve", hint="build it first")
        return approval

    def reject(self, cell: str, *, who: str, why: str) -> Ruling:
        """Reject a cell's artifact; building the same artifact again does not undo that.

        Raises:
            ConfigurationError: `who` or `why` is empty.
            NotFoundError: No such cell.
        """
        with self._database.writing() as connection:
            return self._rule(connection, _named(connection, cell), "reject", who=who, why=why)

    def withdraw(self, cell: str, *, who: str, why: str) -> Ruling:
        """Withdraw the approval of a cell. Existing releases keep the cell: create a new one without it.

        Raises:
            RefusedError: The cell is not approved.
            ConfigurationError: `who` or `why` is empty.
            NotFoundError: No such cell.
        """
        with self._database.writing() as connection:
            found = _named(connection, cell)
            if found.state != "approved":
                raise RefusedError(
                    f"`{cell}` is {found.state}, only an approved cell can be withdrawn",
                    hint="use `rung reject` to keep it from being approved",
                )
            return self._rule(connection, found, "withdraw", who=who, why=why)

    def sign_rulings(self, *, who: str, why: str) -> int:
        """Sign the rulings that were made without a signature, such as those of earlier versions; how many.

        Raises:
            ConfigurationError: `who` or `why` is empty, or there is no key.
            CorruptError: An unsigned ruling was put before a signed one.
        """
        if self._keys is None:
            raise ConfigurationError("there is no key to sign rulings with", hint="run `rung init`")
        who, why = _one_line(who, what="a person (`--by`)"), _one_line(why, what="a reason (`--reason`)")
        with self._database.writing() as connection:
            return _seal_unsigned(connection, self._keys, adopted=f"by {who}: {why}")

    def expire(self, cell: str, *, why: str) -> Cell:
        """Mark a cell's evidence as expired, for example after a runtime upgrade; it loses its approval.

        Raises:
            ConfigurationError: `why` is empty.
            NotFoundError: No such cell.
        """
        reason = _one_line(why, what="a reason")
        with self._database.writing() as connection:
            before = _named(connection, cell)
            after = before.model_copy(update={"state": "expired", "reason": reason, "updated_at": _now()})
            _store(connection, after, before=before)
            entry = Evidence(state="expired", digest=after.artifact, at=after.updated_at, detail=reason)
            _append(connection, cell, (entry,))
            return query.select_cells(connection, CELLS.c.id == cell)[0]

    def put_release(self, release: Release) -> Release:
        """Record a release; returns the release stored under its name.

        Recording the same content under the same name again changes nothing.

        Raises:
            RefusedError: The name is taken by other content or by a release that was removed, the version by
                another release, or a cell is not approved with that artifact at the moment.
        """
        checked = _checked(release)
        with self._database.writing() as connection:
            _refuse_removed(connection, checked)
            row = connection.execute(sa.select(RELEASES).where(RELEASES.c.name == checked.name)).first()
            if row is not None:
                return _same_release(query.read_release(row), checked)
            _refuse_unapproved(connection, checked)
            _refuse_taken_version(connection, checked)
            document = {"name": checked.name, "family": checked.family, "digest": checked.digest}
            document |= {"created_by": checked.created_by, "document": checked.model_dump_json()}
            columns = storable(document) | {"created_at": checked.created_at}
            connection.execute(sa.insert(RELEASES).values(columns))
            held = [
                {"release": checked.name, "cell_id": one.cell.id, "artifact": one.manifest.digest}
                for one in checked.cells
            ]
            connection.execute(sa.insert(_RELEASE_CELLS), held)
        return checked

    def put_removal(self, removal: Removal) -> Removal:
        """Record that a release or a checkpoint is removed; what is removed already keeps its first record.

        Raises:
            ConfigurationError: `who` or `why` is empty.
        """
        given = {
            "who": _one_line(removal.who, what="a person (`--by`)"),
            "why": _one_line(removal.why, what="a reason (`--reason`)"),
        }
        checked = _checked(removal.model_copy(update=given))
        same = (REMOVALS.c.kind == checked.kind, REMOVALS.c.name == checked.name)
        with self._database.writing() as connection:
            if earlier := query.select_removals(connection, *same):
                return earlier[0]
            connection.execute(sa.insert(REMOVALS).values(removal_columns(checked)))
        return checked

    def _rule(
        self,
        connection: Connection,
        cell: Cell,
        verb: Verb,
        *,
        who: str,
        why: str,
        waiver: str | None = None,
        missing: Iterable[str] = (),
    ) -> Ruling:
        ruling = Ruling(
            cell=cell.id,
            verb=verb,
            who=_one_line(who, what="a person (`--by`)"),
            why=_one_line(why, what="a reason (`--reason`)"),
            at=_now(),
            artifact=cell.artifact,
            waiver=waiver,
            missing=tuple(missing),
        )
        state = STATE_OF[verb]
        latest = query.select_rulings(connection, RULINGS.c.cell_id == cell.id)[-1:]
        if cell.state == state and latest == [ruling.model_copy(update={"at": one.at}) for one in latest]:
            return latest[0]  # said again, perhaps because the command was killed after it had been recorded
        connection.execute(sa.insert(RULINGS).values(ruling_columns(ruling)))
        if self._keys is not None:
            _seal_latest(connection, self._keys)
        reason = "" if verb == "approve" else f"{state} by {ruling.who}: {ruling.why}"
        after = cell.model_copy(update={"state": state, "reason": reason, "updated_at": ruling.at})
        _store(connection, after, before=cell)
        detail = f"by {ruling.who}: {ruling.why}" + (f"; waiver: {waiver}" if waiver else "")
        entry = Evidence(state=state, digest=cell.artifact, at=ruling.at, detail=detail)
        _append(connection, cell.id, (entry,))
        return ruling


def _seal_latest(connection: Connection, keys: RulingKeys) -> None:
    """Seal the ruling that was just made; all others must be sealed."""
    *earlier, latest = query.select_sealed(connection)
    if unsigned := sum(row.digest is None for row in earlier):
        raise _unsigned(unsigned, "are not signed")
    _seal(connection, latest, keys, previous=earlier[-1].digest if earlier else None, adopted=None)


def _seal_unsigned(connection: Connection, keys: RulingKeys, *, adopted: str) -> int:
    """Seal the rulings at the end of the chain that are not sealed; how many there were."""
    rows = query.select_sealed(connection)
    unsigned = [row for row in rows if row.digest is None]
    sealed = rows[: len(rows) - len(unsigned)]
    if any(row.digest is None for row in sealed):
        raise _unsigned(len(unsigned), "stand before signed ones")
    previous = sealed[-1].digest if sealed else None
    for row in unsigned:
        previous = _seal(connection, row, keys, previous=previous, adopted=adopted)
    return len(unsigned)


def _seal(
    connection: Connection,
    row: sa.Row[Any],  # Any: a row's columns
    keys: RulingKeys,
    *,
    previous: str | None,
    adopted: str | None,
) -> str:
    """Seal the ruling of a row, as it is stored; the digest that the next one follows."""
    seal = seal_ruling(
        read_ruling(row),
        previous=previous,
        private_key=keys.private_key,
        public_key=keys.public_key,
        adopted=adopted,
    )
    connection.execute(sa.insert(SEALS).values(seal_columns(seal, ruling=row.seq)))
    return seal.digest


def _unsigned(count: int, what: str) -> CorruptError:
    return CorruptError(
        f"{count} rulings in the database {what}",
        hint="look at `rung rulings`; if they are from before rulings were signed, `rung rulings --sign`",
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _checked(value: _Kind) -> _Kind:
    """The value, validated again, because `model_copy` does not validate."""
    try:
        return type(value).model_validate(value.model_dump())
    except ValidationError as error:
        raise configuration_error(
            error,
            where=f"a {type(value).__name__.lower()} to record",
            hint="this is a bug in the code that reported it",
        ) from error


def _one_line(text: str, *, what: str) -> str:
    if not (joined := " ".join(text.split())):
        raise ConfigurationError(f"a ruling needs {what}, got {text!r}", hint="state it in a few words")
    return joined


def _named(connection: Connection, cell: str) -> Cell:
    return query.select_cells(connection, CELLS.c.id == query.match_id(connection, cell, whole=True))[0]


def _store(connection: Connection, cell: Cell, *, before: Cell | None) -> None:
    columns = cell_columns(cell)
    if before is None:
        connection.execute(sa.insert(CELLS).values(columns))
        return
    stored = cell_columns(before)
    if any(columns[name] != stored[name] for name in columns if name != "updated_at"):
        connection.execute(sa.update(CELLS).where(CELLS.c.id == cell.id).values(columns))


def _append(connection: Connection, cell: str, entries: Sequence[Evidence]) -> None:
    if entries:
        connection.execute(sa.insert(EVIDENCE), [evidence_columns(entry, cell=cell) for entry in entries])


def _family_tasks(connection: Connection, family: str) -> tuple[str, ...]:
    return task_types(query.select_cells(connection, CELLS.c.family == family))


def _refuse_unapprovable(cell: Cell, *, missing: list[str], waiver: str | None) -> None:
    listed = "; ".join(missing)
    if cell.artifact is None:
        raise RefusedError(
            f"`{cell.id}` cannot be approved: {listed}",
            hint="a waiver cannot replace an artifact; build it, or read its log to see why it failed",
        )
    if missing and waiver is None:
        raise RefusedError(
            f"`{cell.id}` cannot be approved: {listed}",
            hint="obtain the evidence, or record with `--waive TEXT` why it is accepted as it is",
        )


def _same_release(stored: Release, release: Release) -> Release:
    """The stored release, if the new one has its content."""
    if stored.is_same_content(release):
        return stored
    raise RefusedError(
        f"the release `{release.name}` exists with other content ({short(stored.digest)})",
        hint="releases are frozen: choose another name",
    )


def _refuse_unapproved(connection: Connection, release: Release) -> None:
    stored = {cell.id: cell for cell in query.select_cells(connection, CELLS.c.family == release.family)}
    for released in release.cells:
        now = stored.get(released.cell.id)
        if now is None or now.state != "approved" or now.artifact != released.manifest.digest:
            state = "not in the matrix" if now is None else now.state
            raise RefusedError(
                f"the release `{release.name}` holds `{released.cell.id}`, which is {state} now",
                hint="create the release again from the cells as they are now",
            )


def _refuse_removed(connection: Connection, release: Release) -> None:
    same = (REMOVALS.c.kind == "release", REMOVALS.c.name == release.name)
    if removed := query.select_removals(connection, *same):
        raise RefusedError(
            f"the release `{release.name}` was removed by {removed[0].who}: {removed[0].why}",
            hint="names are not used twice: choose another one",
        )


def _refuse_taken_version(connection: Connection, release: Release) -> None:
    if not release.version:
        return
    rows = connection.execute(sa.select(RELEASES).where(RELEASES.c.family == release.family)).all()
    for stored in (query.read_release(row) for row in rows):
        if stored.version >= release.version:
            raise RefusedError(
                f"release `{stored.name}` with version {stored.version} was created before `{release.name}` "
                f"with version {release.version}",
                hint="create the release again",
            )
