"""The plan beside static graphs: their sizes, and how their inputs are filled.

Written on the build machine, read on the node. It depends on the architecture and the form alone, never on
the weights.

A step takes, in this order: `input_ids` [1, S]; `cos` and `sin` [S, head_size / 2]; each mask of `masks`
[S, C + S], added to the scores; for each layer `past.{i}.key` and `past.{i}.value` [kv_heads, C, head_size].
It returns `logits` float32 [S, vocab], and for each layer `new.{i}.key` and `new.{i}.value`
[kv_heads, S, head_size], which the session writes into its cache. S is `tokens` for the step `prefill` and 1
for `decode`; C is `context`. All floating-point inputs, and the new keys and values, are of type `compute`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from compilers.plan_file import read_plan_file
from registry.atomic import write_atomically
from registry.value import Value

STEPS = ("decode", "prefill")

Compute = Literal["float32", "float16"]
"""Type of activations, caches and products."""
Ids = Literal["int64", "int32"]
"""Type of token ids."""


class Mask(Value):
    """An additive mask that steps take."""

    name: str
    window: int | None
    """Keys that a query sees, itself included; None: all before it."""


class StaticPlan(Value):
    """What a node must know of a decode and a prefill step."""

    schema_version: Literal[1] = 1
    vocab_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    context: int = Field(gt=0)
    """Tokens that a row can hold, C."""
    tokens: int = Field(gt=0)
    """Tokens of one prefill step, S."""
    compute: Compute
    ids: Ids
    masks: tuple[Mask, ...]
    """In the order of the steps' inputs."""
    inv_freq: tuple[float, ...]
    """Rotary frequencies, radians per position, head_size / 2 of them."""
    rope_scale: float
    """Factor on cos and sin."""

    def inputs(self) -> tuple[str, ...]:
        """Names of a step's inputs, in order."""
        return ("input_ids", "cos", "sin", *(mask.name for mask in self.masks), *self._states("past"))

    def outputs(self) -> tuple[str, ...]:
        """Names of a step's outputs, in order."""
        return ("logits", *self._states("new"))

    def _states(self, prefix: str) -> tuple[str, ...]:
        return tuple(f"{prefix}.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value"))


def write_plan(plan: StaticPlan, path: Path) -> None:
    """Write a plan; equal plans give equal bytes."""
    write_atomically(path, plan.model_dump_json().encode() + b"\n")


def read_plan(path: Path) -> StaticPlan:
    """The plan that a file holds.

    Raises:
        LoadError: The file is missing, damaged, or of another version.
    """
    return read_plan_file(path, StaticPlan)
