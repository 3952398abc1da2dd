"""Migrations of the matrix's database: Alembic's environment and one file per schema version, in order.

A new version is a new file `versions/vNNNN_what.py` with `revision = "NNNN"`; released files never change.
`matrices.ledger.db.open_database` applies them. A test compares the result with `matrices/ledger/models.py`.
"""
