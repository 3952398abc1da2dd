"""The values of a proof's rules: what is claimed of an artifact, what was read of it, what a backend demands.

`compilers/backend.py` holds a `Claims` for each format and kind of target; `rules.py` judges by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from compilers.lazy import Lazy
from compilers.proof.proof import Binary, BinaryKind
from registry.artifact import ArtifactFormat
from registry.target import Target

if TYPE_CHECKING:  # so that only the prove stage depends on how binaries are read
    from compilers.proof.elf import Image
    from compilers.proof.graph import OnnxGraph


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said of an artifact."""

    format: ArtifactFormat
    toolchain: str
    target: Target
    entry: str
    files: tuple[str, ...]
    options: Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class FileReading:
    """One binary, and what is needed to judge it."""

    binary: Binary
    image: Image | None = None
    code: bytes = b""
    """The image's bytes."""
    exports: frozenset[str] = frozenset()
    """All exported functions; the binary's record names the first of them."""


@dataclass(slots=True)
class Readings:
    """All that was read of an artifact."""

    directory: Path
    readings: Sequence[FileReading]
    graphs: Mapping[str, OnnxGraph]
    notes: list[str] = field(default_factory=list)

    def of(self, *kinds: BinaryKind) -> list[FileReading]:
        """The binaries of some kinds."""
        return [reading for reading in self.readings if reading.binary.kind in kinds]


Rule = Callable[[Claim, Readings], Iterator[str]]
"""Where an artifact differs from what its format demands, as sentences."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What artifacts of one format must hold for one kind of target, and what they must not."""

    code: frozenset[BinaryKind]
    """What does the work; one of these must be there."""
    around: frozenset[BinaryKind] = frozenset()
    """What else may be there."""
    rules: tuple[Lazy[Rule], ...] = ()
    """What the format demands beyond that."""
    graph_compiler: str = "the node's own compiler"
    """What makes machine code of an artifact that is a graph, for the summary."""


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """What a backend's reader finds in code whose form it alone knows."""

    kind: BinaryKind
    machine: str
    """As in `Binary`."""
    architectures: tuple[str, ...] = ()
    """Such as `v73`, sorted."""
    flags: str = ""
    """In the form's own notation."""
    tool: str = "its own form"
    """Which tool said so."""
    complaint: str = ""
    """What is wrong with it, as the end of a sentence about it."""


CodeReader = Callable[[bytes | mmap], CodeFacts]
"""Reads code; damage is a complaint, never an error."""
