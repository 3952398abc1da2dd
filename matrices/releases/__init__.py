"""Releases: frozen, signed sets of approved cells, and the rulings that approved them."""
