"""What crosses the boundary between the build and its worker processes: requests and outputs, as JSON.

Each output is a stage record's content: what it names by digest lies in the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from compilers.check.parity import Parity
from compilers.check.speed import Speed
from compilers.proof.proof import Proof
from evals.verdict import Bar
from matrices.cells.cell import TaskResult
from registry.artifact import Manifest, ModelFacts
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import Digest
from registry.ladder import EvaluationEntry, TaskEntry
from registry.recipe import Recipe
from registry.value import Value
from registry.variant import Variant


class ExportOutput(Value):
    """The interchange graph of an architecture."""

    graph: FileEntry
    facts: ModelFacts


class ProbeOutput(Value):
    """What torch says with a checkpoint's or a variant's weights on the probe."""

    tokens: Digest
    """Blob: JSON list of token sequences; depends on the calibration set and the vocabulary alone."""
    logits: Digest
    """Blob: float32 `.npy` of shape [positions, vocab], the probe's sequences one after the other."""


class QuantizeOutput(Value):
    """A variant, and its probe."""

    variant: Variant
    probe: ProbeOutput


class LowerOutput(Value):
    """Compiled files, which hold no weights."""

    entry: str
    files: tuple[FileEntry, ...]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    log: Digest
    """Blob with what the compiler printed."""


class ReferenceOutput(Value):
    """A checkpoint's own outcomes in torch on one task type."""

    scorecard: Digest
    accuracy: float
    samples: int


class ProveOutput(Value):
    """What the compiled files hold, as standard tools read it."""

    proof: Proof


class RehearseOutput(Value):
    """How close the artifact is where something else runs it in its target's place."""

    parity: Parity | None
    """None: nothing here can."""
    means: str
    """What ran it, or why nothing could."""
    runtime_version: str = ""


class VerifyOutput(Value):
    """The artifact loaded, and how close it is."""

    parity: Parity
    runtime_version: str
    chip: str
    driver: str | None = None
    """Version of the accelerator's driver; None for processors."""


class EvaluateOutput(Value):
    """One task type of one artifact, judged against every tier."""

    result: TaskResult
    runtime_version: str
    chip: str
    driver: str | None = None
    """Version of the accelerator's driver; None for processors."""


class SpeedOutput(Value):
    """The artifact's throughput."""

    speed: Speed
    runtime_version: str
    chip: str
    driver: str | None = None
    """Version of the accelerator's driver; None for processors."""


class SpeedRequest(Value):
    """How to time an artifact."""

    key: Digest
    prompt_tokens: int = Field(default=96, ge=1)
    decode_steps: int = Field(default=32, ge=1)
    repeats: int = Field(default=5, ge=1)


class TaskRequest(Value):
    """One task type to evaluate."""

    key: Digest
    task_type: str
    entry: TaskEntry
    bars: tuple[Bar, ...] = ()
    references: tuple[Digest, ...] = ()
    """Scorecard blobs of the tiers' reference checkpoints, by tier."""


class ExportRequest(Value):
    """Checkpoint → graph."""

    kind: Literal["export"] = "export"
    key: Digest
    checkpoint: Checkpoint


class QuantizeRequest(Value):
    """Checkpoint × recipe → variant."""

    kind: Literal["quantize"] = "quantize"
    key: Digest
    checkpoint: Checkpoint
    recipe: Recipe
    export: ExportOutput
    calibration: Path | None
    """JSONL file with a field `text`."""


class LowerRequest(Value):
    """Variant × target → compiled files, and the proof of what they hold."""

    kind: Literal["lower"] = "lower"
    key: Digest
    done: LowerOutput | None
    """The compiled files where they are there already and only the proof is missing."""
    variant: Variant
    facts: ModelFacts
    target: str
    toolchain: str


class ReferenceRequest(Value):
    """Checkpoint → its own scorecards, in torch."""

    kind: Literal["reference"] = "reference"
    probe_key: Digest | None
    """None: already known."""
    checkpoint: Checkpoint
    facts: ModelFacts
    calibration: Path | None
    ladder_directory: Path
    evaluation: EvaluationEntry
    tasks: tuple[TaskRequest, ...]


class ExamineRequest(Value):
    """Artifact → parity and scorecards, in one process that loads it once."""

    kind: Literal["examine"] = "examine"
    verify_key: Digest | None
    """None: already known."""
    manifest: Manifest
    recipe: Recipe
    variant_probe: ProbeOutput
    checkpoint_probe: ProbeOutput
    ladder_directory: Path
    evaluation: EvaluationEntry
    tasks: tuple[TaskRequest, ...]
    speed: SpeedRequest | None = None
    """None: it is not timed."""


class RehearseRequest(Value):
    """Artifact → parity, by means other than its target."""

    kind: Literal["rehearse"] = "rehearse"
    key: Digest
    manifest: Manifest
    recipe: Recipe
    variant_probe: ProbeOutput
    checkpoint_probe: ProbeOutput


Request = Annotated[
    ExportRequest | QuantizeRequest | LowerRequest | ReferenceRequest | ExamineRequest | RehearseRequest,
    Field(discriminator="kind"),
]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


class WorkerOrder(Value):
    """What a worker process is given: the request, and where it may work."""

    store: Path
    scratch: Path
    """A directory of its own, removed by the parent."""
    threads: int = 1
    chip: str | None = None
    """Evidence is wanted of this chip, and of no other; None: of whichever this is."""
    request: Request
