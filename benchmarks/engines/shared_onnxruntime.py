"""ONNX Runtime, float32, tuned: the graph of genai's model builder in a bare `InferenceSession`.

That graph has GroupQueryAttention and fused norms; keys and values stay in one buffer, past and present
at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime


class SharedOnnxRuntime:
    """An inference session with everything bound once."""

    def __init__(self, path: Path, *, threads: int, capacity: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            path / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()
        self._binding.bind_output("logits")
        head_size = json.loads((path / "genai_config.json").read_bytes())["model"]["decoder"]["head_size"]
        for given in self._session.get_inputs():
            if given.name.startswith("past_key_values."):
                empty = np.zeros((1, given.shape[1], capacity, head_size), np.float32)
                buffer = onnxruntime.OrtValue.ortvalue_from_numpy(empty)
                self._binding.bind_ortvalue_input(given.name, buffer)
                self._binding.bind_ortvalue_output(given.name.replace("past_key_values", "present"), buffer)
        self._length = 0
        self._last = 0

    def version(self) -> str:
        """The library and its version."""
        return f"onnxruntime {onnxruntime.__version__}"

    def reset(self) -> None:
        """Forget the sequence; the buffers stay."""
        self._length = 0

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt."""
        return self._forward(tokens)

    def decode(self) -> int:
        """One more token."""
        return self._forward([self._last])

    def _forward(self, tokens: Sequence[int]) -> int:
        self._length += len(tokens)
        self._binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        self._binding.bind_cpu_input("attention_mask", np.ones((1, self._length), np.int64))
        self._session.run_with_iobinding(self._binding)
        logits = self._binding.get_outputs()[0].numpy()
        self._last = int(logits[0, -1].argmax())
        return self._last
