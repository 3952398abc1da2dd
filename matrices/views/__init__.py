"""Read-only views of the matrix: tables, cell pages, differences between releases."""
