"""Code in a folder of task files: what lm-eval would run of it, and the digest that a person consents to.

A `!function` in a task's YAML names Python, which lm-eval imports when it loads the task; a metric with
`hf_evaluate` is a script. A ladder's folder, and more so one that came with a kit, may be somebody else's. So
code runs only where a person has allowed its digest on that machine (`pipeline/consents.py`). Prompt
templates need no consent: they run in Jinja's sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.checks.lm_eval_names import yaml_files
from evals.checks.task_files import functions_of, read_task_file
from registry.digest import Digest, digest_file, digest_value
from registry.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TaskCode:
    """The code that a folder's tasks may run."""

    digest: Digest
    """Of all Python files of the folder, and of the task files that name code."""
    files: tuple[str, ...]
    """Their paths in the folder."""


def find_code(folder: Path) -> TaskCode | None:
    """The code that the task files of a folder name; None if they name none.

    A file that is no YAML is passed over, as lm-eval does; what lm-eval would run for all that is refused
    when it is loaded (`evals/loading.py`).
    """
    named = [path for path in map(Path, yaml_files(folder)) if _names_code(path)]
    if not named:
        return None
    python = [path for path in sorted(folder.rglob("*.py")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): digest_file(path) for path in (*python, *named)}
    return TaskCode(digest=digest_value(files), files=tuple(sorted(files)))


def _names_code(path: Path) -> bool:
    try:
        config = read_task_file(path)
    except ConfigurationError:
        return False
    return bool(functions_of(config)) or _has_scripts(config)


def _has_scripts(config: object) -> bool:
    match config:
        case dict():
            return bool(config.get("hf_evaluate")) or any(map(_has_scripts, config.values()))
        case list():
            return any(map(_has_scripts, config))
        case _:
            return False
