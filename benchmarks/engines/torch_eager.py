"""torch, eager, float32: transformers' own network with its `DynamicCache`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from compilers.model.torch_reference import cache_argument


class TorchEager:
    """A transformers model."""

    def __init__(self, path: Path, *, threads: int, capacity: int) -> None:
        del capacity  # its cache grows
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ).eval()
        self._cache: Any = None  # transformers is untyped here
        self._last = 0

    def version(self) -> str:
        """The library and its version."""
        return f"torch {torch.__version__}, transformers {transformers.__version__}"

    def reset(self) -> None:
        """An empty cache."""
        self._cache = transformers.DynamicCache(config=self._model.config)

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt."""
        return self._forward(tokens)

    def decode(self) -> int:
        """One more token."""
        return self._forward([self._last])

    def logits(self, tokens: Sequence[int], *, singly: int) -> NDArray[np.float32]:
        """Logits of all positions of a text, its last `singly` tokens read one by one."""
        self.reset()
        cut = len(tokens) - singly
        pieces = [tokens[:cut], *([token] for token in tokens[cut:])]
        found = []
        with torch.inference_mode():
            for piece in pieces:
                ids = torch.tensor([list(piece)], dtype=torch.long)
                out = self._model(input_ids=ids, use_cache=True, **cache_argument(self._model, self._cache))
                found.append(out.logits[0].numpy())
        return np.concatenate(found)

    def _forward(self, tokens: Sequence[int]) -> int:
        ids = torch.tensor([list(tokens)], dtype=torch.long)
        with torch.inference_mode():
            out = self._model(
                input_ids=ids, use_cache=True, logits_to_keep=1, **cache_argument(self._model, self._cache)
            )
            self._last = int(out.logits[0, -1].argmax())
        return self._last
