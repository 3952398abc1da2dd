"""The table of backends: everything that is known of each toolchain and of each format, as one value.

A backend is one folder of this package, with a module `backend.py` that declares a `Backend` and imports
none of the backend's libraries. `BACKENDS` (`backends.py`) is the only table of them. Packages of other
authors add to it by an entry point of the group `rung.backends`:

    [project.entry-points."rung.backends"]
    mychip = "my_package.backend:BACKEND"

A name in `BACKENDS` is never looked up among entry points, so no package can replace a backend.
`docs/how-to/add-a-backend.md` shows the steps.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from compilers.check.bounds import Arithmetic, coarsest, float_sums
from compilers.lazy import Lazy
from compilers.rehearsal import Rehearsal, Rehearse
from compilers.runtime import Bundle, Runtime
from compilers.toolchain import Toolchain, Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.errors import ConfigurationError, ToolchainMissingError, UnknownNameError
from registry.host import Accelerator

if TYPE_CHECKING:  # readers of binaries are part of the prove stage alone
    from compilers.proof.claim import Claims, CodeReader
from registry.recipe import Recipe
from registry.weight_form import WeightForm

ENTRY_POINTS = "rung.backends"
"""Group of the entry points by which other packages add backends."""

TABLE: Lazy[Mapping[str, str]] = Lazy("compilers.backends:BACKENDS")
"""Named, not imported: a stage's key holds the modules of the backend that it runs, so that a new line in the
table changes the key of no stage of another backend."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """What on a machine decides whether and how rehearsals run; they are done again when it changes."""

    programs: tuple[str, ...] = ()
    """Looked for on PATH."""
    packages: tuple[str, ...] = ()
    """Distributions, of which the version counts."""
    variables: tuple[str, ...] = ()
    """Of the environment."""
    folders: Mapping[Path, str] = field(default_factory=dict)
    """Folder → pattern of the files in it, of which the names count."""


def runs_any_version(version: str, manifest: Manifest) -> bool:
    """For runtimes that are not bound to the version of the compiler."""
    return True


@dataclass(frozen=True, slots=True)
class Format:
    """What is known of an artifact format: where toolchains and runtimes meet.

    Backends whose toolchains produce the same format share this value.
    """

    name: ArtifactFormat
    runtime: Lazy[Callable[[], Runtime]]
    """A class without arguments."""
    claims: Mapping[str, Claims]
    """Kind of target → what an artifact must hold for it; kinds that are not named have no artifacts."""
    rehearse: Lazy[Rehearse] | None = None
    """Runs an artifact by other means than its target; None: nothing does."""
    stand_ins: StandIns = StandIns()
    """What that depends on."""
    runs: Callable[[str, Manifest], bool] = runs_any_version
    """Whether a runtime of a version can have run what the manifest's toolchain compiled."""
    readers: Mapping[str, Lazy[CodeReader]] = field(default_factory=dict)
    """Reads code in a form that the generic proof does not know. Key: a suffix of files (`.bin`), or the type
    of an ONNX node that carries the code (`EPContext`)."""
    kv_head_multiple: int = 1
    """The KV cache holds heads whose size is rounded up to a multiple of this."""
    compiled_on_node: bool = False
    """Artifacts are no machine code: a node compiles them first (`rung node-compile`)."""


Devices = Callable[[], tuple[Accelerator, ...]]
"""Accelerators of this machine, in their driver's order; empty where there is no driver."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What is known of one toolchain and of the format that it produces."""

    name: str
    """The toolchain's."""
    format: Format
    toolchain: Lazy[Callable[[], Toolchain]]
    """A class without arguments."""
    extra: str
    """The part of Rung that installs the toolchain, such as `build`."""
    page: str
    """Its documentation, relative to the repository's root."""
    arithmetic: Callable[[WeightForm], Arithmetic] = float_sums
    """How products with weights of a form are computed."""
    float_factor: float = 1.0
    """Factor on the bound of float32 arithmetic."""
    devices: Lazy[Devices] | None = None
    """Finds the accelerators of this machine that the backend's code runs on. One backend speaks for each
    kind of hardware: of two that share a function it is called once."""
    private_files: re.Pattern[str] | None = None
    """Matches files under the vendor's licence, which no artifact of any backend may hold."""

    def arithmetic_of(self, recipe: Recipe) -> Arithmetic:
        """How products with weights of a recipe are computed, the coarsest where there are several ways."""
        return coarsest(self.arithmetic(form) for form in recipe.forms)


def backend_names() -> tuple[str, ...]:
    """Names of all backends; imports none of them.

    Raises:
        ConfigurationError: Two packages have a backend of one name.
    """
    return (*TABLE.load(), *_entry_points())


def find_backend(name: str, *, where: str = "") -> Backend:
    """The backend of a toolchain.

    Raises:
        UnknownNameError: No such toolchain.
        ConfigurationError: Another package's backend cannot be imported, or two have this name.
    """
    if name in TABLE.load():
        return Lazy[Backend](TABLE.load()[name]).load()
    if name in _entry_points():
        return _foreign(name)
    raise UnknownNameError.of("toolchain", name, known=backend_names(), where=where)


def backend_module(name: str) -> str:
    """The module that declares a backend; imports nothing.

    Raises:
        UnknownNameError: No such toolchain.
        ConfigurationError: Two packages have a backend of this name.
    """
    if name in TABLE.load():
        return Lazy[Backend](TABLE.load()[name]).module
    if name in _entry_points():
        return _entry_points()[name].module
    raise UnknownNameError.of("toolchain", name, known=backend_names())


def backends() -> Iterator[Backend]:
    """All backends, ours first; each is imported when it is its turn.

    Raises:
        ConfigurationError: Another package's backend cannot be imported, or two have one name.
    """
    yield from (find_backend(name) for name in TABLE.load())
    yield from (find_backend(name) for name in _entry_points())


def formats() -> dict[str, Format]:
    """All formats by name.

    Raises:
        ConfigurationError: Backends differ in what they say of a format; or as in `backends`.
    """
    found: dict[str, Format] = {}
    for backend in backends():
        if found.setdefault(backend.format.name, backend.format) != backend.format:
            raise ConfigurationError(
                f"backend `{backend.name}` redefines the format `{backend.format.name}`",
                hint="give the format another name, or use the other backend's `Format` as it is",
            )
    return found


def find_format(name: str, *, where: str = "") -> Format:
    """The format of a name.

    Raises:
        UnknownNameError: No backend has it.
        ConfigurationError: As in `backends`.
    """
    for backend in backends():
        if backend.format.name == name:
            return backend.format
    raise UnknownNameError.of("artifact format", name, known=formats(), where=where)


def find_toolchain(name: str, *, where: str = "") -> Toolchain:
    """The toolchain of a name.

    Raises:
        UnknownNameError: No such toolchain.
        ToolchainMissingError: A package that it imports is not installed.
    """
    backend = find_backend(name, where=where)
    try:
        return backend.toolchain.load()()
    except ModuleNotFoundError as missing:
        raise ToolchainMissingError(
            f"toolchain `{name}` needs `{missing.name}`, which is not installed here",
            hint=f"install it: `pip install 'rung[{backend.extra}]'`",
        ) from missing


def find_runtime(name: str, *, where: str = "") -> Runtime:
    """The runtime of an artifact format.

    Raises:
        UnknownNameError: No such format.
    """
    return find_format(name, where=where).runtime.load()()


def rehearse(bundle: Bundle) -> Rehearsal | Unsupported:
    """Open an artifact for a rehearsal on this machine.

    Raises:
        LoadError: The artifact is damaged, or the means are there and it does not run.
        UnknownNameError: No backend has its format.
    """
    form = find_format(bundle.manifest.format)
    if form.rehearse is None:
        return Unsupported("not_upstream", f"nothing on another machine runs `{form.name}` code")
    return form.rehearse.load()(bundle)


def stand_ins_here(name: str) -> dict[str, str | None]:
    """What rehearsals of a format depend on, as it is on this machine. Starts nothing.

    Raises:
        UnknownNameError: No such format.
    """
    used = find_format(name).stand_ins
    return {
        **{program: shutil.which(program) for program in used.programs},
        **{package: _version(package) for package in used.packages},
        **{variable: os.environ.get(variable) for variable in used.variables},
        **{
            str(folder): " ".join(sorted(path.name for path in folder.glob(pattern))) or None
            for folder, pattern in used.folders.items()
        },
    }


def accelerators_here() -> tuple[Accelerator, ...]:
    """All accelerators of this machine, by backend and in their driver's order.

    Raises:
        ConfigurationError: As in `backends`.
    """
    asked = dict.fromkeys(backend.devices for backend in backends() if backend.devices is not None)
    return tuple(accelerator for find in asked for accelerator in find.load()())


@functools.cache
def _entry_points() -> Mapping[str, metadata.EntryPoint]:
    """Backends of other packages by name."""
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.name in TABLE.load() or point.name in found:
            others = "Rung" if point.name in TABLE.load() else _package(found[point.name])
            raise ConfigurationError(
                f"backend `{point.name}` of `{_package(point)}` has the name of a backend of `{others}`",
                hint=f"uninstall `{_package(point)}`, or ask its authors for another name",
            )
        found[point.name] = point
    return found


def _foreign(name: str) -> Backend:
    point = _entry_points()[name]
    hint = f"install what `{_package(point)}` needs, or uninstall it"
    try:
        backend = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"backend `{name}` of `{_package(point)}` cannot be imported: {error}", hint=hint
        ) from error
    if not isinstance(backend, Backend) or backend.name != name:
        raise ConfigurationError(
            f"`{point.value}` of `{_package(point)}` is not a `Backend` named `{name}`", hint=hint
        )
    return backend


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
