"""Check of a ladder's task types before anything is built: can their tasks be loaded, and how many samples.

Loading a task with lm-eval takes its import, and fails where the evaluation begins: hours into a build. This
check reads the same files without lm-eval, in a fraction of a second, and refuses what lm-eval would refuse.
What it cannot tell (code of the task's own, data sets from elsewhere) is left to the evaluation, where it
fails its own task type alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evals.checks.lm_eval_names import TaskIndex, Vocabulary, stock_tasks, vocabulary
from evals.checks.task import TaskCheck
from evals.checks.task_files import FILE, Config, index_folder, read_task_file
from evals.tasks.catalog import FORMS, SAMPLES_PER_TASK, TASK_TYPES
from registry.errors import ConfigurationError, UnknownNameError
from registry.ladder import TaskEntry


@dataclass(frozen=True, slots=True)
class CheckedTasks:
    """What is known of a task type before it is loaded."""

    available: int | None
    """Samples to take when nothing stops earlier; None: only its data set knows."""


def check_tasks(task_type: str, entry: TaskEntry, *, ladder_directory: Path, cache: Path) -> CheckedTasks:
    """Check that the tasks of a ladder's `[task.NAME]` can be loaded, without loading them.

    Args:
        task_type: NAME.
        entry: The contents of that table.
        ladder_directory: Its relative paths start here.
        cache: Folder for what is known of the installed lm-eval.

    Raises:
        UnknownNameError: A task, or a word in its file, is unknown.
        ConfigurationError: A task's file or data is missing or damaged, or needs a network that is not there.
    """
    if entry.tasks:
        counts = list(_OwnTasks(task_type, entry, ladder_directory, cache).counts())
        known = [count for count in counts if count is not None]
        total = sum(known) if len(known) == len(counts) else None
    elif task_type in TASK_TYPES:
        total = len(FORMS) * SAMPLES_PER_TASK
    else:
        where = "the ladder (with `tasks = […]` it may have any name)"
        raise UnknownNameError.of("task type", task_type, known=TASK_TYPES, where=where)
    if entry.max_samples is None or total is None:
        return CheckedTasks(total)
    return CheckedTasks(min(total, entry.max_samples))


@dataclass(frozen=True)
class _OwnTasks:
    """The tasks that one table of a ladder names."""

    task_type: str
    entry: TaskEntry
    directory: Path
    cache: Path

    def counts(self) -> Iterator[int | None]:
        """The number of samples of each task; None where it is not known."""
        index, broken = self._index()
        for name in self.entry.tasks:
            if name not in index.names:
                raise self._unknown(name, index, broken)
            for task, config in self._configurations(name, index, overrides={}, seen=()):
                yield TaskCheck(task, config, self.entry, self.words, self.task_type).samples()

    @cached_property
    def words(self) -> Vocabulary:
        """What task files may say."""
        return vocabulary(cache=self.cache)

    @property
    def _folder(self) -> Path | None:
        return None if self.entry.include is None else self.directory / self.entry.include

    def _index(self) -> tuple[TaskIndex, Mapping[Path, ConfigurationError]]:
        folder = self._folder
        if folder is None:
            return stock_tasks(cache=self.cache), {}
        if not folder.is_dir():
            raise ConfigurationError(
                f"task.{self.task_type}.include is `{folder}`, which is not a folder",
                hint="give a folder with lm-eval YAML files, relative to the ladder file",
            )
        return index_folder(folder)

    def _unknown(
        self, name: str, index: TaskIndex, broken: Mapping[Path, ConfigurationError]
    ) -> ConfigurationError:
        where = "lm-eval's stock tasks" if self._folder is None else f"`{self._folder}`"
        for problem in broken.values():
            return ConfigurationError(
                f"task `{name}` of task.{self.task_type} is not in {where}: {problem.message}",
                hint=problem.hint,
            )
        unknown = UnknownNameError.of("lm-eval task", name, known=index.names, where=where)
        return UnknownNameError(f"task.{self.task_type}: {unknown.message}", hint=unknown.hint)

    def _configurations(
        self, name: str, index: TaskIndex, *, overrides: Config, seen: tuple[str, ...]
    ) -> Iterator[tuple[str, Config]]:
        """The tasks that a name stands for: itself, or those of a group or a tag."""
        if name in seen:
            raise ConfigurationError(
                f"group `{name}` of task.{self.task_type} contains itself: {' → '.join((*seen, name))}",
                hint="correct the group's `task` list",
            )
        if (path := index.groups.get(name)) is not None:
            group = read_task_file(Path(path))
            members = group.get("task") or []
            for member in members if isinstance(members, list) else [members]:
                yield from self._member(member, index, overrides=overrides, seen=(*seen, name))
        elif (path := index.tasks.get(name)) is not None:
            yield name, read_task_file(Path(path)) | {FILE: Path(path)} | overrides
        else:
            for task in index.tags[name]:
                yield from self._configurations(task, index, overrides=overrides, seen=(*seen, name))

    def _member(
        self, member: object, index: TaskIndex, *, overrides: Config, seen: tuple[str, ...]
    ) -> Iterator[tuple[str, Config]]:
        match member:
            case str(name) if name in index.names:
                yield from self._configurations(name, index, overrides=overrides, seen=seen)
            case {"task": str(name), **changes} if name in index.names:
                merged = overrides | {str(key): value for key, value in changes.items()}
                yield from self._configurations(name, index, overrides=merged, seen=seen)
            case {"group": str(name)} if name in index.groups:
                yield from self._configurations(name, index, overrides=overrides, seen=seen)
            case {"task": list(inner)}:
                for one in inner:
                    yield from self._member(one, index, overrides=overrides, seen=seen)
            case {"task": str(name), **config}:
                yield name, {str(key): value for key, value in config.items()} | {"task": name} | overrides
            case str(name):
                raise UnknownNameError.of(
                    "lm-eval task",
                    name,
                    known=index.names,
                    where=f"group `{seen[-1]}` of task.{self.task_type}",
                )
            case _:
                raise ConfigurationError(
                    f"group `{seen[-1]}` of task.{self.task_type} has the member {member!r}",
                    hint="name a task, or give a table with `task`",
                )
