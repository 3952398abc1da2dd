"""How a checkpoint of the demo family came to be, and how good it is: the content of its `training.json`."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class TrainingRecord(BaseModel):
    """One training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    """The checkpoint's name in the family."""
    teacher: str | None
    """The checkpoint it is distilled from; null for the flagship."""
    seed: int
    """Seeds the first weights; the documents have the next one."""
    parameters: int
    """Count of weights."""
    look_up_steps: int
    """Batches of the warm-up."""
    task_steps: int
    """Batches of the agent tasks."""
    tokens: int
    """Places read in all batches, with padding."""
    cpu_s: int
    """Seconds of processor time, one thread."""
    weights_sha256: str
    """Digest of `model.safetensors`, hexadecimal."""
    scores: Mapping[str, Mapping[str, float]]
    """By task type: `choice` (accuracy), `generate` (exact match) and their `mean`, from 0 to 1."""
