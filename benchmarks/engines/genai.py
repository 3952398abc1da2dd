"""`onnxruntime-genai`: its own generator over a graph of its own model builder, greedy search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai


class Genai:
    """A model of onnxruntime-genai and its generator."""

    def __init__(self, path: Path, *, threads: int, capacity: int) -> None:
        config = genai.Config(str(path))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = genai.Model(config)
        self._capacity = capacity
        self._generator = self._new_generator()

    def version(self) -> str:
        """The library and its version."""
        return f"onnxruntime-genai {genai.__version__}"

    def reset(self) -> None:
        """A new generator."""
        self._generator = self._new_generator()

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt."""
        self._generator.append_tokens(np.array([tokens], np.int32))
        return self.decode()

    def decode(self) -> int:
        """One more token; right after a prompt it is only chosen, its logits are there."""
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def _new_generator(self) -> genai.Generator:
        parameters = genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._capacity, do_sample=False)
        return genai.Generator(self._model, parameters)
