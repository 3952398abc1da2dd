"""Database tables of the matrix, written by `matrices/ledger/ledger.py` and read by `query.py` beside it.

`SQLModel(table=True)` does not validate, so a row is always made from a value that is already validated
(`db_rows.py`). Everything that people filter by is a column; the numbers of a cell that are always read
together are one JSON text. Evidence, rulings, releases and removals are append-only, enforced by triggers in
the database (`matrices/ledger/migrations`). Table names start with `rung_`, so that Rung can share a
database.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Column, DateTime, Dialect, ForeignKey, Index, Text
from sqlalchemy.types import TypeDecorator
from sqlmodel import BigInteger, Field, Integer, SQLModel

APPEND_ONLY = (
    "rung_evidence",
    "rung_ruling",
    "rung_ruling_seal",
    "rung_release",
    "rung_release_cell",
    "rung_removal",
)
"""Tables in which no row is ever changed or removed."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in UTC on every database, including SQLite, which has no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: UTC, without its zone where the database has none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the time {value.isoformat()} has no zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _sequence() -> Column[int]:
    # SQLite numbers only INTEGER keys automatically.
    return Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)


class StageRow(SQLModel, table=True):
    """A finished stage of a build, from which builds resume."""

    __tablename__ = "rung_stage"

    key: str = Field(primary_key=True)
    """Build key."""
    stage: str = Field(index=True)
    output: str = Field(sa_type=Text)
    """JSON of the stage's result."""
    started_at: datetime = Field(sa_type=UtcDateTime)
    finished_at: datetime = Field(sa_type=UtcDateTime)
    seconds: float
    peak_memory_bytes: int | None = Field(default=None, sa_type=BigInteger)


class CellRow(SQLModel, table=True):
    """A cell as it is now."""

    __tablename__ = "rung_cell"
    __table_args__ = (
        Index("ix_rung_cell_place", "family", "target", "toolchain", "recipe"),
        Index("ix_rung_cell_state", "state"),
        Index("ix_rung_cell_artifact", "artifact"),
    )

    id: str = Field(primary_key=True)
    family: str
    checkpoint: str
    checkpoint_digest: str
    tier: int
    recipe: str
    target: str
    toolchain: str
    state: str
    reason: str = Field(default="", sa_type=Text)
    build_key: str | None = None
    artifact: str | None = None
    size_bytes: int | None = Field(default=None, sa_type=BigInteger)
    payload: str = Field(sa_type=Text)
    """JSON of the numbers: `parity`, `tasks`, and, if known, `rehearsal`, `variant` and `speed`."""
    log: str | None = None
    updated_at: datetime = Field(sa_type=UtcDateTime)


class EvidenceRow(SQLModel, table=True):
    """One step of a cell's evidence; append-only."""

    __tablename__ = "rung_evidence"

    seq: int | None = Field(default=None, sa_column=_sequence())
    """The order in which evidence was recorded."""
    cell_id: str = Field(foreign_key="rung_cell.id", index=True)
    state: str
    digest: str | None = None
    at: datetime = Field(sa_type=UtcDateTime)
    detail: str = Field(default="", sa_type=Text)
    measurement: str | None = Field(default=None, sa_type=Text)
    """JSON of what it was measured on (`matrices/cells/measurement.py`); null if nothing was measured."""


class RulingRow(SQLModel, table=True):
    """What a person ruled on a cell: approve, reject or withdraw; append-only."""

    __tablename__ = "rung_ruling"

    seq: int | None = Field(default=None, sa_column=_sequence())
    cell_id: str = Field(foreign_key="rung_cell.id", index=True)
    verb: str
    who: str
    why: str = Field(sa_type=Text)
    at: datetime = Field(sa_type=UtcDateTime)
    artifact: str | None = None
    """The artifact that was reviewed."""
    waiver: str | None = Field(default=None, sa_type=Text)
    missing: str = Field(sa_type=Text)
    """JSON list: the evidence that was missing at the time."""


class RulingSealRow(SQLModel, table=True):
    """The signature over a ruling and the one before (`matrices/releases/ruling_chain.py`); append-only."""

    __tablename__ = "rung_ruling_seal"

    ruling: int = Field(
        sa_column=Column(
            BigInteger().with_variant(Integer(), "sqlite"),
            ForeignKey("rung_ruling.seq"),
            primary_key=True,
            autoincrement=False,
        )
    )
    """`seq` of the ruling."""
    previous: str | None = None
    digest: str
    adopted: str | None = Field(default=None, sa_type=Text)
    key: str
    signature: str = Field(sa_type=Text)


class ReleaseRow(SQLModel, table=True):
    """A release that was created; append-only."""

    __tablename__ = "rung_release"

    name: str = Field(primary_key=True)
    family: str = Field(index=True)
    digest: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str
    document: str = Field(sa_type=Text)
    """JSON of the release."""


class ReleaseCellRow(SQLModel, table=True):
    """Which cell, with which artifact, is in which release; append-only."""

    __tablename__ = "rung_release_cell"

    release: str = Field(primary_key=True, foreign_key="rung_release.name")
    cell_id: str = Field(primary_key=True, foreign_key="rung_cell.id", index=True)
    artifact: str


class RemovalRow(SQLModel, table=True):
    """A release or a checkpoint that a person removed; append-only."""

    __tablename__ = "rung_removal"
    __table_args__ = (Index("ix_rung_removal_name", "kind", "name"),)

    seq: int | None = Field(default=None, sa_column=_sequence())
    kind: str
    """`release` or `checkpoint`."""
    name: str
    digest: str
    who: str
    why: str = Field(sa_type=Text)
    at: datetime = Field(sa_type=UtcDateTime)
    overridden: str = Field(sa_type=Text)
    """JSON list: what depended on it and was overridden."""
