"""A workspace: its locks and releases, and its upkeep (inspection and repair)."""
