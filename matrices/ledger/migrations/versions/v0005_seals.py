"""Rulings are signed: a table of seals beside them. Earlier ones have none until a person signs them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = "rung_ruling_seal"


def upgrade() -> None:
    """Create the table, append-only as the rulings are."""
    op.create_table(
        _TABLE,
        sa.Column(
            "ruling",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.ForeignKey("rung_ruling.seq"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("previous", sa.String()),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("adopted", sa.Text()),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        _forbid_changes_in_sqlite()
    else:
        _forbid_changes_in_postgresql()


def _forbid_changes_in_sqlite() -> None:
    refusal = f"SELECT RAISE(ABORT, '{_TABLE} is append-only')"
    for verb in ("UPDATE", "DELETE"):
        name = f"{_TABLE}_no_{verb.lower()}"
        op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {_TABLE} BEGIN {refusal}; END")
    op.execute(
        f"CREATE TRIGGER {_TABLE}_no_replace BEFORE INSERT ON {_TABLE} "
        f"WHEN EXISTS (SELECT 1 FROM {_TABLE} WHERE ruling = NEW.ruling) BEGIN {refusal}; END"
    )


def _forbid_changes_in_postgresql() -> None:
    op.execute(
        f"CREATE TRIGGER {_TABLE}_no_change BEFORE UPDATE OR DELETE ON {_TABLE} "
        "FOR EACH ROW EXECUTE FUNCTION rung_refuse_change()"
    )
    op.execute(
        f"CREATE TRIGGER {_TABLE}_no_truncate BEFORE TRUNCATE ON {_TABLE} "
        "FOR EACH STATEMENT EXECUTE FUNCTION rung_refuse_change()"
    )
