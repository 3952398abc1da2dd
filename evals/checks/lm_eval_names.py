"""The names that the installed lm-eval knows, found in its files without importing it.

lm-eval's own index parses 14,000 YAML files with all that they include, for about 20 seconds, and its import
takes another second. A ladder is checked before anything else happens (`evals/checks/task_types.py`), so the
names are read here from lines that begin with a key, and from the syntax trees of a few modules. What was
found is kept on disk for each version of lm-eval.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from importlib import util
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeVar

from pydantic import Field, ValidationError

from registry.errors import ToolchainMissingError
from registry.user_cache import read_cached, write_cached
from registry.value import Value

IGNORED_FOLDERS: Final = frozenset({"__pycache__", ".ipynb_checkpoints"})
"""Folders that lm-eval does not look for tasks in."""
_KEY: Final = re.compile(
    rb"^[\"']?(task|group|tag|include|class)[\"']?[ \t]*:[ \t]*(.*(?:\n(?:[ \t]+.*|-.*))*)", re.MULTILINE
)
_ITEM: Final = re.compile(r"^[ \t]*-[ \t]*(.+)$", re.MULTILINE)


class TaskIndex(Value):
    """Where names of tasks and groups are defined."""

    tasks: dict[str, str] = Field(default={})
    """Task → its YAML file."""
    groups: dict[str, str] = Field(default={})
    """Group → its YAML file."""
    tags: dict[str, tuple[str, ...]] = Field(default={})
    """Tag → the tasks that have it."""

    @property
    def names(self) -> set[str]:
        """All names that a ladder may use."""
        return {*self.tasks, *self.groups, *self.tags}


class Vocabulary(Value):
    """The words that a task's YAML file may use."""

    keys: tuple[str, ...]
    """Fields of lm-eval's `TaskConfig`."""
    output_types: tuple[str, ...]
    metrics: tuple[str, ...]
    filters: tuple[str, ...]


V = TypeVar("V", bound=Value)


def stock_tasks(*, cache: Path) -> TaskIndex:
    """The index of lm-eval's stock tasks.

    Args:
        cache: Folder to keep it in.

    Raises:
        ToolchainMissingError: lm-eval is not installed.
    """
    return _remembered(cache, "tasks", TaskIndex, lambda: scan_tasks(lm_eval_folder() / "tasks"))


def vocabulary(*, cache: Path) -> Vocabulary:
    """The words of lm-eval's task files.

    Args:
        cache: Folder to keep them in.

    Raises:
        ToolchainMissingError: lm-eval is not installed.
    """
    return _remembered(cache, "words", Vocabulary, lambda: _read_vocabulary(lm_eval_folder()))


def lm_eval_folder() -> Path:
    """The folder of the installed lm-eval.

    Raises:
        ToolchainMissingError: lm-eval is not installed.
    """
    spec = util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ToolchainMissingError("lm-eval is not installed", hint="install `rung[eval]`")
    return Path(spec.origin).parent


def yaml_files(folder: Path) -> list[str]:
    """The YAML files of a folder of tasks, in the order in which lm-eval reads them."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        found += [f"{parent}/{name}" for name in files if name.endswith(".yaml")]
    return sorted(found)


def scan_tasks(folder: Path) -> TaskIndex:
    """The index of a folder, from the lines of its files that begin with a key."""
    keys = {path: _top_level_keys(path) for path in yaml_files(folder)}
    tasks: dict[str, str] = {}
    groups: dict[str, str] = {}
    tags: dict[str, list[str]] = {}
    for path, own in list(keys.items()):
        found = _inherited(path, own, keys)
        if "group" in found and "class" not in found:
            if name := _scalar(found["group"]):
                groups.setdefault(name, path)
        elif (name := _scalar(found.get("task", ""))) and name not in tasks:
            tasks[name] = path
            for tag in _listed(found.get("tag", "")):
                tags.setdefault(tag, []).append(name)
    return TaskIndex(
        tasks=tasks, groups=groups, tags={tag: tuple(sorted(names)) for tag, names in tags.items()}
    )


def _top_level_keys(path: str) -> dict[str, str]:
    text = Path(path).read_bytes()
    return {found[1].decode(): found[2].decode("utf-8", "replace") for found in _KEY.finditer(text)}


def _inherited(
    path: str, own: dict[str, str], keys: dict[str, dict[str, str]], seen: frozenset[str] = frozenset()
) -> dict[str, str]:
    """The keys of a file with those of the files that it includes."""
    if "include" not in own or path in seen:
        return own
    base: dict[str, str] = {}
    for name in _listed(own["include"]):
        included = os.path.normpath(f"{path.rpartition('/')[0]}/{name}")
        if included not in keys:  # its name need not end with .yaml
            keys[included] = _top_level_keys(included) if Path(included).is_file() else {}
        base |= _inherited(included, keys[included], keys, seen | {path})
    return base | own


def _listed(text: str) -> list[str]:
    """The texts of a YAML value that is a list or one text."""
    first = text.partition("\n")[0].strip()
    if first.startswith("["):
        return [name for part in text.strip().strip("[]").split(",") if (name := _scalar(part))]
    if first and not first.startswith(("-", "#")):
        return [_scalar(first)]
    return [name for part in _ITEM.findall("\n" + text) if (name := _scalar(part))]


def _scalar(text: str) -> str:
    """A YAML value that is one text on one line; empty where it is something else."""
    line = text.partition("\n")[0].strip()
    if line[:1] in "\"'" and (end := line.find(line[:1], 1)) > 0:
        return line[1:end]
    line = re.split(r"\s+#", line)[0].strip()
    return "" if line[:1] in ("", "-", "[", "{", "|", ">", "#", "!") else line


def _read_vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary(
        keys=tuple(_fields(_tree(folder / "config/task.py"), "TaskConfig")),
        output_types=tuple(_constant(_tree(folder / "api/task.py"), "ALL_OUTPUT_TYPES")),
        metrics=tuple(_registered([folder / "api/metrics.py"], "register_metric")),
        filters=tuple(_registered(sorted((folder / "filters").glob("*.py")), "register_filter")),
    )


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _fields(tree: ast.Module, name: str) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id


def _constant(tree: ast.Module, name: str) -> list[str]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.List() as values) if found == name:
                return list(ast.literal_eval(values))
            case _:
                continue
    return []


def _registered(paths: list[Path], decorator: str) -> Iterator[str]:
    """Names that functions and classes are registered under: `@register_metric(metric="acc")`."""
    for path in paths:
        for node in ast.walk(_tree(path)):
            match node:
                case ast.Call(func=ast.Name(id=found), args=positional, keywords=named) if found == decorator:
                    values = [*positional, *(k.value for k in named if k.arg in ("metric", "name"))]
                    for value in values:
                        if isinstance(value, ast.Constant) and isinstance(value.value, str):
                            yield value.value
                case _:
                    continue


def _remembered(cache: Path, name: str, kind: type[V], find: Callable[[], V]) -> V:
    """What was found for the installed version of lm-eval before, else what is found now."""
    path = cache / f"lm-eval-{version('lm-eval')}-{name}.json"
    try:
        return kind.model_validate(read_cached(path))
    except ValidationError:
        found = find()
        write_cached(path, found.model_dump(mode="json"))
        return found
