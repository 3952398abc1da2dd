"""The shape that the benchmark's own tests use, and what is built of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.build import StepRecord, step_directory
from benchmarks.checkpoint import BenchmarkCheckpoint, BenchmarkShape
from benchmarks.steps import Export, Lower, Quantize, Step

SHAPE = BenchmarkShape(
    name="tiny", hidden_size=64, layers=1, heads=2, kv_heads=1, intermediate_size=128, vocab_size=512
)
LOWERED = Lower(toolchain="onnxruntime", recipe="fp32", target="cpu-x86-64-v3")
STEPS: list[Step] = [Export(), Quantize(recipe="fp32"), LOWERED]


@dataclass(frozen=True, slots=True)
class Built:
    """A tiny checkpoint and what was built from it, each step in a process of its own."""

    cache: Path
    checkpoint: Path
    facts: BenchmarkCheckpoint
    records: dict[str, StepRecord]

    @property
    def bundle(self) -> Path:
        return step_directory(self.cache, LOWERED)
