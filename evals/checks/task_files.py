"""Task files: lm-eval's YAML as plain data, read without importing lm-eval or anything that it names.

The rules are lm-eval's (`lm_eval/tasks/_yaml_loader.py`): `include` names files whose keys are the defaults,
`!function module.name` a function beside the file.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Final

import yaml

from evals.checks.lm_eval_names import TaskIndex, yaml_files
from registry.errors import ConfigurationError, UnknownNameError

Config = dict[str, Any]  # Any: YAML of lm-eval's form
FILE: Final = "__file__"
"""Key of the path of a configuration's file."""
_BASE: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # Any: PyYAML ships no types


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A function that a task file names with `!function`; it is not imported here."""

    module: Path
    """The Python file that should have it."""
    name: str
    text: str
    """As the file has it."""

    def problem(self) -> ConfigurationError | None:
        """What is wrong with it, found without running it; modules elsewhere are not looked for."""
        if not self.module.is_file():
            package = self.text.partition(".")[0]
            if package and util.find_spec(package) is not None:
                return None  # an installed module, which only an import could look into
            return ConfigurationError(
                f"`!function {self.text}` needs `{self.module}`, which does not exist",
                hint="put the Python file beside the YAML file",
            )
        try:
            tree = ast.parse(self.module.read_bytes())
        except (SyntaxError, ValueError) as error:
            return ConfigurationError(f"`{self.module}` is not Python: {error}", hint="correct that line")
        known = set(_top_level_names(tree))
        if self.name in known or "*" in known:
            return None
        return UnknownNameError.of("function", self.name, known=known, where=f"`{self.module}`")


def read_task_file(path: Path, *, seen: tuple[Path, ...] = ()) -> Config:
    """A task file with the files that it includes; functions are `FunctionName`.

    Raises:
        ConfigurationError: It is missing, not YAML, not a mapping, or includes itself.
    """
    path = path.resolve()
    if path in seen:
        raise ConfigurationError(
            f"`{path}` includes itself: {' → '.join(one.name for one in (*seen, path))}",
            hint="remove one of the `include` lines",
        )
    config = _read_yaml(path)
    included = config.pop("include", [])
    merged: Config = {}
    for name in included if isinstance(included, list) else [included]:
        base = path.parent / str(name)
        if not base.is_file():
            raise ConfigurationError(
                f"`{path}` includes `{name}`, which does not exist", hint="correct its `include`"
            )
        merged |= read_task_file(base, seen=(*seen, path))
        merged.pop("task_list", None)
    return merged | config


def index_folder(folder: Path) -> tuple[TaskIndex, dict[Path, ConfigurationError]]:
    """The tasks of a user's folder, and the files in it that cannot be read."""
    tasks: dict[str, str] = {}
    groups: dict[str, str] = {}
    tags: dict[str, list[str]] = {}
    broken: dict[Path, ConfigurationError] = {}
    for path in map(Path, yaml_files(folder)):
        try:
            config = read_task_file(path)
        except ConfigurationError as error:
            broken[path] = error
            continue
        match config:
            case {"group": str(name)} if "class" not in config:
                groups.setdefault(name, str(path))
            case {"task": str(name)} if name not in tasks:
                tasks[name] = str(path)
                tag = config.get("tag") or []
                for one in tag if isinstance(tag, list) else [tag]:
                    tags.setdefault(str(one), []).append(name)
            case _:
                continue
    found = {tag: tuple(sorted(names)) for tag, names in tags.items()}
    return TaskIndex(tasks=tasks, groups=groups, tags=found), broken


def functions_of(config: Mapping[str, object]) -> list[FunctionName]:
    """All functions that a configuration names, at any depth."""
    found: list[FunctionName] = []
    waiting: list[object] = [config]
    while waiting:
        match waiting.pop():
            case FunctionName() as function:
                found.append(function)
            case dict() as table:
                waiting += table.values()
            case list() as items:
                waiting += items
            case _:
                continue
    return found


def _read_yaml(path: Path) -> Config:
    class Loader(_BASE):  # type: ignore[misc]  # with or without libyaml
        """Safe, with `!function` as a name."""

    def function(loader: Any, node: Any) -> FunctionName:  # noqa: ANN401  # PyYAML ships no types
        text = str(loader.construct_scalar(node))
        module, _, name = text.rpartition(".")
        return FunctionName(path.parent / f"{module.replace('.', '/')}.py", name, text)

    Loader.add_constructor("!function", function)
    try:
        config = yaml.load(path.read_bytes(), Loader=Loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise ConfigurationError(f"`{path}` is not YAML: {what}", hint="correct the line it names") from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot read `{path}`: {error.strerror}", hint="check its permissions"
        ) from error
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise ConfigurationError(
            f"`{path}` holds a {kind} where a task has keys", hint="write `task: NAME` and what it needs"
        )
    return config


def _top_level_names(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case ast.Assign(targets=targets):
                names += [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names += [alias.asname or alias.name for alias in aliases]
            case _:
                continue
    return names
