"""Cells of the compatibility matrix and the evidence in them."""
