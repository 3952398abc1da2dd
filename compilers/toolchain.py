"""The contract of a toolchain: how an artifact is built, on the build machine.

It meets a runtime (`compilers/runtime.py`) only at the artifact's format. The table of all toolchains is in
`compilers/backend.py`; `tests/contracts/test_toolchain.py` is the contract as tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from registry.artifact import ArtifactFormat, ModelFacts
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.target import Target


@dataclass(frozen=True, slots=True)
class Supported:
    """It can be done."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """It cannot be done; becomes a cell, so that the matrix is also the road map."""

    kind: Literal["not_implemented", "not_upstream", "never"]
    """Not done here yet; not possible with the tool as it is; not meaningful."""
    reason: str


Support = Supported | Unsupported


@dataclass(frozen=True, slots=True)
class LoweringInput:
    """What a toolchain lowers: a variant's files on this machine."""

    recipe: Recipe
    facts: ModelFacts
    graph: Path
    """ONNX interchange graph; its external data is `weights.safetensors`, named as in the state dict."""
    weights: Path
    """Canonical weights of the variant (`registry/variant.py`), in a file named `weights.safetensors`."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a lowering made, in the directory that it was given.

    The compiled files depend on the graph, the recipe's layout and the target alone, never on the weights'
    values: `weights.safetensors` joins them in the bundle. A toolchain with `embeds_weights` is the
    exception: its files hold the weights, and nothing joins them.
    """

    entry: str
    """File name that the runtime opens first."""
    files: tuple[str, ...]
    """Names of all files made, relative to `out`."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Goes into the manifest's `options`."""


class Toolchain(Protocol):
    """How an artifact is built."""

    @property
    def name(self) -> str:
        """Its name in the table of backends."""
        ...

    @property
    def produces(self) -> ArtifactFormat:
        """Format of the artifacts that it makes."""
        ...

    @property
    def embeds_weights(self) -> bool:
        """Whether compiled files hold the weights' values, so that new weights need a new lowering."""
        ...

    def version(self) -> str:
        """Version of the compiler, part of the build key.

        Raises:
            ToolchainMissingError: It is not installed.
        """
        ...

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """Whether this variant can be lowered to this target, and why not."""
        ...

    def lower(self, source: LoweringInput, target: Target, *, out: Path) -> Lowered:
        """Compile into the empty directory `out`.

        Raises:
            BuildError: The compiler failed.
            ToolchainMissingError: Something it needs is not installed.
        """
        ...


def check_supported(toolchain: Toolchain, source: LoweringInput, target: Target) -> None:
    """Refuse to lower what the toolchain does not support.

    Raises:
        BuildError: The variant cannot be lowered to this target.
    """
    support = toolchain.supports(source.recipe, target, source.facts)
    if isinstance(support, Unsupported):
        raise BuildError(
            f"{toolchain.name} cannot lower `{source.recipe.name}` to `{target.name}`: {support.reason}",
            hint="choose another recipe or target",
        )
