"""What evidence was measured on becomes one JSON document, so that a new fact needs no new column."""

from __future__ import annotations

import json
from datetime import UTC

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = ("runtime", "runtime_version", "chip", "driver", "via")
_EVIDENCE = sa.table(
    "rung_evidence",
    sa.column("seq", sa.Integer()),
    sa.column("at", sa.DateTime(timezone=True)),
    sa.column("measurement", sa.Text()),
    *(sa.column(name, sa.String()) for name in _COLUMNS),
)


def upgrade() -> None:
    """Move the columns into the document; where they are empty, nothing was measured."""
    op.add_column("rung_evidence", sa.Column("measurement", sa.Text()))
    connection = op.get_bind()
    is_sqlite = connection.dialect.name == "sqlite"
    _allow_update(is_sqlite=is_sqlite)
    for row in connection.execute(sa.select(_EVIDENCE)).mappings().all():
        if (document := _measurement(row)) is not None:
            change = sa.update(_EVIDENCE).where(_EVIDENCE.c.seq == row["seq"])
            connection.execute(change.values(measurement=document))
    _forbid_update(is_sqlite=is_sqlite)
    for name in _COLUMNS:
        op.drop_column("rung_evidence", name)


def _measurement(row: sa.RowMapping) -> str | None:
    found = {name: row[name] for name in _COLUMNS}
    if found == dict.fromkeys(_COLUMNS) | {"via": "chip"}:
        return None
    at = row["at"].replace(tzinfo=UTC) if row["at"].tzinfo is None else row["at"].astimezone(UTC)
    document = found | {"at": at.isoformat().replace("+00:00", "Z")}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _allow_update(*, is_sqlite: bool) -> None:
    if is_sqlite:
        op.execute("DROP TRIGGER rung_evidence_no_update")
    else:
        op.execute("ALTER TABLE rung_evidence DISABLE TRIGGER rung_evidence_no_change")


def _forbid_update(*, is_sqlite: bool) -> None:
    if is_sqlite:
        op.execute(
            "CREATE TRIGGER rung_evidence_no_update BEFORE UPDATE ON rung_evidence "
            "BEGIN SELECT RAISE(ABORT, 'rung_evidence is append-only'); END"
        )
    else:
        op.execute("ALTER TABLE rung_evidence ENABLE TRIGGER rung_evidence_no_change")
