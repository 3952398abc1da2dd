from __future__ import annotations

import re

import pytest

from registry import errors
from registry.errors import RegistryError, RungError, UnknownNameError

pytestmark = pytest.mark.smoke


def drawn() -> dict[str, tuple[str, int]]:
    """Class → its parent and exit code, as the module's docstring draws the tree."""
    found: dict[str, tuple[str, int]] = {}
    path = ["RungError"]
    for line in re.findall(r"^[│├└ ].*exit \d.*$", errors.__doc__ or "", flags=re.MULTILINE):
        depth = line.index("─") // 4 + 1
        name, code = re.search(r"(\w+Error) +exit (\d)", line).groups()
        path[depth:] = [name]
        found[name] = (path[depth - 1], int(code))
    return found


def subclasses(of: type[RungError]) -> list[type[RungError]]:
    return [one for child in of.__subclasses__() for one in (child, *subclasses(child))]


def test_the_tree_that_is_drawn_is_the_tree_that_is() -> None:
    here = [one for one in subclasses(RungError) if one.__module__ == errors.__name__]
    assert drawn() == {one.__name__: (one.__mro__[1].__name__, one.exit_code) for one in here}


def test_every_error_has_a_code_of_its_own() -> None:
    here = [one for one in subclasses(RungError) if one.__module__ == errors.__name__]
    assert len({one.code for one in here}) == len(here) > 10


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("cuda-sm91", ["cuda-sm90", "npu-intel"], "did you mean `cuda-sm90`?"),
        ("zzz", ["b", "a"], "known targets: `a`, `b`"),
        ("zzz", [], "there is no target yet"),
    ],
)
def test_an_unknown_name_gets_the_nearest_or_all_known_ones(name: str, known: list[str], hint: str) -> None:
    error = UnknownNameError.of("target", name, known=known, where="the ladder")
    assert str(error) == f"unknown target `{name}` in the ladder\nhint: {hint}"
    assert error.to_json() == {"code": "unknown_name", "message": error.message, "hint": hint}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot reach `http://me:word@host:1/a`", "cannot reach `http://***@host:1/a`"),
        ("postgresql+psycopg://me:w%40rd@db/rung is down", "postgresql+psycopg://***@db/rung is down"),
        ("GET https://host/a?page=2&token=abc&x=1", "GET https://host/a?page=2&token=***&x=1"),
        ("https://host/a?Signature=abc", "https://host/a?Signature=***"),
        ("write to me@example.com", "write to me@example.com"),
        ("`tiny-a@champion` is unknown", "`tiny-a@champion` is unknown"),
    ],
)
def test_credentials_in_urls_are_not_shown(said: str, shown: str) -> None:
    error = RegistryError(said, hint=said)
    assert (error.message, error.hint) == (shown, shown)
    assert str(error) == f"{shown}\nhint: {shown}"
