"""The lower stage: variant × target → files compiled by one toolchain."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.stages.backend_code import lowering_code
from pipeline.stages.stage import Stage, StageKey
from registry.artifact import ModelFacts
from registry.checkpoint import FileEntry
from registry.digest import Digest
from registry.target import Target
from registry.value import Value
from registry.variant import Variant


class LowerOutput(Value):
    """Compiled files, which hold no weights."""

    entry: str
    files: tuple[FileEntry, ...]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    log: Digest
    """Blob with what the compiler printed."""


class LowerRequest(Value):
    """Variant × target → compiled files, and the proof of what they hold."""

    work: ClassVar = "pipeline.stages.work.lower_and_prove:lower_and_prove"
    kind: Literal["lower"] = "lower"
    key: Digest
    done: LowerOutput | None
    """The compiled files where they are there already and only the proof is missing."""
    variant: Variant
    facts: ModelFacts
    target: str
    toolchain: str
    prove_code: Digest
    """The digest of the code of proofs, for the key of the proof."""


LOWER = Stage(
    "lower",
    work="pipeline.stages.work.lower:lower",
    output=LowerOutput,
    needs=("export", "quantize"),
)


def lower_key(
    *,
    graph: Digest,
    layout: str,
    target: Target,
    toolchain: str,
    toolchain_version: str,
    weights: Digest | None,
) -> StageKey[LowerOutput]:
    """The key of a lowering.

    Args:
        graph: Digest of the interchange graph.
        layout: How the variant's weights are stored.
        target: What is compiled for.
        toolchain: Name of the toolchain.
        toolchain_version: Its version where it would run.
        weights: Digest of the weights, for a toolchain whose files hold their values. None for the others, so
            that a new version of a checkpoint uses the same code again.
    """
    embedded = {} if weights is None else {"weights": weights}
    return LOWER.key(
        backend=lowering_code(toolchain),
        graph=graph,
        layout=layout,
        target=target,
        toolchain=toolchain,
        version=toolchain_version,
        **embedded,
    )
