"""The evaluate stage: an artifact's scorecard of one task type, judged against every tier.

Its work is part of an examine request (`examine.py`), which loads the artifact once.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.verdict import Bar
from matrices.cells.cell import TaskResult
from matrices.cells.measurement import Measurement
from pipeline.stages.backend_code import runtime_code
from pipeline.stages.stage import Stage, StageKey
from registry.artifact import Manifest
from registry.digest import Digest
from registry.ladder import EvaluationEntry
from registry.value import Value


class EvaluateOutput(Value):
    """One task type of one artifact, judged against every tier."""

    result: TaskResult
    measurement: Measurement


EVALUATE = Stage(
    "evaluate",
    work="pipeline.stages.work.evaluate:evaluate_task",
    output=EvaluateOutput,
    needs=("reference", "prove"),
)


OUTCOMES = Stage(
    "outcomes",
    work="pipeline.stages.work.evaluate:evaluate_task",
    output=EvaluateOutput,
    needs=EVALUATE.needs,
)
"""The same output, found whatever the bars were: a change of a floor or a margin is judged from it again."""


def outcomes_key(
    manifest: Manifest,
    *,
    tasks: str,
    evaluation: EvaluationEntry,
    max_samples: int | None,
    runtime_version: str,
    chip: str,
) -> StageKey[EvaluateOutput]:
    """The key of the latest evaluation of one task type: `evaluate_key` without bars and references.

    What it was judged by decides only how many samples were taken, in the same order.
    """
    return OUTCOMES.key(
        backend=runtime_code(manifest.toolchain),
        artifact=manifest.digest,
        tasks=tasks,
        evaluation=evaluation,
        max_samples=max_samples,
        runtime={"version": runtime_version, "chip": chip},
    )


def evaluate_key(
    manifest: Manifest,
    *,
    tasks: str,
    bars: Sequence[Bar],
    references: Sequence[Digest],
    evaluation: EvaluationEntry,
    max_samples: int | None,
    runtime_version: str,
    chip: str,
) -> StageKey[EvaluateOutput]:
    """The key of the evaluation of one task type.

    Args:
        manifest: The artifact.
        tasks: Digest of the task type's definition (`evals/digest.py`).
        bars: What each tier demands.
        references: Scorecards of the tiers' reference checkpoints, by tier.
        evaluation: How the ladder evaluates.
        max_samples: The ladder's limit for the task type.
        runtime_version: Version of the artifact's runtime.
        chip: Of this machine.
    """
    return EVALUATE.key(
        backend=runtime_code(manifest.toolchain),
        artifact=manifest.digest,
        tasks=tasks,
        bars=list(bars),
        references=tuple(references),
        evaluation=evaluation,
        max_samples=max_samples,
        runtime={"version": runtime_version, "chip": chip},
    )
