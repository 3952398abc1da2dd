"""Alembic's environment: runs migrations on the connection, and in the transaction, that it is given."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from matrices.ledger import models
from matrices.ledger.db import VERSION_TABLE

assert models.APPEND_ONLY  # the import fills the metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # one transaction on SQLite as well: all of it or nothing
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
