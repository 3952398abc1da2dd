"""A session over transformers, as plain as possible: each row runs alone, and the cache keeps token ids only.

Slow and obviously right: the yardstick for what batching, prefix reuse and compaction must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compilers.runtime import FloatArray, Segment


class TokenCache:
    """Rows of token ids."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    def length(self, row: int) -> int:
        return len(self.tokens[row])

    def truncate(self, row: int, *, length: int) -> None:
        assert length <= len(self.tokens[row])
        del self.tokens[row][length:]

    def copy(self, *, source: int, row: int, length: int) -> None:
        assert length <= len(self.tokens[source])
        self.tokens[row] = self.tokens[source][:length]


class RecomputingSession:
    """Computes every row anew from its tokens, and counts what it was asked."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.vocab_size: int = model.config.vocab_size
        self.max_context: int = model.config.max_position_embeddings
        self.calls: list[int] = []
        """Tokens appended by each call of `forward`."""

    @classmethod
    def of(cls, checkpoint: Path) -> RecomputingSession:
        import transformers

        return cls(transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval())

    def new_cache(self, *, rows: int, capacity: int) -> TokenCache:
        return TokenCache(rows, capacity)

    def forward(self, cache: TokenCache, segments: Sequence[Segment]) -> list[FloatArray]:
        seen = [segment.row for segment in segments]
        assert len(set(seen)) == len(seen), "a row appears twice"
        assert segments, "an empty call"
        results = []
        for segment in segments:
            assert len(segment.tokens) > 0
            row = cache.tokens[segment.row]
            row.extend(segment.tokens)
            assert len(row) <= cache.capacity <= self.max_context
            with torch.no_grad():
                logits = self.model(torch.tensor([row])).logits[0]
            kept = 1 if segment.logits == "last" else len(segment.tokens)
            results.append(logits[-kept:].numpy().astype(np.float32))
        self.calls.append(sum(len(segment.tokens) for segment in segments))
        return results
