"""Names: a public class name means one thing, and every module says what it is in its first line."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("registry", "compilers", "evals", "matrices", "serving", "pipeline")


def modules() -> dict[Path, ast.Module]:
    found = {
        path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    assert len(found) > 250
    return found


def test_no_public_class_name_means_two_things() -> None:
    homes: dict[str, list[Path]] = defaultdict(list)
    for path, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(path)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_every_module_says_what_it_is_in_one_line() -> None:
    silent = [
        str(path)
        for path, tree in modules().items()
        if not (ast.get_docstring(tree) or "").partition("\n")[0].endswith((".", ":", "?"))
    ]
    assert silent == []
