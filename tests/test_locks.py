"""The locks in `locks/`: exact, with hashes, without an address, and in agreement with `pyproject.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "locks"
PYTHONS = sorted(path.name for path in LOCKS.iterdir() if path.is_dir())
LAYERS = ("run", "real", "silicon", "dev")
"""Files of one Python's lock; each has what those before it lack."""
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "run": ("build", "eval", "serve"),
    "real": ("real",),
    "silicon": ("silicon",),
    "dev": ("dev",),
}
"""Layer → the extras that it completes."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

_LOCK = re.compile(
    r"(#[^\n]*\n)*"
    r"([a-z0-9]+(-[a-z0-9]+)*==[0-9][a-z0-9.]*( \\\n {4}--hash=sha256:[0-9a-f]{64})+\n)+"
)
"""All that a lock may hold: comments, then versions with hashes; no option, address, file or marker."""
_PIN = re.compile(r"^([a-z0-9-]+)==([^ \n]+)", re.MULTILINE)

each_python = pytest.mark.parametrize("python", PYTHONS)


def _read(*parts: str) -> str:
    return LOCKS.joinpath(*parts).read_text(encoding="utf-8")


def _pins(text: str) -> dict[str, Version]:
    return {name: Version(version) for name, version in _PIN.findall(text)}


def _torch() -> dict[str, Version]:
    return _pins(_read("torch.txt"))


def _locked(python: str, *, up_to: str = "dev") -> dict[str, Version]:
    layers = LAYERS[: LAYERS.index(up_to) + 1]
    return {
        name: version for layer in layers for name, version in _pins(_read(python, f"{layer}.txt")).items()
    }


def _asked(extras: Iterable[str]) -> Iterator[Requirement]:
    """What the package and its extras ask for, extras of extras included."""
    project = PROJECT["project"]
    texts = [
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, texts):
        if requirement.name == project["name"]:
            yield from _asked(requirement.extras)
        else:
            yield requirement


def _unmet(asked: Iterable[Requirement], locked: Mapping[str, Version], *, python: str) -> list[str]:
    environment = {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
    unmet = []
    for requirement in asked:
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement} (locked: {version})")
    return unmet


def test_there_is_a_lock_for_each_python_that_the_project_names() -> None:
    prefix = "Programming Language :: Python :: "
    named = [
        text.removeprefix(prefix) for text in PROJECT["project"]["classifiers"] if text.startswith(prefix)
    ]
    assert named == PYTHONS
    assert f"PYTHONS := {' '.join(PYTHONS)}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


@each_python
@pytest.mark.parametrize("layer", LAYERS)
def test_a_lock_holds_versions_with_hashes_and_nothing_else(python: str, layer: str) -> None:
    assert _LOCK.fullmatch(_read(python, f"{layer}.txt"))


def test_torch_is_pinned_apart_without_an_index() -> None:
    lines = [line for line in _read("torch.txt").splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    assert list(_torch()) == ["torch"]
    assert all("torch" not in _locked(python) for python in PYTHONS)


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "locks/refresh", "locks/torch.txt"])
def test_no_address_is_written_down_where_packages_are_installed(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"(--(extra-)?index-url|--find-links|--trusted-host)[ =](?!\$)", text)


@each_python
def test_the_layers_of_a_lock_share_no_package(python: str) -> None:
    names = [name for layer in LAYERS for name in _pins(_read(python, f"{layer}.txt"))]
    assert len(names) == len(set(names))


@each_python
@pytest.mark.parametrize("layer", LAYERS)
def test_a_lock_satisfies_the_projects_ranges(python: str, layer: str) -> None:
    locked = {**_locked(python, up_to=layer), **_torch()}
    assert _unmet(_asked(EXTRAS[layer]), locked, python=python) == []


@each_python
def test_the_run_lock_can_build_the_project_itself(python: str) -> None:
    asked = [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["editable"]]
    assert _unmet(map(Requirement, asked), _locked(python, up_to="run"), python=python) == []


@each_python
@pytest.mark.parametrize("layer", LAYERS)
def test_a_lock_lacks_nothing_that_its_packages_ask_for(python: str, layer: str) -> None:
    """As far as the locked versions are installed here: their own metadata says what they need."""
    locked = {**_locked(python, up_to=layer), **_torch()}
    unmet = []
    for name, version in locked.items():
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if Version(Version(installed.version).public) == version:
            unmet += _unmet(map(Requirement, installed.requires or ()), locked, python=python)
    assert unmet == []
