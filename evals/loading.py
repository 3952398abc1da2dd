"""Loading lm-eval tasks: those that ship with Rung, lm-eval's stock tasks, or the user's own YAML.

The shipped task types need no network and write nothing: their documents are read into memory from the files
next to their YAML, so any number of processes can load them at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evals.prompting import Prompting
from evals.samples import LoadedTask, LoadedTasks
from evals.task_code import find_code
from evals.tasks.catalog import FORMS, TASK_TYPES, TaskType
from registry.digest import Digest, digest_file, digest_value
from registry.errors import (
    ConfigurationError,
    EvaluationError,
    RefusedError,
    RungError,
    UnknownNameError,
)
from registry.ladder import TaskEntry

_LOCAL_BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""Builders of `datasets` that read local files and write a cache."""

Config = dict[str, Any]  # Any: YAML of lm-eval's form


def load_tasks(
    task_type: str,
    entry: TaskEntry,
    *,
    ladder_dir: Path,
    cache_dir: Path | None = None,
    code: Digest | None = None,
) -> LoadedTasks:
    """The lm-eval tasks of a ladder's `[task.NAME]`.

    Args:
        task_type: NAME.
        entry: The contents of that table.
        ladder_dir: Directory of the ladder file; `entry.include` is relative to it.
        cache_dir: Where `datasets` may cache local data files of the user's tasks; None: its default.
        code: Digest of the code in the tasks' folder that a person has allowed to run (`evals/task_code.py`).

    Raises:
        RefusedError: The tasks' files name other code than was allowed.
        UnknownNameError: The task type does not ship with Rung, or lm-eval does not know the task.
        ConfigurationError: `entry.include` is not a folder, or the chat template is left open.
        EvaluationError: A task cannot be loaded: it is damaged, runs generated code, or needs a network.
    """
    prompting = Prompting.of(entry, task_type=task_type)
    _prepare_templates()
    with _quiet_lm_eval():
        if entry.tasks:
            include = _folder(ladder_dir, entry.include, task_type=task_type)
            with _allowed_code(include, task_type=task_type, code=code):
                loaded = _load_own(entry.tasks, include=include, task_type=task_type, cache_dir=cache_dir)
            extra = _code_digests(include)
        elif task_type in TASK_TYPES:
            loaded, extra = _load_shipped(TASK_TYPES[task_type]), {}
        else:
            where = "the ladder (with `tasks = […]` it may have any name)"
            raise UnknownNameError.of("task type", task_type, known=TASK_TYPES, where=where)
        tasks = tuple(_accept(name, loaded[name], prompting=prompting) for name in sorted(loaded))
    total = sum(len(task.documents) for task in tasks)
    if not total:
        raise EvaluationError(
            f"task type `{task_type}` has no samples", hint="check the data files of its tasks"
        )
    definitions = {task.name: task.definition for task in tasks}
    return LoadedTasks(
        task_type=task_type,
        tasks=tasks,
        available=total if entry.max_samples is None else min(total, entry.max_samples),
        digest=digest_value(
            {"tasks": definitions, "code": extra, "lm_eval": version("lm-eval")} | _prompting_part(prompting)
        ),
        prompting=prompting.model_copy(update={"num_fewshot": _shared_shots(tasks)}),
    )


def _prompting_part(prompting: Prompting) -> dict[str, object]:
    """What the digest holds of the prompting: nothing for plain text, as before there was a choice.

    The number of few-shot examples is a part of each task's own definition.
    """
    chosen = prompting.model_copy(update={"num_fewshot": None})
    return {} if chosen == Prompting() else {"prompting": chosen}


def _shared_shots(tasks: tuple[LoadedTask, ...]) -> int | None:
    """The few-shot examples of every task; None where tasks differ."""
    shots = {task.shots for task in tasks}
    return shots.pop() if len(shots) == 1 else None


def _load_shipped(task_type: TaskType) -> dict[str, Any]:  # Any: lm-eval ships no types
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    configs = []
    for form in FORMS:
        path = task_type.folder / f"{form}.yaml"
        config: Config = load_yaml(path, resolve_func=False)
        data = path.parent / config["dataset_kwargs"]["data_files"]["test"]
        config["custom_dataset"] = _InMemory(data, split=config["test_split"])
        configs.append(config)
    loaded: dict[str, Any] = TaskManager(include_defaults=False).load(configs)["tasks"]
    return loaded


class _InMemory:
    """A dataset of one JSONL file, without the cache that `datasets` would write.

    An object and not a function, because lm-eval copies its configuration and prints functions' sources.
    """

    def __init__(self, path: Path, *, split: str) -> None:
        self._path = path
        self._split = split

    def __call__(self, **settings: object) -> Mapping[str, object]:
        import datasets

        lines = self._path.read_text(encoding="utf-8").splitlines()
        return {self._split: datasets.Dataset.from_list([json.loads(line) for line in lines if line.strip()])}


def _folder(ladder_dir: Path, include: str | None, *, task_type: str) -> Path | None:
    if include is None:
        return None
    path = ladder_dir / include
    if path.is_dir():
        return path.resolve()
    raise ConfigurationError(
        f"task.{task_type}.include is `{path}`, which is not a folder",
        hint="give a folder with lm-eval YAML files, relative to the ladder file",
    )


def _load_own(
    names: tuple[str, ...], *, include: Path | None, task_type: str, cache_dir: Path | None
) -> dict[str, Any]:  # Any: lm-eval ships no types
    manager = _stock_manager() if include is None else _folder_manager(include, cache_dir=cache_dir)
    known = manager.task_index
    for name in names:
        if name not in known:
            where = "lm-eval's stock tasks" if include is None else f"`{include}`"
            broken = [] if include is None else _broken_files(include)
            if broken:
                raise EvaluationError(
                    f"task `{name}` of task.{task_type} is not in {where}: {broken[0]}",
                    hint="correct that YAML file",
                )
            raise UnknownNameError.of("lm-eval task", name, known=known, where=where)
    try:
        loaded: dict[str, Any] = manager.load(list(names))["tasks"]
    except RungError:
        raise
    except Exception as error:  # third-party YAML, code and data sets may raise anything
        raise _load_error(error, names=names, task_type=task_type) from error
    return loaded


def _load_error(error: Exception, *, names: tuple[str, ...], task_type: str) -> EvaluationError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    what = f"tasks {list(names)} of task.{task_type} cannot be loaded: {reason}"
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)  # type: ignore[arg-type]  # only exceptions are chained here
    text = " ".join(f"{type(cause).__module__}.{type(cause).__name__} {cause}" for cause in causes).lower()
    if any(sign in text for sign in ("connect", "offline", "hub", "timeout", "resolve", "unreachable")):
        return EvaluationError(
            what,
            hint="its data set must be downloaded: run once with a network (and without HF_HUB_OFFLINE), "
            "or point the task's data_files to local files",
        )
    return EvaluationError(what, hint="check the task's YAML and data files; `lm-eval validate` says more")


@lru_cache(maxsize=1)
def _stock_manager() -> Any:  # noqa: ANN401  # lm-eval ships no types
    """The index of all stock tasks, which takes lm-eval about 20 seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _folder_manager(include: Path, *, cache_dir: Path | None) -> Any:  # noqa: ANN401  # lm-eval ships no types
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._factory import TaskFactory

    class LocalFactory(TaskFactory):  # type: ignore[misc]  # lm-eval ships no types
        """Finds data files next to their YAML, and sets where `datasets` may cache them."""

        def _load_full_config(self, entry: Any, overrides: Config | None = None) -> Config:  # noqa: ANN401
            config: Config = super()._load_full_config(entry, overrides)
            _check_metrics(config)
            folder = include if entry.yaml_path is None else Path(entry.yaml_path).parent
            return _localised(config, folder=folder, cache_dir=cache_dir)

    manager = TaskManager(include_path=str(include), include_defaults=False)
    manager._factory = LocalFactory(meta=None)
    return manager


def _check_metrics(config: Config) -> None:
    """Refuse metrics that lm-eval lacks: it would look for them online and then silently drop them."""
    from lm_eval.api.registry import metric_registry

    if config.get("process_results") is not None:
        return
    for metric in config.get("metric_list") or []:
        name = metric.get("metric") if isinstance(metric, dict) else None
        if isinstance(name, str) and name not in metric_registry and not metric.get("hf_evaluate"):
            where = f"task `{config.get('task')}`"
            raise UnknownNameError.of("lm-eval metric", name, known=metric_registry.keys(), where=where)


def _localised(config: Config, *, folder: Path, cache_dir: Path | None) -> Config:
    if config.get("dataset_path") not in _LOCAL_BUILDERS:
        return config
    settings = dict(config.get("dataset_kwargs") or {})
    files = settings.get("data_files")
    if files is not None:
        settings["data_files"] = _absolute(files, folder=folder)
    if cache_dir is not None:
        settings.setdefault("cache_dir", str(cache_dir))
    return config | {"dataset_kwargs": settings}


def _absolute(files: Any, *, folder: Path) -> Any:  # noqa: ANN401  # a path, a list of them, or a mapping of those
    match files:
        case str():
            return str(folder / files) if (folder / files).exists() else files
        case list():
            return [_absolute(item, folder=folder) for item in files]
        case dict():
            return {split: _absolute(item, folder=folder) for split, item in files.items()}
        case _:
            return files


def _broken_files(include: Path) -> list[str]:
    """Problems of the YAML files in a folder; lm-eval silently skips broken files."""
    from lm_eval.tasks._yaml_loader import load_yaml

    problems = []
    for path in sorted(include.rglob("*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:  # noqa: BLE001  # third-party YAML can make the loader raise anything
            problems.append(f"`{path}`: {' '.join(str(error).split())}")
    return problems


def _accept(name: str, lm_task: Any, *, prompting: Prompting) -> LoadedTask:  # noqa: ANN401  # no types
    if getattr(lm_task, "UNSAFE_CODE", False):
        raise EvaluationError(
            f"task `{name}` runs code that the model writes",
            hint="remove it: Rung has no sandbox for that",
        )
    if getattr(lm_task, "MULTIMODAL", False):
        raise EvaluationError(
            f"task `{name}` needs images or sound", hint="remove it: sessions read text only"
        )
    if prompting.num_fewshot is not None:
        if lm_task.config.num_fewshot == 0 and prompting.num_fewshot:
            raise EvaluationError(
                f"task `{name}` says `num_fewshot: 0` itself, the ladder {prompting.num_fewshot}",
                hint="leave num_fewshot out of the ladder: lm-eval keeps such a task without examples",
            )
        lm_task.set_config(key="num_fewshot", value=prompting.num_fewshot)
    return LoadedTask(name, lm_task, prompting=prompting)


def _code_digests(include: Path | None) -> dict[str, str]:
    """Digests of the Python files that the user's YAML may call."""
    if include is None:
        return {}
    return {path.relative_to(include).as_posix(): digest_file(path) for path in sorted(include.rglob("*.py"))}


def _prepare_templates() -> None:
    """Let lm-eval render prompt templates in a sandbox, and compile each once, not once per document."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    if isinstance(utils.env, SandboxedEnvironment):
        return
    sandbox = SandboxedEnvironment(
        loader=utils.env.loader,
        undefined=utils.env.undefined,
        keep_trailing_newline=utils.env.keep_trailing_newline,
    )
    sandbox.filters.update(utils.env.filters)
    utils.env = sandbox
    utils.env.from_string = lru_cache(maxsize=4096)(utils.env.from_string)


@contextmanager
def _allowed_code(include: Path | None, *, task_type: str, code: Digest | None) -> Iterator[None]:
    """Refuse functions that a user's task files name, unless the folder's code is what was allowed.

    lm-eval's own tasks (`include` None) name functions of lm-eval.
    """
    from lm_eval.tasks import _yaml_loader

    if include is None:
        yield
        return
    found = find_code(include)
    if found is not None and found.digest != code:
        raise _not_allowed(task_type, f"code in `{include}`: {', '.join(found.files[:6])}")
    imported = _yaml_loader._import_func_in_yml

    def guarded(name: str, folder: Path) -> object:
        if found is None or not folder.resolve().is_relative_to(include):
            raise _not_allowed(task_type, f"the function `{name}` from `{folder}`")
        return imported(name, folder)

    _yaml_loader._import_func_in_yml = guarded
    try:
        yield
    finally:
        _yaml_loader._import_func_in_yml = imported


def _not_allowed(task_type: str, what: str) -> RefusedError:
    return RefusedError(
        f"the tasks of task.{task_type} would run {what}, which nobody has allowed on this machine",
        hint="read it; `--allow-code` of `rung build` and `rung evidence run` allows the code of a folder",
    )


@contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """Silences the log and progress bars of lm-eval and `datasets`; errors are raised."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, had_bars = logger.level, datasets.are_progress_bars_disabled() is False
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()
