"""The table of backends, and backends of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compilers.backend import backend_names, backends, find_backend, find_format, formats
from compilers.backends import BACKENDS
from registry.errors import UnknownNameError

ROOT = Path(__file__).parents[2]
FOREIGN = """
from dataclasses import replace
from compilers.iree.backend import BACKEND as IREE
BACKEND = replace(IREE, name="mychip", format=replace(IREE.format, name="mychip-code"))
SECOND = replace(BACKEND, name="second", format=replace(BACKEND.format, kv_head_multiple=8))
"""


def install(folder: Path, package: str, **points: str) -> None:
    """Lay a package with entry points into a folder of packages."""
    (folder / f"{package}.py").write_text(FOREIGN, encoding="utf-8")
    info = folder / f"{package}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n", encoding="utf-8")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[rung.backends]\n{lines}", encoding="utf-8")


def python(code: str, *, packages: Path) -> str:
    """What code prints where these packages are installed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refusal(code: str) -> str:
    """Code that prints the ConfigurationError that other code raises."""
    return (
        "from compilers.backend import *\nfrom registry.errors import ConfigurationError\n"
        f"try:\n    {code}\nexcept ConfigurationError as error:\n    print(error)\n"
    )


def test_every_backend_is_found_under_its_name_and_by_its_format() -> None:
    assert backend_names()[: len(BACKENDS)] == tuple(BACKENDS)
    for backend in backends():
        assert find_backend(backend.name) is backend
        assert find_format(backend.format.name) == backend.format == formats()[backend.format.name]


def test_unknown_names_are_refused_with_the_nearest_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown toolchain `openvin`") as toolchain:
        find_backend("openvin")
    assert "`openvino`" in toolchain.value.hint
    with pytest.raises(UnknownNameError, match="unknown artifact format `tvn`"):
        find_format("tvn")


def test_a_package_adds_a_backend_by_an_entry_point(tmp_path: Path) -> None:
    install(tmp_path, "rung_mychip", mychip="rung_mychip:BACKEND")
    code = (
        "from compilers.backend import *\n"
        "print(backend_names()[-1], find_backend('mychip').name, find_format('mychip-code').name)"
    )
    assert python(code, packages=tmp_path) == "mychip mychip mychip-code"


def test_a_package_cannot_replace_a_backend(tmp_path: Path) -> None:
    install(tmp_path, "rung_other", tvm="rung_other:BACKEND")
    assert python("from compilers.backend import *; print(find_backend('tvm').page)", packages=tmp_path) == (
        "docs/toolchains/tvm.md"
    )
    said = python(refusal("backend_names()"), packages=tmp_path)
    assert "backend `tvm` of `rung_other` has the name of a backend of `Rung`" in said
    assert "hint: uninstall `rung_other`" in said


def test_two_packages_with_one_name_are_refused(tmp_path: Path) -> None:
    install(tmp_path, "rung_a", mychip="rung_a:BACKEND")
    install(tmp_path, "rung_b", mychip="rung_b:BACKEND")
    assert "has the name of a backend of" in python(refusal("find_backend('mychip')"), packages=tmp_path)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("rung_mychip:MISSING", "cannot be imported"),
        ("no_such_module:BACKEND", "cannot be imported"),
        ("rung_mychip:SECOND", "is not a `Backend` named `mychip`"),
        ("rung_mychip:replace", "is not a `Backend` named `mychip`"),
    ],
)
def test_an_entry_point_that_gives_no_such_backend_is_refused(tmp_path: Path, value: str, says: str) -> None:
    install(tmp_path, "rung_mychip", mychip=value)
    assert says in python(refusal("find_backend('mychip')"), packages=tmp_path)


def test_backends_that_differ_about_a_format_are_refused(tmp_path: Path) -> None:
    install(tmp_path, "rung_mychip", mychip="rung_mychip:BACKEND", second="rung_mychip:SECOND")
    said = python(refusal("formats()"), packages=tmp_path)
    assert "backend `second` redefines the format `mychip-code`" in said
