"""The plan of a build: which cells a ladder asks for, after the filters of the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compilers.backend import backend_names
from evals.verdict import Bar
from matrices.cells.cell import cell_id
from pipeline.build.prompting import decide_prompting
from registry.checkpoint import Checkpoint
from registry.digest import Digest
from registry.errors import ConfigurationError, UnknownNameError
from registry.ladder import Ladder
from registry.mlflow import Checkpoints
from registry.recipe import Recipe
from registry.target import Target


@dataclass(frozen=True, slots=True)
class Filters:
    """What the command line restricts a build to; empty: everything in the ladder."""

    targets: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    toolchains: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell that a build is to bring up to date."""

    checkpoint: Checkpoint
    tier: int
    recipe: Recipe
    target: Target
    toolchain: str

    @property
    def id(self) -> str:
        """The cell's id."""
        return cell_id(
            checkpoint=self.checkpoint.ref,
            recipe=self.recipe.name,
            target=self.target.name,
            toolchain=self.toolchain,
        )


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A ladder with its checkpoints pinned."""

    ladder: Ladder
    """With `chat_template` decided for every task type."""
    directory: Path
    """The ladder file's directory, which its relative paths start from."""
    checkpoints: tuple[Checkpoint, ...]
    """By tier; index 0 is tier 1."""
    cells: tuple[PlannedCell, ...]
    code: Mapping[str, Digest] = field(default_factory=dict)
    """Task type → digest of the code in its folder, which a person has allowed to run."""

    def bars(self, task_type: str) -> tuple[Bar, ...]:
        """What each tier demands for a task type."""
        entry = self.ladder.task[task_type]
        return tuple(
            Bar(tier=tier, floor=floor, margin_points=entry.margin_points, alpha=entry.alpha)
            for tier, floor in enumerate(entry.floor, start=1)
        )

    @property
    def calibration(self) -> Path | None:
        """The calibration set's file."""
        return None if self.ladder.calibration is None else self.directory / self.ladder.calibration


def make_plan(ladder: Ladder, *, directory: Path, checkpoints: Checkpoints, filters: Filters) -> BuildPlan:
    """Pin the ladder's checkpoints and list its cells.

    Raises:
        UnknownNameError: A filter or the ladder names something unknown.
        NotFoundError: A checkpoint is not registered.
        ConfigurationError: A checkpoint is of another family, a GPTQ recipe has no calibration set, or only
            some checkpoints have a chat template and the ladder does not choose.
    """
    _check_filters(ladder, filters)
    pinned = tuple(checkpoints.find(entry.checkpoint) for entry in ladder.tier)
    for checkpoint in pinned:
        if checkpoint.family != ladder.family:
            raise ConfigurationError(
                f"checkpoint `{checkpoint.ref}` is of family `{checkpoint.family}`, "
                f"the ladder of `{ladder.family}`",
                hint=f"register it with `rung checkpoint add … --family {ladder.family}`",
            )
    ladder = decide_prompting(ladder, pinned, checkpoints=checkpoints)
    plan = BuildPlan(ladder, directory, pinned, tuple(_cells(ladder, pinned, filters)))
    _check_calibration(plan)
    return plan


def _cells(ladder: Ladder, pinned: tuple[Checkpoint, ...], filters: Filters) -> Iterable[PlannedCell]:
    for tier, (entry, checkpoint) in enumerate(zip(ladder.tier, pinned, strict=True), start=1):
        if filters.checkpoints and checkpoint.name not in filters.checkpoints:
            continue
        recipes = [recipe for recipe in ladder.recipes(entry) if _taken(recipe.name, filters.recipes)]
        targets = [target for target in ladder.parsed_targets() if _taken(target.name, filters.targets)]
        for recipe, target in itertools.product(recipes, targets):
            for toolchain in ladder.toolchains_of(target.name):
                if _taken(toolchain, filters.toolchains):
                    yield PlannedCell(checkpoint, tier, recipe, target, toolchain)


def _taken(name: str, allowed: tuple[str, ...]) -> bool:
    return not allowed or name in allowed


def _check_filters(ladder: Ladder, filters: Filters) -> None:
    for toolchain in ladder.toolchain_names:
        if toolchain not in backend_names():
            raise UnknownNameError.of(
                "toolchain", toolchain, known=backend_names(), where="toolchains of the ladder"
            )
    known = {
        "target": (filters.targets, set(ladder.targets)),
        "recipe": (filters.recipes, {name for entry in ladder.tier for name in entry.recipes}),
        "toolchain": (filters.toolchains, set(ladder.toolchain_names)),
        "checkpoint": (filters.checkpoints, {_name(entry.checkpoint) for entry in ladder.tier}),
    }
    for kind, (names, choices) in known.items():
        for name in names:
            if name not in choices:
                raise UnknownNameError.of(kind, name, known=choices, where="this ladder")


def _check_calibration(plan: BuildPlan) -> None:
    needing = next((c for c in plan.cells if c.recipe.needs_calibration), None)
    if plan.calibration is None and needing is not None:
        raise ConfigurationError(
            f"recipe `{needing.recipe.name}` needs a calibration set and the ladder names none",
            hint='add `calibration = "texts.jsonl"`: one JSON object with a field `text` per line',
        )
    if plan.calibration is not None and not plan.calibration.is_file():
        raise ConfigurationError(
            f"no calibration set at `{plan.calibration}`", hint="check the ladder's `calibration`"
        )


def _name(ref: str) -> str:
    return ref.split("@")[0].split("/")[0]
