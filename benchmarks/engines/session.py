"""Rung: a bundle, loaded by its runtime, through the same `Session` that lm-eval and the server use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compilers.backend import find_runtime
from compilers.runtime import Bundle, FloatArray, Segment
from registry.artifact import MANIFEST_NAME, Manifest
from serving.node.host import this_host


class SessionEngine:
    """A session with a cache of one row."""

    def __init__(self, path: Path, *, threads: int, capacity: int) -> None:
        manifest = Manifest.read_json(path / MANIFEST_NAME)
        self._runtime = find_runtime(manifest.format)
        bundle = Bundle(manifest=manifest, path=path)
        self._session = self._runtime.load(bundle, this_host(), threads=threads)
        self._cache = self._session.new_cache(rows=1, capacity=capacity)
        self._last = 0

    def version(self) -> str:
        """The runtime's library and its version."""
        return f"{self._runtime.accepts} {self._runtime.version()}"

    def reset(self) -> None:
        """Empty the row."""
        self._cache.truncate(0, length=0)

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt."""
        return self._forward(tokens)

    def decode(self) -> int:
        """One more token."""
        return self._forward([self._last])

    def generate(self, prompts: Sequence[Sequence[int]], *, tokens: int) -> tuple[tuple[int, ...], ...]:
        """Several sequences together, in a cache of their own."""
        rows = len(prompts)
        cache = self._session.new_cache(rows=rows, capacity=max(map(len, prompts)) + tokens)
        segments = [Segment(row=row, tokens=prompt) for row, prompt in enumerate(prompts)]
        outputs: list[list[int]] = [[] for _ in prompts]
        for _ in range(tokens):
            for row, logits in enumerate(self._session.forward(cache, segments)):
                outputs[row].append(int(logits[-1].argmax()))
            segments = [Segment(row=row, tokens=output[-1:]) for row, output in enumerate(outputs)]
        return tuple(tuple(output) for output in outputs)

    def logits(self, tokens: Sequence[int], *, singly: int) -> FloatArray:
        """Logits of all positions of a text, its last `singly` tokens read one by one."""
        self.reset()
        cut = len(tokens) - singly
        pieces = [tokens[:cut], *([token] for token in tokens[cut:])]
        found = [self._session.forward(self._cache, [Segment(0, piece, "all")])[0] for piece in pieces]
        return np.concatenate(found)

    def _forward(self, tokens: Sequence[int]) -> int:
        (logits,) = self._session.forward(self._cache, [Segment(row=0, tokens=tokens)])
        self._last = int(logits[-1].argmax())
        return self._last
