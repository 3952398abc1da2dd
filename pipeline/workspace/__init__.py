"""Upkeep of a workspace: locks, releases, inspection and repair."""
