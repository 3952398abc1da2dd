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

from compilers.toolchain import Support, Supported, Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import LoadError, UnknownNameError
from registry.host import Host
from registry.target import Target, find_target, missing_features

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


def find_artifact_target(manifest: Manifest, accepts: ArtifactFormat) -> Target | Unsupported:
    """The target of an artifact, or why a runtime that accepts one format cannot run it anywhere."""
    if manifest.format != accepts:
        return Unsupported("never", f"the artifact's format is `{manifest.format}`, not `{accepts}`")
    try:
        return find_target(manifest.target, where="the manifest")
    except UnknownNameError as error:
        return Unsupported("not_implemented", error.message)


def check_host(host: Host, target: Target) -> Support:
    """Whether the host has the processor features or the accelerator that a target needs."""
    if not (missing := missing_features(host, target=target)):
        return Supported()
    if target.kind in ("cuda", "rocm"):
        return Unsupported("never", f"the host has no GPU that runs {', '.join(missing)} code")
    return Unsupported("never", f"the host lacks {', '.join(missing)} of `{target.name}`")


def check_runnable(runtime: Runtime, bundle: Bundle, host: Host, *, threads: int = 1) -> Target:
    """The target of a bundle that the runtime can run on this host.

    Raises:
        LoadError: The runtime or the host cannot run the artifact, or `threads` is less than 1.
    """
    support = runtime.supports(bundle.manifest, host)
    if isinstance(support, Unsupported):
        raise LoadError(
            f"`{bundle.path}` cannot run here: {support.reason}",
            hint="choose an artifact whose target this host has; `rung resolve` does that",
        )
    if threads < 1:
        raise LoadError(f"{threads} threads", hint="give at least 1 thread")
    return find_target(bundle.manifest.target, where="the manifest")
