"""Read docstrings for the reference: of classes, functions, fields and constants."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable


def attribute_docs(tree: ast.Module | ast.ClassDef) -> dict[str, str]:
    """Name → docstring of the variables of a module or class: the string after an assignment."""
    found: dict[str, str] = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        match statement, following:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
            case _:
                continue
    return found


def summary(thing: object) -> str:
    """The first paragraph of a docstring, without its final period."""
    return inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].rstrip(".")


def escaped(text: str) -> str:
    """The text on one line, for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def names(found: Iterable[str]) -> str:
    """Names in code spans, sorted."""
    return ", ".join(f"`{name}`" for name in sorted(found))
