"""Proof from the binary: what a compiled artifact really holds, read from its bytes by standard tools.

`prove.py` opens every file, `carve.py` finds machine code inside containers, one module per kind of code says
what it is (`elf`, `cuda`, `amdgpu`, `spirv`, `qnn`, `graph`), `instructions` disassembles, and `rules` holds
what was found against what the manifest says.
"""
