"""Convert values to database rows and back; the tables are in `matrices/ledger/models.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Row

from compilers.check.parity import Parity
from compilers.check.speed import Speed
from matrices.cells.cell import Cell, Evidence, TaskResult, VariantFacts
from matrices.cells.measurement import Measurement
from matrices.ledger.build_records import BuildRecord
from matrices.ledger.removal import Removal
from matrices.releases.ruling import Ruling
from matrices.releases.ruling_chain import Seal
from registry.digest import canonical_json
from registry.document import Document, JsonObject, Upgrade
from registry.errors import CorruptError, SchemaError
from registry.value import Value, describe

Columns = dict[str, Any]  # Any: what a database column can hold
_CELL_COLUMNS = (
    "id", "family", "checkpoint", "checkpoint_digest", "tier", "recipe", "target", "toolchain", "state",
    "reason", "build_key", "artifact", "size_bytes", "log", "updated_at",
)  # fmt: skip
_EVIDENCE_COLUMNS = ("state", "digest", "at", "detail")
_REMOVAL_COLUMNS = ("kind", "name", "digest", "who", "why", "at")
_NUMBERS = ("parity", "tasks", "rehearsal", "variant", "speed")
_HINT = "it was edited outside Rung or written by another version; restore a backup of the database"
_Kind = TypeVar("_Kind", bound=Value)


def _to_version_2(document: JsonObject) -> JsonObject:
    """Version 2 added rehearsals, variants and speeds, all of which may be absent."""
    return document


class CellNumbers(Document):
    """The numbers of a cell that are always read together, as one JSON text."""

    KIND: ClassVar[str] = "cell"
    RENEW: ClassVar[str] = "restore a backup of the database"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (_to_version_2,)

    schema_version: Literal[2] = 2
    parity: Parity | None
    tasks: tuple[TaskResult, ...]
    rehearsal: Parity | None = None
    variant: VariantFacts | None = None
    speed: Speed | None = None


_TEXTS = TypeAdapter(tuple[str, ...])


def cell_columns(cell: Cell) -> Columns:
    """The row of a cell; its evidence is stored in rows of another table."""
    numbers = canonical_json(CellNumbers(**{name: getattr(cell, name) for name in _NUMBERS})).decode()
    return storable({name: getattr(cell, name) for name in _CELL_COLUMNS} | {"payload": numbers})


def evidence_columns(entry: Evidence, *, cell: str) -> Columns:
    """The row of one step of evidence."""
    columns: Columns = {name: getattr(entry, name) for name in _EVIDENCE_COLUMNS}
    on = entry.measurement
    return storable(
        columns | {"cell_id": cell, "measurement": None if on is None else canonical_json(on).decode()}
    )


def ruling_columns(ruling: Ruling) -> Columns:
    """The row of a ruling."""
    columns: Columns = {
        name: getattr(ruling, name) for name in ("verb", "who", "why", "at", "artifact", "waiver")
    }
    return storable(columns | {"cell_id": ruling.cell, "missing": json.dumps(ruling.missing)})


def removal_columns(removal: Removal) -> Columns:
    """The row of a removal."""
    columns: Columns = {name: getattr(removal, name) for name in _REMOVAL_COLUMNS}
    return storable(columns | {"overridden": json.dumps(removal.overridden)})


def seal_columns(seal: Seal, *, ruling: int) -> Columns:
    """The row of a ruling's seal.

    Args:
        seal: The seal.
        ruling: `seq` of the ruling.
    """
    return storable({name: getattr(seal, name) for name in Seal.model_fields} | {"ruling": ruling})


def stage_columns(record: BuildRecord) -> Columns:
    """The row of a finished stage."""
    columns: Columns = {name: getattr(record, name) for name in BuildRecord.model_fields}
    return storable(columns | {"output": canonical_json(record.output).decode()})


def read_cell(row: Row[Any], *, evidence: Iterable[Evidence]) -> Cell:  # Any: a row's columns
    """The cell of a row."""
    stored = row._mapping
    with_numbers = {name: stored[name] for name in _CELL_COLUMNS}
    try:
        numbers = CellNumbers.parse(stored["payload"], where=str(with_numbers["id"]))
    except SchemaError as error:
        raise CorruptError(f"the database's {error.message}", hint=_HINT) from error
    with_numbers |= {name: getattr(numbers, name) for name in _NUMBERS} | {"evidence": tuple(evidence)}
    return _read(Cell, with_numbers, name=str(with_numbers["id"]))


def read_evidence(row: Row[Any]) -> Evidence:  # Any: a row's columns
    """The step of evidence of a row."""
    stored = row._mapping
    name = f"{stored['seq']} of {stored['cell_id']}"
    columns = {name: stored[name] for name in _EVIDENCE_COLUMNS}
    if (document := stored["measurement"]) is not None:
        try:
            columns["measurement"] = Measurement.model_validate_json(document)
        except ValidationError as error:
            raise _corrupt("evidence", name, error) from error
    return _read(Evidence, columns, name=name)


def read_ruling(row: Row[Any]) -> Ruling:  # Any: a row's columns
    """The ruling of a row."""
    columns = {name: row._mapping[name] for name in ("verb", "who", "why", "at", "artifact", "waiver")}
    name = f"{row._mapping['seq']} of {row._mapping['cell_id']}"
    try:
        missing = _TEXTS.validate_json(row._mapping["missing"])
    except ValidationError as error:
        raise _corrupt("ruling", name, error) from error
    return _read(Ruling, columns | {"cell": row._mapping["cell_id"], "missing": missing}, name=name)


def read_removal(row: Row[Any]) -> Removal:  # Any: a row's columns
    """The removal of a row."""
    columns = {name: row._mapping[name] for name in _REMOVAL_COLUMNS}
    name = f"{row._mapping['seq']}"
    try:
        overridden = _TEXTS.validate_json(row._mapping["overridden"])
    except ValidationError as error:
        raise _corrupt("removal", name, error) from error
    return _read(Removal, columns | {"overridden": overridden}, name=name)


def read_seal(row: Row[Any]) -> Seal | None:  # Any: a row's columns
    """The seal of a row of rulings joined with their seals; None where there is none."""
    stored = row._mapping
    if stored["digest"] is None:
        return None
    return _read(Seal, {name: stored[name] for name in Seal.model_fields}, name=f"seal {stored['seq']}")


def read_stage(row: Row[Any]) -> BuildRecord:  # Any: a row's columns
    """The finished stage of a row."""
    columns = {name: row._mapping[name] for name in BuildRecord.model_fields}
    try:
        columns["output"] = json.loads(columns["output"])
    except ValueError as error:
        raise CorruptError(
            f"the output of stage `{columns['key']}` is not JSON: {error}",
            hint="restore a backup of the database",
        ) from error
    return _read(BuildRecord, columns, name=str(columns["key"]))


def storable(columns: Mapping[str, Any]) -> Columns:  # Any: what a database column can hold
    """The columns with text that every database accepts: no NUL, no lone surrogate (compilers print both)."""
    return {name: _clean(value) if isinstance(value, str) else value for name, value in columns.items()}


def _clean(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _read(kind: type[_Kind], columns: Columns, *, name: str) -> _Kind:
    try:
        return kind.model_validate(columns)
    except ValidationError as error:
        raise _corrupt(kind.__name__.lower(), name, error) from error


def _corrupt(kind: str, name: str, error: ValidationError) -> CorruptError:
    return CorruptError(
        f"the database's {kind} `{name}` cannot be read: {describe(error)}",
        hint=_HINT,
    )
