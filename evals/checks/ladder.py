"""Check of a ladder when it is read: every task type can be loaded, and has samples enough for its margin."""

from __future__ import annotations

from pathlib import Path

from evals.checks.samples import check_samples
from evals.checks.task_types import check_tasks
from registry.errors import ConfigurationError, RungError
from registry.ladder import Ladder


def check_ladder(ladder: Ladder, *, directory: Path, cache: Path) -> tuple[str, ...]:
    """Check all task types of a ladder before anything is built; warnings, for people.

    Args:
        ladder: The ladder.
        directory: Of its file, which relative paths start from.
        cache: Folder for what is known of the installed lm-eval.

    Raises:
        ConfigurationError: A task type cannot be evaluated, or its samples cannot prove its margin. The
            problems of all task types are in the message.
        ToolchainMissingError: lm-eval is not installed.
    """
    problems: list[RungError] = []
    warnings: list[str] = []
    for name, entry in ladder.task.items():
        try:
            checked = check_tasks(name, entry, ladder_directory=directory, cache=cache)
            warning = check_samples(name, entry, available=checked.available)
        except ConfigurationError as error:
            problems.append(error)
            continue
        if warning is not None:
            warnings.append(warning)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigurationError(
            f"{len(problems)} task types of the ladder cannot be evaluated: "
            + "; ".join(problem.message for problem in problems),
            hint="; ".join(dict.fromkeys(problem.hint for problem in problems)),
        )
    return tuple(warnings)
