"""The contract of an engine, and which engines there are.

Each engine continues one sequence greedily. What the clock sees is the same for all: token ids in, the
next token's id out, logits of the last position alone, the KV cache allocated beforehand.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from registry.errors import UnknownNameError
from registry.value import Value

EngineKind = Literal["torch", "onnxruntime", "onnxruntime-gqa", "onnxruntime-genai", "llama-cpp", "rung"]


class EngineSpec(Value):
    """An engine and what it runs."""

    name: str
    """The name in tables: `rung tvm w4g32-rtn (cpu-x86-64-v3)`."""
    kind: EngineKind
    path: Path
    """Directory of the checkpoint, the graph or the bundle."""
    weights: str
    """Representation of the weights: a recipe's name, or `int4` for another project's own."""
    threads: int | None = None
    """Its own number of threads, whatever the panel's is."""
    checkout: Path | None = None
    """Root of the sources that run it; None: these."""
    exact: bool
    """Whether its weights are the checkpoint's own in float32: then its output must be the reference's."""


class BenchEngine(Protocol):
    """One loaded network with one sequence."""

    def version(self) -> str:
        """The library and its version."""
        ...

    def reset(self) -> None:
        """Make an empty sequence; its cost is not measured."""
        ...

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt into the empty sequence; the most likely next token."""
        ...

    def decode(self) -> int:
        """Append the token returned last; returns the most likely next one."""
        ...


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that also continues several sequences together."""

    def generate(self, prompts: Sequence[Sequence[int]], *, tokens: int) -> tuple[tuple[int, ...], ...]:
        """Read all prompts, then `tokens` greedy tokens for each; the outputs."""
        ...


@runtime_checkable
class LogitsEngine(Protocol):
    """An engine that also gives the logits of a text."""

    def logits(self, tokens: Sequence[int], *, singly: int) -> NDArray[np.float32]:
        """Logits of all positions [positions, vocabulary], the last `singly` tokens read one by one."""
        ...


ENGINES: Mapping[EngineKind, str] = {
    "torch": "benchmarks.engines.torch_eager:TorchEager",
    "onnxruntime": "benchmarks.engines.plain_onnxruntime:PlainOnnxRuntime",
    "onnxruntime-gqa": "benchmarks.engines.shared_onnxruntime:SharedOnnxRuntime",
    "onnxruntime-genai": "benchmarks.engines.genai:Genai",
    "llama-cpp": "benchmarks.engines.llama_cpp:LlamaCpp",
    "rung": "benchmarks.engines.session:SessionEngine",
}
"""Kind → `module:class`, imported on first use, in the worker alone."""


def make_engine(spec: EngineSpec, *, threads: int, capacity: int) -> BenchEngine:
    """The engine, loaded.

    Args:
        spec: What to load.
        threads: Threads for the network's own work.
        capacity: Tokens of the longest sequence.
    """
    if spec.kind not in ENGINES:
        raise UnknownNameError.of("engine", spec.kind, known=ENGINES)
    module, _, attribute = ENGINES[spec.kind].partition(":")
    engine_class = getattr(importlib.import_module(module), attribute)
    return cast("BenchEngine", engine_class(spec.path, threads=threads, capacity=capacity))
