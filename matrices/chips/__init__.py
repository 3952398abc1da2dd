"""Chips as data, and how much of a chip an artifact uses."""
