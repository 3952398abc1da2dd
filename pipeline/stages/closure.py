"""The import closure of a module: every file of Rung that it can import, found without importing any.

Build keys depend on it (`stage.py`), because a stage's output may depend on whatever its code imports,
directly or through other modules.

Followed: imports at the top and inside functions, and modules that a string names exactly, since those are
started as processes. Not followed: imports for type checkers alone, and names of the form
`module:attribute`, which tables of backends hold; a stage names the backend that it runs. A data file that a
module reads with `resources.files(PACKAGE).joinpath(NAME)` is part of the closure.

What a source mentions depends on its bytes alone, and is kept on disk by their digest: to parse 200 modules
takes longer than all else that a build with nothing to do has to do.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from registry.errors import NotFoundError
from registry.user_cache import read_cached, user_cache, write_cached

PACKAGES: Final = ("registry", "compilers", "evals", "matrices", "serving", "pipeline")
ROOT: Final = Path(__file__).resolve().parents[2]
"""The directory that Rung's packages are in."""
MOST_KEPT: Final = 4000
"""Sources whose mentions are kept on disk."""


def import_closure(*entries: str, root: Path = ROOT) -> dict[str, Path]:
    """The files of modules and of all that they import, by their paths from their packages' parent.

    Modules of the standard library and of other distributions are not part of it, except those of the package
    that an entry is in: a backend may come with another distribution.

    Args:
        entries: Dotted names of modules.
        root: The directory that Rung's packages are in.

    Raises:
        NotFoundError: There is no such module.
    """
    roots = dict.fromkeys(PACKAGES, root) | {
        top: _parent_of(top) for top in (entry.partition(".")[0] for entry in entries) if top not in PACKAGES
    }
    tree = _Tree(roots)
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(entries)
    kept = _kept(user_cache())
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = tree.find(module)
        if path is None:
            raise NotFoundError(
                f"no module `{module}` in `{root}`", hint="name the module that does the stage's work"
            )
        found[tree.name_of(path)] = path
        if parent := module.rpartition(".")[0]:
            waiting.append(parent)
        mentions = kept.of(path.read_bytes())
        waiting += tree.modules(mentions, module=module, is_package=path.name == "__init__.py")
        for data in tree.data_files(mentions):
            found[tree.name_of(data)] = data
    kept.save()
    return found


@dataclass(frozen=True, slots=True)
class _Tree:
    """Packages on disk."""

    roots: dict[str, Path]
    """Top-level package → the directory that it is in."""
    _found: dict[str, Path | None] = field(default_factory=dict)
    """Modules that were looked for."""

    def find(self, module: str) -> Path | None:
        """A module's file; None where these packages have no such module."""
        if module not in self._found:
            self._found[module] = self._look_for(module)
        return self._found[module]

    def _look_for(self, module: str) -> Path | None:
        parent, _, name = module.rpartition(".")
        if not parent:
            if (root := self.roots.get(module)) is None:
                return None
            base = root / module
        elif (package := self.find(parent)) is None or package.name != "__init__.py":
            return None  # a name in a module
        else:
            base = package.parent / name
        return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)

    def name_of(self, path: Path) -> str:
        """A file's path within its root."""
        root = next(root for root in self.roots.values() if path.is_relative_to(root))
        return path.relative_to(root).as_posix()

    def modules(self, mentions: _Mentions, *, module: str, is_package: bool) -> Iterator[str]:
        """Modules of these packages that a module imports or names."""
        yield from (name for name in mentions.names if self.find(name))
        for taken in mentions.taken:
            origin = taken.origin(module, is_package=is_package)
            inner = (f"{origin}.{name}" for name in taken.names)
            yield from (name for name in (origin, *inner) if self.find(name))

    def data_files(self, mentions: _Mentions) -> Iterator[Path]:
        """Data files of these packages that a module reads."""
        for package, name in mentions.data:
            if (init := self.find(package)) is not None:
                yield init.parent / name


@dataclass(frozen=True, slots=True)
class _ImportFrom:
    """One `from … import …`."""

    module: str
    level: int
    names: tuple[str, ...]

    def origin(self, module: str, *, is_package: bool) -> str:
        """The absolute name of the module that names are imported from."""
        if not self.level:
            return self.module
        package = module.split(".") if is_package else module.split(".")[:-1]
        base = package[: len(package) - self.level + 1]
        return ".".join([*base, *([self.module] if self.module else [])])


@dataclass(frozen=True, slots=True)
class _Mentions:
    """What a source file refers to."""

    names: tuple[str, ...]
    """What it imports as a whole, and strings in the form of a module's name."""
    taken: tuple[_ImportFrom, ...]
    data: tuple[tuple[str, str], ...]
    """Package and name of the data files that it reads."""


_MENTIONS: Final = TypeAdapter(_Mentions)


class _Kept:
    """What sources mention, by their digests, in memory and on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = read_cached(path)
        self._known = dict(kept) if isinstance(kept, dict) else {}
        self._fresh = False

    def of(self, source: bytes) -> _Mentions:
        """What a source mentions."""
        digest = hashlib.sha256(source).hexdigest()
        try:
            return _MENTIONS.validate_python(self._known[digest])
        except (KeyError, ValidationError):
            found = _read_mentions(source)
        self._known[digest] = _MENTIONS.dump_python(found, mode="json")
        self._fresh = True
        return found

    def save(self) -> None:
        """Write what is new."""
        if self._fresh:
            recent = list(self._known.items())[-MOST_KEPT:]
            write_cached(self._path, dict(recent))
            self._fresh = False


@functools.cache
def _kept(folder: Path) -> _Kept:
    rule = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return _Kept(folder / f"mentions-{sys.version_info.major}.{sys.version_info.minor}-{rule}.json")


def _read_mentions(source: bytes) -> _Mentions:
    names: list[str] = []
    taken: list[_ImportFrom] = []
    data: list[tuple[str, str]] = []
    for node in _run(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names += [alias.name for alias in aliases]
            case ast.ImportFrom(module=module, level=level, names=aliases):
                taken.append(_ImportFrom(module or "", level, tuple(alias.name for alias in aliases)))
            case ast.Constant(value=str(text)) if "." in text and text.replace(".", "_").isidentifier():
                names.append(text)
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Call(func=ast.Attribute(attr="files"), args=[ast.Constant(value=str(package))]),
                    attr="joinpath",
                ),
                args=[ast.Constant(value=str(name))],
            ):
                data.append((package, name))
    return _Mentions(tuple(names), tuple(taken), tuple(data))


def _run(source: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a source but those that only a type checker reads."""
    waiting: list[ast.AST] = [source]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _parent_of(package: str) -> Path:
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        raise NotFoundError(f"no package `{package}`", hint="install the distribution that it is in")
    origin = Path(spec.origin)
    return origin.parent.parent if spec.submodule_search_locations else origin.parent
