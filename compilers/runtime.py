"""The contract of a runtime: how an artifact is run, on the target machine.

A `Session` is one loaded artifact. It advances rows of a KV cache by segments of tokens and returns logits.
That one call covers prefill, decode with a cache, continuation after a shared prefix, mixed batches and
log-likelihoods, so lm-eval and the server use the very same code: what is evaluated is what is shipped.

This module imports neither torch nor a compiler: a serving node installs it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from compilers.toolchain import Support
from registry.artifact import ArtifactFormat, Manifest
from registry.host import Host

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An artifact on disk: verified files and their manifest."""

    manifest: Manifest
    path: Path
    """Directory with exactly the manifest's files and `manifest.json`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens to append to one row of a cache, and which logits are wanted."""

    row: int
    tokens: Sequence[int]
    """At least one token id."""
    logits: Literal["last", "all"] = "last"


class Cache(Protocol):
    """KV cache of a fixed number of rows, each with its own length.

    Rows are independent sequences. Runtimes run fastest when the rows of one call are contiguous.
    """

    rows: int
    capacity: int
    """Tokens that one row can hold."""

    def length(self, row: int) -> int:
        """Tokens that a row holds."""
        ...

    def truncate(self, row: int, *, length: int) -> None:
        """Forget a row's tokens from `length` on (0: an empty row)."""
        ...

    def copy(self, *, source: int, row: int, length: int) -> None:
        """Make `row` hold the first `length` tokens of row `source`."""
        ...


class Session(Protocol):
    """One loaded artifact. Not safe for concurrent calls."""

    vocab_size: int
    max_context: int

    def new_cache(self, *, rows: int, capacity: int) -> Cache:
        """An empty cache of `rows` rows of at most `capacity` tokens each."""
        ...

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits, float32 of shape [1 or len(tokens), vocab].

        Each row appears in at most one segment. Results do not depend on which segments run together (up to
        floating-point summation order).

        Raises:
            LoadError: A row would exceed the cache's capacity; nothing was appended.
        """
        ...


class Runtime(Protocol):
    """How artifacts of one format are run."""

    accepts: ArtifactFormat

    def version(self) -> str:
        """Version of the runtime library, recorded with all evidence.

        Raises:
            ToolchainMissingError: It is not installed.
        """
        ...

    def supports(self, manifest: Manifest, host: Host) -> Support:
        """Whether this artifact can run on this host, and why not; reads no file."""
        ...

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> Session:
        """A session that runs exactly as the manifest says.

        Raises:
            LoadError: The host lacks something, the files are damaged, or the library would silently run it
                in another way than it was evaluated.
        """
        ...
