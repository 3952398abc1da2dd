"""Cells: (variant, target, toolchain), their state and their evidence, as values.

`matrices/ledger/` stores them (`ledger.py` alone writes them), `matrices/releases/release.py` freezes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from compilers.check.parity import Parity
from compilers.check.speed import Speed
from evals.prompting import Prompting
from evals.verdict import Verdict
from matrices.cells.measurement import Measurement, Via
from registry.artifact import Manifest
from registry.digest import Digest
from registry.value import Value

State = Literal[
    "declared", "portable", "built", "loads", "close", "evaluated", "benchmarked", "approved",
    "failed", "unsupported", "expired", "rejected", "withdrawn",
]  # fmt: skip
"""The states of the evidence ladder, then those off it. A `portable` artifact still has to be compiled by a
node."""

LADDER: tuple[State, ...] = ("declared", "built", "loads", "close", "evaluated", "benchmarked", "approved")


class TaskResult(Value):
    """A cell's evaluation on one task type."""

    task_type: str
    accuracy: float
    samples: int
    available: int
    batch_size: int
    tier: int | None
    """Best tier earned; None: none."""
    verdicts: tuple[Verdict, ...]
    """One for each tier of the ladder, by tier."""
    scorecard: Digest
    """Blob with the per-sample outcomes."""
    tasks_digest: Digest
    prompting: Prompting = Prompting()
    """How samples became prompts; results of earlier versions are all of plain text."""


class Evidence(Value):
    """One recorded change of a cell: a step up the evidence ladder, or off it."""

    state: State
    digest: Digest | None
    """Digest of the artifact that it is about."""
    at: datetime
    """When it was measured, or when the ruling was made."""
    detail: str = ""
    """One line for people."""
    measurement: Measurement | None = None
    """How it was measured; None for steps that measure nothing: declared, built, ruled, expired."""

    @property
    def via(self) -> Via:
        """What the step was obtained on; what needed no chip counts as the chip's own."""
        return self.measurement.via if self.measurement else "chip"


class VariantFacts(Value):
    """A cell's weights, independent of the target they are lowered to."""

    weights: Digest
    """Digest of the canonical weights file; equal digests mean the same variant."""
    weights_bytes: int
    """Bytes that decoding one token has to read at least."""
    parameters: int
    """Number of parameters of the checkpoint."""
    kv_bytes_per_token: int
    """KV cache of one token over all layers, as the artifact holds it."""
    left_in_float: tuple[str, ...] = ()
    """Matrices that the recipe, an integer one, leaves in float, by their names in the state dict, sorted."""
    wide_inputs: tuple[str, ...] = ()
    """Quantized matrices whose inputs have outliers and are not rounded to 8 bits, by their names, sorted."""


class Cell(Value):
    """One cell of the matrix, with everything that a release manager reviews."""

    id: str
    """`checkpoint/version:recipe:target:toolchain`, such as `agent-mid/1:w4g32-gptq:cpu-x86-64-v3:tvm`."""
    family: str
    checkpoint: str
    """`name/version`."""
    checkpoint_digest: Digest
    tier: int
    """The checkpoint's tier in the ladder file; the tier *earned* is in `tasks`."""
    recipe: str
    target: str
    toolchain: str
    state: State
    reason: str = ""
    """Why it failed, is unsupported, was rejected or withdrawn."""
    build_key: Digest | None = None
    artifact: Digest | None = None
    """Digest of the manifest."""
    size_bytes: int | None = None
    parity: Parity | None = None
    """Measured on the chip."""
    tasks: tuple[TaskResult, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    """In the order in which it was obtained."""
    log: Digest | None = None
    """Blob with the lowering's log."""
    updated_at: datetime
    rehearsal: Parity | None = None
    """Parity on an emulator or stand-in, if the artifact was rehearsed; its evidence names the tool."""
    variant: VariantFacts | None = None
    speed: Speed | None = None
    """Throughput on the chip of the latest `benchmarked` evidence."""


def cell_id(*, checkpoint: str, recipe: str, target: str, toolchain: str) -> str:
    """The id of a cell."""
    return f"{checkpoint}:{recipe}:{target}:{toolchain}"


def manifest_cell_id(manifest: Manifest) -> str:
    """The id of the cell that an artifact belongs to."""
    return cell_id(
        checkpoint=manifest.checkpoint,
        recipe=manifest.recipe,
        target=manifest.target,
        toolchain=manifest.toolchain,
    )


def task_types(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Task types on which any of the cells was evaluated, sorted."""
    return tuple(sorted({result.task_type for cell in cells for result in cell.tasks}))
