"""The request to check scorecards that a node made: marked again, and partly run again where they can be.

It is not a stage of a build: nothing of it is recorded under a build key.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Literal

from evals.scorecard import Scorecard
from registry.artifact import Manifest
from registry.digest import Digest
from registry.ladder import EvaluationEntry, TaskEntry
from registry.value import Value

RECHECK: Final = "recheck"
"""Name of the output in the worker's events."""


class RecheckTask(Value):
    """A task type of the kit that the scorecards answer."""

    task_type: str
    entry: TaskEntry
    code: Digest | None
    """Digest of the code in its folder that a person has allowed to run."""


class RecheckSubject(Value):
    """The scorecards of one artifact."""

    key: Digest
    """By which its output is reported."""
    manifest: Manifest | None
    """The artifact, to run some samples again; None: it does not run here."""
    scorecards: tuple[Scorecard, ...]


class RecheckOutput(Value):
    """What was found wrong with the scorecards of one artifact."""

    problems: tuple[str, ...]
    """One sentence each."""
    rerun: int
    """Samples that were run again."""


class RecheckRequest(Value):
    """Scorecards → what their responses, and a second run of some samples, say against them."""

    work: ClassVar = "pipeline.stages.work.recheck:recheck"
    kind: Literal["recheck"] = "recheck"
    ladder_directory: Path
    evaluation: EvaluationEntry
    tasks: tuple[RecheckTask, ...]
    subjects: tuple[RecheckSubject, ...]
    secret: str
    """Chooses the samples that are run again."""
