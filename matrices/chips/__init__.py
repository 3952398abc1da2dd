"""Chips as data, the memory of a host, and how much of a chip's speed an artifact reaches."""
