"""Releases: frozen, signed sets of approved cells, and the rulings they rest on."""
