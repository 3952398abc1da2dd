"""Evidence says by what means it was obtained, and with which driver."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; all evidence so far was obtained on the chip itself."""
    op.add_column("rung_evidence", sa.Column("via", sa.String(), nullable=False, server_default="chip"))
    op.add_column("rung_evidence", sa.Column("driver", sa.String()))
