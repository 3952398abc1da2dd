"""The database of cells, rulings, releases and build records; the ledger is its only writer."""
