"""Plain ONNX Runtime, float32: the interchange graph as it is, keys and values concatenated at each step.

What one gets by giving an exported graph to `InferenceSession` with past outputs fed back as they are,
without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime


class PlainOnnxRuntime:
    """An inference session over `model.onnx` of a directory."""

    def __init__(self, path: Path, *, threads: int, capacity: int) -> None:
        del capacity  # its cache grows
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            path / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._past = {i.name: i.shape for i in self._session.get_inputs() if i.name.startswith("past.")}
        self._cache: dict[str, onnxruntime.OrtValue] = {}
        self._length = 0
        self._last = 0

    def version(self) -> str:
        """The library and its version."""
        return f"onnxruntime {onnxruntime.__version__}"

    def reset(self) -> None:
        """A cache of no tokens."""
        self._length = 0
        self._cache = {
            name: _value(np.zeros((1, shape[1], 0, shape[3]), np.float32))
            for name, shape in self._past.items()
        }

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt."""
        return self._forward(tokens)

    def decode(self) -> int:
        """One more token."""
        return self._forward([self._last])

    def _forward(self, tokens: Sequence[int]) -> int:
        total = self._length + len(tokens)
        feeds = {
            "input_ids": _value(np.array([tokens], np.int64)),
            "position_ids": _value(np.arange(self._length, total, dtype=np.int64)[None]),
            "key_positions": _value(np.arange(total, dtype=np.int64)[None]),
            "logit_index": _value(np.array([len(tokens) - 1], np.int64)),
            **self._cache,
        }
        logits, *present = self._session.run_with_ort_values(self._outputs, feeds)
        names = (name.replace("present.", "past.") for name in self._outputs[1:])
        self._cache = dict(zip(names, present, strict=True))
        self._length = total
        self._last = int(logits.numpy()[-1].argmax())
        return self._last


def _value(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
