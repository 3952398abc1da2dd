"""llama.cpp: a GGUF file in its own context, through the library's C interface, with its defaults.

Wheels of `llama-cpp-python` are built where they are installed, so its kernels are those of this processor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from benchmarks.gguf import FILE_NAME
from registry.errors import EvaluationError


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes has no types for callbacks
def _quiet(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Its log tells nothing that an error would not."""


class LlamaCpp:
    """A model and a context with one sequence."""

    def __init__(self, path: Path, *, threads: int, capacity: int) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            str(path / FILE_NAME).encode(), llama_cpp.llama_model_default_params()
        )
        if not model:
            raise EvaluationError(f"llama.cpp cannot load `{path}`", hint="build it again")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = capacity
        parameters.n_batch = parameters.n_ubatch = max(512, capacity)
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise EvaluationError(f"llama.cpp cannot make a context for `{path}`", hint="run it alone")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(max(512, capacity), 0, 1)
        self._length = 0
        self._last = 0

    def version(self) -> str:
        """The library and its version."""
        return f"llama-cpp-python {metadata.version('llama-cpp-python')}"

    def reset(self) -> None:
        """Forget the sequence; the buffers stay."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        self._length = 0

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt."""
        return self._continue(tokens)

    def decode(self) -> int:
        """One more token."""
        return self._continue([self._last])

    def logits(self, tokens: Sequence[int], *, singly: int) -> NDArray[np.float32]:
        """Logits of all positions of a text, its last `singly` tokens read one by one."""
        self.reset()
        cut = len(tokens) - singly
        pieces = [tokens[:cut], *([token] for token in tokens[cut:])]
        return np.concatenate([self._forward(piece, every=True) for piece in pieces])

    def _continue(self, tokens: Sequence[int]) -> int:
        self._last = int(self._forward(tokens, every=False)[-1].argmax())
        return self._last

    def _forward(self, tokens: Sequence[int], *, every: bool) -> NDArray[np.float32]:
        """Append tokens; a view of the logits of all of them or of the last, valid until the next call."""
        batch, count = self._batch, len(tokens)
        batch.n_tokens = count
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = self._length + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = every or index == count - 1
        if failed := llama_cpp.llama_decode(self._context, batch):
            raise EvaluationError(f"llama.cpp could not decode {count} tokens: {failed}", hint="run it alone")
        self._length += count
        rows = count if every else 1
        found = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), (rows, self._vocab))
        return found.copy() if every else found
