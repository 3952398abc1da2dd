"""The ladder file: the checkpoints, recipes, targets, toolchains and task types of one ladder of a family.

It is TOML, written by hand and kept in the user's repository. `extends = "other.toml"` uses another ladder as
the base: top-level keys and tasks given here replace those of the base.
"""

from __future__ import annotations

import os
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from registry.digest import digest_value
from registry.errors import ConfigurationError
from registry.recipe import Recipe, parse_recipe
from registry.target import Target, find_target
from registry.value import Value, configuration_error

EvidenceLevel = Literal["portable", "built", "loads", "close", "evaluated", "benchmarked"]
"""How far the evidence of a cell goes, on the chip itself; see `matrices/cells/levels.py`."""
EVIDENCE_LEVELS: Final[tuple[EvidenceLevel, ...]] = (
    "portable", "built", "loads", "close", "evaluated", "benchmarked",
)  # fmt: skip
"""From least to most."""
OTHER_TARGETS: Final = "default"
"""Key of `[evidence]` for all targets that it does not name."""
_LATER_TASK_FIELDS: Final = ("chat_template", "system_prompt", "num_fewshot", "fewshot_as_multiturn")


class TierEntry(Value):
    """One `[[tier]]`: a checkpoint and the recipes to build of it. The first tier is the best."""

    checkpoint: str = Field(min_length=1)
    """MLflow registered model: `name`, `name@alias` or `name/version`."""
    recipes: tuple[str, ...] = Field(min_length=1)
    """Recipes to build, such as `fp32` or `w4g32-gptq`; see `registry/recipe.py`."""


class TaskEntry(Value):
    """One `[task.NAME]`: an agent task type and its bars."""

    floor: tuple[float, ...] = Field(min_length=1)
    """Lowest accuracy per tier, 0 to 1."""
    margin_points: float = Field(default=2.0, gt=0, le=100)
    """Non-inferiority margin to the tier's reference checkpoint, in percentage points."""
    alpha: float = Field(default=0.025, gt=0, lt=0.5)
    """One-sided error probability of a false pass."""
    tasks: tuple[str, ...] = ()
    """Your own lm-eval task or group names; empty: the task type that ships with Rung."""
    include: str | None = None
    """Folder with lm-eval YAML files for `tasks`, relative to the ladder file; None: stock tasks."""
    max_samples: int | None = Field(default=None, gt=0)
    """Stop after this many samples; None: all."""
    chat_template: bool | None = None
    """Whether prompts are conversations in the checkpoint's chat template, as chat completions render them;
    None: where the ladder's checkpoints have one."""
    system_prompt: str | None = Field(default=None, min_length=1)
    """System message of every prompt, which callers then have to send too; None: none."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples before each question; None: as the lm-eval task says."""
    fewshot_as_multiturn: bool | None = None
    """Whether these examples are turns of the conversation instead of one message with the question; None:
    where there is a chat template."""

    @model_validator(mode="after")
    def _has_turns_in_a_conversation(self) -> Self:
        if self.fewshot_as_multiturn and self.chat_template is False:
            raise ValueError("fewshot_as_multiturn needs `chat_template = true`: plain text has no turns")
        return self


class EvaluationEntry(Value):
    """`[evaluation]`: how evaluation runs."""

    batch_size: int = Field(default=32, gt=0)
    """Recorded with every score."""
    seed: int = 0
    """Seed of the order in which samples are taken."""
    chunk: int = Field(default=50, gt=0)
    """Samples between two looks at the sequential test."""


class Ladder(Value):
    """A parsed ladder file."""

    family: str = Field(min_length=1)
    """The family of checkpoints; releases are made and asked for by it."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Hardware to build for; `registry/targets.toml` has the names."""
    toolchains: tuple[str, ...] | dict[str, tuple[str, ...]] = ("onnxruntime", "tvm")
    """For all targets, or by patterns of target names (`cpu-*`); the first match counts."""
    tier: tuple[TierEntry, ...] = Field(min_length=1)
    """Checkpoints from the best tier to the last."""
    task: dict[str, TaskEntry] = Field(min_length=1)
    """Task type → its bars. Five task types ship with Rung (`evals/tasks/`); others name lm-eval tasks."""
    evaluation: EvaluationEntry = EvaluationEntry()
    """How evaluation runs."""
    calibration: str | None = None
    """JSONL file with a field `text`, relative to the ladder file; for GPTQ recipes and parity probes."""
    evidence: dict[str, EvidenceLevel] = Field(default={})
    """Target → lowest evidence level that a release accepts; `default` is for all others, and is `evaluated`
    unless given. Without the table a release demands nothing beyond the approval."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        seen: dict[str, int] = {}
        for number, entry in enumerate(self.tier, start=1):
            if entry.checkpoint in seen:
                raise ValueError(
                    f"`{entry.checkpoint}` is in tier {seen[entry.checkpoint]} and in tier {number}, "
                    "so the ladder is cyclic: it would be above and below itself"
                )
            seen[entry.checkpoint] = number
        for target in self.targets:
            if not self.toolchains_of(target):
                raise ValueError(f"`toolchains` names none for the target `{target}`")
        for name, task in self.task.items():
            if len(task.floor) != len(self.tier):
                raise ValueError(f"task.{name}.floor has {len(task.floor)} values for {len(self.tier)} tiers")
            if any(not 0 <= floor <= 1 for floor in task.floor):
                raise ValueError(
                    f"task.{name}.floor must hold accuracies from 0 to 1, got {list(task.floor)}"
                )
        return self

    @model_validator(mode="after")
    def _demands_evidence_of_its_targets(self) -> Self:
        for name in self.evidence:
            if name != OTHER_TARGETS and name not in self.targets:
                raise ValueError(f"evidence.{name} is not one of the ladder's targets {list(self.targets)}")
        return self

    @property
    def digest(self) -> str:
        """The digest of the whole ladder; what later versions added counts only where it is given."""
        document = self.model_dump(mode="json")
        if not self.evidence:
            del document["evidence"]
        for task in document["task"].values():
            for name in _LATER_TASK_FIELDS:
                if task[name] is None:
                    del task[name]
        return digest_value(document)

    def demanded_evidence(self) -> dict[str, EvidenceLevel]:
        """Target → lowest evidence level that a release accepts; empty without `[evidence]`."""
        if not self.evidence:
            return {}
        others = self.evidence.get(OTHER_TARGETS, "evaluated")
        return {target: self.evidence.get(target, others) for target in self.targets}

    def recipes(self, entry: TierEntry) -> tuple[Recipe, ...]:
        """The parsed recipes of a tier."""
        return tuple(parse_recipe(name, where=f"tier of `{entry.checkpoint}`") for name in entry.recipes)

    @property
    def toolchain_names(self) -> tuple[str, ...]:
        """All toolchains that the ladder names, in its order."""
        lists = self.toolchains.values() if isinstance(self.toolchains, dict) else [self.toolchains]
        return tuple(dict.fromkeys(name for names in lists for name in names))

    def toolchains_of(self, target: str) -> tuple[str, ...]:
        """The toolchains to build with for a target."""
        if not isinstance(self.toolchains, dict):
            return self.toolchains
        fitting = (names for pattern, names in self.toolchains.items() if fnmatchcase(target, pattern))
        return next(fitting, ())

    def parsed_targets(self) -> tuple[Target, ...]:
        """The targets' facts."""
        return tuple(find_target(name, where="targets of the ladder") for name in self.targets)


def read_ladder(path: Path) -> Ladder:
    """Read a ladder file.

    Raises:
        ConfigurationError: The file is missing, not TOML, empty, extends itself, or does not describe a
        ladder.
        UnknownNameError: It names an unknown target or recipe.
    """
    document = _merged(path.resolve(), seen=())
    try:
        ladder = Ladder.model_validate(document)
    except ValidationError as error:
        raise configuration_error(
            error,
            where=f"ladder `{path}`",
            hint="see docs/reference/ladder.md for every key",
            model=Ladder,
        ) from error
    for entry in ladder.tier:
        ladder.recipes(entry)
    ladder.parsed_targets()
    return ladder


def _merged(path: Path, *, seen: tuple[Path, ...]) -> dict[str, Any]:  # Any: TOML values before validation
    if path in seen:
        chain = " → ".join(p.name for p in (*seen, path))
        raise ConfigurationError(
            f"ladder `{path}` is cyclic: {chain}", hint="remove one of the `extends` lines"
        )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"no ladder file at `{path}`", hint="check the path") from error
    except IsADirectoryError as error:
        raise ConfigurationError(f"`{path}` is a directory", hint="give the ladder file in it") from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot read ladder `{path}`: {error.strerror}", hint="check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise ConfigurationError(
            f"ladder `{path}` is not TOML: {error}", hint="correct the line it names"
        ) from error
    if not document:
        raise ConfigurationError(
            f"ladder `{path}` is empty", hint="it needs `family`, `targets` and a `[[tier]]`"
        )
    base_name = document.pop("extends", None)
    if base_name is None:
        return document
    if not isinstance(base_name, str):
        raise ConfigurationError(
            f"ladder `{path}`: extends must be a path, got {base_name!r}", hint="quote it"
        )
    base_path = (path.parent / base_name).resolve()
    base = _rebased(_merged(base_path, seen=(*seen, path)), origin=base_path.parent, here=path.parent)
    tasks = [one.get("task", {}) for one in (base, document)]
    if not all(isinstance(one, dict) for one in tasks):
        raise ConfigurationError(
            f"ladder `{path}`: task must be tables `[task.NAME]`, got {document.get('task')!r}",
            hint="see docs/reference/ladder.md for every key",
        )
    return base | document | {"task": tasks[0] | tasks[1]}


def _rebased(
    document: dict[str, Any],  # Any: TOML values before validation
    *,
    origin: Path,
    here: Path,
) -> dict[str, Any]:
    """A base's document with its relative paths rewritten to start at the directory that extends it."""

    def moved(value: object) -> object:
        return os.path.relpath(origin / value, here) if isinstance(value, str) else value

    changed = dict(document)
    if "calibration" in changed:
        changed["calibration"] = moved(changed["calibration"])
    if isinstance(changed.get("task"), dict):
        changed["task"] = {
            name: {**task, "include": moved(task["include"])}
            if isinstance(task, dict) and "include" in task
            else task
            for name, task in changed["task"].items()
        }
    return changed
