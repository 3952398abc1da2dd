"""The first schema: stages, cells, evidence, rulings and releases, with the append-only triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_KEYS = {
    "rung_evidence": ("seq",),
    "rung_ruling": ("seq",),
    "rung_release": ("name",),
    "rung_release_cell": ("release", "cell_id"),
}
"""Append-only tables and their primary keys."""


def upgrade() -> None:
    """Create everything."""
    _create_stage_and_cell()
    _create_evidence_and_ruling()
    _create_release()
    if op.get_bind().dialect.name == "sqlite":
        _forbid_changes_in_sqlite()
    else:
        _forbid_changes_in_postgresql()


def _create_stage_and_cell() -> None:
    op.create_table(
        "rung_stage",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger()),
    )
    op.create_index("ix_rung_stage_stage", "rung_stage", ["stage"])
    op.create_table(
        "rung_cell",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("checkpoint", sa.String(), nullable=False),
        sa.Column("checkpoint_digest", sa.String(), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("toolchain", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("build_key", sa.String()),
        sa.Column("artifact", sa.String()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("log", sa.String()),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    op.create_index("ix_rung_cell_place", "rung_cell", ["family", "target", "toolchain", "recipe"])
    op.create_index("ix_rung_cell_state", "rung_cell", ["state"])
    op.create_index("ix_rung_cell_artifact", "rung_cell", ["artifact"])


def _create_evidence_and_ruling() -> None:
    op.create_table(
        "rung_evidence",
        sa.Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("cell_id", sa.String(), sa.ForeignKey("rung_cell.id"), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("digest", sa.String()),
        sa.Column("runtime", sa.String()),
        sa.Column("runtime_version", sa.String()),
        sa.Column("chip", sa.String()),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_index("ix_rung_evidence_cell_id", "rung_evidence", ["cell_id"])
    op.create_table(
        "rung_ruling",
        sa.Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("cell_id", sa.String(), sa.ForeignKey("rung_cell.id"), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("artifact", sa.String()),
        sa.Column("waiver", sa.Text()),
        sa.Column("missing", sa.Text(), nullable=False),
    )
    op.create_index("ix_rung_ruling_cell_id", "rung_ruling", ["cell_id"])


def _create_release() -> None:
    op.create_table(
        "rung_release",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
    )
    op.create_index("ix_rung_release_family", "rung_release", ["family"])
    op.create_table(
        "rung_release_cell",
        sa.Column("release", sa.String(), sa.ForeignKey("rung_release.name"), primary_key=True),
        sa.Column("cell_id", sa.String(), sa.ForeignKey("rung_cell.id"), primary_key=True),
        sa.Column("artifact", sa.String(), nullable=False),
    )
    op.create_index("ix_rung_release_cell_cell_id", "rung_release_cell", ["cell_id"])


def _forbid_changes_in_sqlite() -> None:
    for table, key in _KEYS.items():
        refusal = f"SELECT RAISE(ABORT, '{table} is append-only')"
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_no_{verb.lower()}"
            op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {table} BEGIN {refusal}; END")
        # INSERT OR REPLACE removes the old row without firing the trigger on DELETE.
        same = " AND ".join(f"{column} = NEW.{column}" for column in key)
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) BEGIN {refusal}; END"
        )


def _forbid_changes_in_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION rung_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in _KEYS:
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION rung_refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION rung_refuse_change()"
        )
