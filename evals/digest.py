"""Digests of task types without importing lm-eval, fast enough for every build.

`evals/loading.py` digests the loaded tasks; this module digests the files and names they are loaded from.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from evals.prompting import Prompting
from evals.tasks.catalog import TASK_TYPES
from registry.digest import digest_file, digest_tree, digest_value
from registry.errors import ConfigurationError, UnknownNameError
from registry.ladder import TaskEntry


def tasks_digest(task_type: str, entry: TaskEntry, *, ladder_directory: Path) -> str:
    """The digest of a task type's definition: its files, names, prompting, and lm-eval's version.

    Raises:
        UnknownNameError: The task type does not ship with Rung and the ladder names no tasks for it.
        ConfigurationError: The ladder's `include` is not a folder, or the chat template is left open.
    """
    if entry.tasks:
        folder = None if entry.include is None else ladder_directory / entry.include
        if folder is not None and not folder.is_dir():
            raise ConfigurationError(
                f"task.{task_type}.include is `{folder}`, which is not a folder",
                hint="give a folder with lm-eval YAML files, relative to the ladder file",
            )
    elif task_type in TASK_TYPES:
        folder = TASK_TYPES[task_type].folder
    else:
        where = "the ladder (with `tasks = […]` it may have any name)"
        raise UnknownNameError.of("task type", task_type, known=TASK_TYPES, where=where)
    return digest_value(
        {
            "names": entry.tasks,
            "prompting": Prompting.of(entry, task_type=task_type),
            "files": None if folder is None else _digest_folder(folder),
            "lm_eval": version("lm-eval"),
        }
    )


def _digest_folder(folder: Path) -> str:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return digest_tree({path.relative_to(folder).as_posix(): digest_file(path) for path in files})
