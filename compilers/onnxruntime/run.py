"""ONNX Runtime's node side: loads a lowered bundle and runs it; needs neither onnx nor torch.

A session binds the memory of its cache to the graph's inputs and outputs, so that keys and values are
appended in place and never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from compilers.installed import required_version
from compilers.onnxruntime.cache import OrtKvMemory
from compilers.onnxruntime.plan import OrtStep, plan_steps
from compilers.ragged_cache import RaggedCache, check_cache_size, check_segments, own_cache
from compilers.runtime import (
    Bundle,
    Cache,
    FloatArray,
    Segment,
    check_host,
    check_runnable,
    find_artifact_target,
)
from compilers.toolchain import Support, Unsupported
from registry.artifact import ArtifactFormat, Manifest, ModelFacts
from registry.errors import LoadError, ToolchainMissingError
from registry.host import Host

Untyped: TypeAlias = Any
"""What onnxruntime returns: it ships no types."""

PROVIDER = "CPUExecutionProvider"
OLDEST = "1.32"
"""First version whose attention kernel takes `query_seqlens` on the CPU."""
EXACT_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""Processor flags, one of which makes u8 × s8 products exact without the slower kernel."""
KEPT_BINDINGS = 16
"""Row ranges of a cache whose bindings are kept for the next call."""


class OnnxRuntime:
    """Runs artifacts of the format `onnxruntime` on the CPU execution provider."""

    accepts: ArtifactFormat = "onnxruntime"

    def version(self) -> str:
        """Version of onnxruntime.

        Raises:
            ToolchainMissingError: It is not installed, or too old.
        """
        return required_version("onnxruntime", "onnxruntime-gpu", versions=f">={OLDEST}", extra="serve")

    def supports(self, manifest: Manifest, host: Host) -> Support:
        """Whether the host has what the manifest's target asks for."""
        target = find_artifact_target(manifest, self.accepts)
        if isinstance(target, Unsupported):
            return target
        if target.kind != "cpu":
            return Unsupported("not_implemented", f"`{target.name}` is not a CPU target")
        return check_host(host, target)

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> OrtSession:
        """A session on `threads` threads.

        Raises:
            LoadError: The host cannot run it, or the files cannot be loaded.
        """
        check_runnable(self, bundle, host, threads=threads)
        ort = _import()
        path = bundle.path / bundle.manifest.entry
        try:
            session = ort.InferenceSession(str(path), _options(ort, host, threads), providers=[PROVIDER])
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise LoadError(
                f"`{path}` cannot be loaded by onnxruntime {ort.__version__}: {error}",
                hint=f"the bundle is damaged, or needs onnxruntime {bundle.manifest.toolchain_version}",
            ) from error
        if session.get_providers() != [PROVIDER]:
            raise LoadError(
                f"onnxruntime runs `{path}` on {session.get_providers()} instead of {PROVIDER}",
                hint="install the package `onnxruntime` alone",
            )
        return OrtSession(session, bundle.manifest.facts)


class OrtSession:
    """One loaded artifact. Not safe for concurrent calls."""

    def __init__(self, session: Untyped, facts: ModelFacts) -> None:
        self.vocab_size = facts.vocab_size
        self.max_context = facts.max_context
        self._facts = facts
        self._session = session

    def new_cache(self, *, rows: int, capacity: int) -> RaggedCache[OrtKvMemory]:
        """An empty cache.

        Raises:
            LoadError: More capacity than the checkpoint has positions, or no memory.
        """
        check_cache_size(rows=rows, capacity=capacity, max_context=self.max_context)
        memory = OrtKvMemory(self._facts, rows=rows, capacity=capacity)
        return RaggedCache(memory, owner=self, rows=rows, capacity=capacity)

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits, float32 [1 or tokens, vocab].

        Raises:
            LoadError: A segment that cannot be appended; nothing was appended.
        """
        own = own_cache(cache, owner=self, memory=OrtKvMemory)
        check_segments(own, segments, vocab_size=self.vocab_size)
        found: list[list[FloatArray]] = [[] for _ in segments]
        before = list(own.lengths)
        try:
            for step in plan_steps(segments, own.lengths, positions=own.memory.positions):
                self._run(own, step, segments, found)
        except LoadError:
            own.lengths[:] = before
            raise
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in found]

    def _run(
        self,
        cache: RaggedCache[OrtKvMemory],
        step: OrtStep,
        segments: Sequence[Segment],
        found: list[list[FloatArray]],
    ) -> None:
        feeds, counts = _feeds(cache, step, segments)
        binding = self._binding(cache.memory, step)
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        logits = np.empty((sum(counts), self.vocab_size), np.float32)
        kept = logits if logits.size else np.empty((1, self.vocab_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, list(logits.shape), kept.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise LoadError(
                f"onnxruntime failed on {len(step.pieces)} rows of up to {step.width} tokens: {error}",
                hint="free some memory, or use smaller batches",
            ) from error
        begin = 0
        for piece, count in zip(step.pieces, counts, strict=True):
            cache.lengths[piece.row] += piece.tokens
            if count:
                found[piece.index].append(logits[begin : begin + count])
            begin += count

    def _binding(self, memory: OrtKvMemory, step: OrtStep) -> Untyped:
        """A binding with the memory's rows of this step bound; kept for steps on the same rows."""
        key = (step.first, step.last)
        if key in memory.bindings:
            memory.bindings.move_to_end(key)
            return memory.bindings[key]
        binding = self._session.io_binding()
        names = [f"{layer}.{part}" for layer in range(self._facts.layers) for part in ("key", "value")]
        for name, buffer in zip(names, memory.buffers, strict=True):
            rows = buffer[step.first : step.last + 1]
            place = ("cpu", 0, np.float32, list(rows.shape), rows.ctypes.data)
            binding.bind_input(f"past.{name}", *place)
            binding.bind_output(f"present.{name}", *place)
        memory.bindings[key] = binding
        if len(memory.bindings) > KEPT_BINDINGS:
            memory.bindings.popitem(last=False)
        return binding


def _feeds(
    cache: RaggedCache[OrtKvMemory], step: OrtStep, segments: Sequence[Segment]
) -> tuple[dict[str, NDArray[np.generic]], list[int]]:
    """The graph's inputs for a step but for the cache, and how many logits each piece gets."""
    rows, width = step.last - step.first + 1, step.width
    queries = np.zeros(rows, np.int32)
    last = np.zeros(rows, np.int32)
    for row in range(rows):
        # A row that is carried along brings no query; the kernel still wants it to hold one token or more.
        last[row] = max(cache.lengths[step.first + row] - 1, 0)
    spread = np.zeros((rows, width), np.int64)
    tokens: list[int] = []
    places: list[NDArray[np.int64]] = []
    wanted: list[int] = []
    counts: list[int] = []
    for piece in step.pieces:
        segment, row, begin = segments[piece.index], piece.row - step.first, len(tokens)
        tokens.extend(segment.tokens[piece.begin : piece.end])
        end = len(tokens)
        spread[row, : piece.tokens] = np.arange(begin, end)
        places.append(np.arange(piece.tokens, dtype=np.int64) + row * width)
        queries[row] = piece.tokens
        last[row] = cache.lengths[piece.row] + piece.tokens - 1
        if segment.logits == "all":
            wanted.extend(range(begin, end))
            counts.append(piece.tokens)
        elif piece.end == len(segment.tokens):
            wanted.append(end - 1)
            counts.append(1)
        else:
            counts.append(0)
    feeds: dict[str, NDArray[np.generic]] = {
        "input_ids": np.asarray(tokens, np.int64),
        "spread": spread,
        "pack": np.concatenate(places),
        "query_lengths": queries,
        "last_positions": last,
        "total": np.asarray(max(int(last.max()) + 1, width), np.int32),
        "logit_index": np.asarray(wanted, np.int64),
    }
    return feeds, counts


def _options(ort: Untyped, host: Host, threads: int) -> Untyped:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if host.architecture == "x86_64" and not EXACT_INT8 & set(host.features):
        # Without these instructions u8 × s8 products saturate in 16 bits; this takes the exact kernel
        # instead.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _import() -> Untyped:
    OnnxRuntime().version()
    try:
        import onnxruntime
    except ImportError as error:
        raise ToolchainMissingError(
            f"onnxruntime cannot be imported: {error}", hint="install `rung[serve]`"
        ) from error
    return onnxruntime
