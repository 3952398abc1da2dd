"""Compiled files → the proof of what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compilers.backend import find_backend
from compilers.proof.prove import prove
from pipeline.stages.prove import ProveOutput
from registry.target import find_target


def prove_files(
    directory: Path,
    *,
    files: tuple[str, ...],
    entry: str,
    options: Mapping[str, str | int | float | bool],
    target: str,
    toolchain: str,
) -> ProveOutput:
    """Open compiled files with standard tools.

    Args:
        directory: Where the files are.
        files: Their names.
        entry: The name of the one that a runtime opens first.
        options: As the toolchain gave them.
        target: What they were compiled for.
        toolchain: What compiled them.
    """
    proof = prove(
        directory,
        files=files,
        entry=entry,
        format=find_backend(toolchain).format.name,
        toolchain=toolchain,
        target=find_target(target),
        options=options,
    )
    return ProveOutput(proof=proof)
