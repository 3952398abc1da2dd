"""Reference pages and JSON schemas of the files that people write: the ladder and rung.toml."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Final, cast, get_args

from pydantic import BaseModel

from pipeline.reference.docstrings import attribute_docs, escaped, summary
from registry.ladder import Ladder

EXTENDS: Final = "Ladder file to start from, relative to this one; keys and tasks given here replace its own."


def model_page(model: type[BaseModel], schema: str) -> Iterator[str]:
    """Lines of the page of a file: its keys, table by table."""
    yield from (inspect.cleandoc(sys.modules[model.__module__].__doc__ or ""), "")
    yield from (f"Editors can check it against [{schema}]({schema}).", "")
    for each in _models(model):
        title = "Top level" if each is model else summary(each).partition(". ")[0]
        yield from (f"## {title}", "", "| Key | Type | Default | Meaning |", "|---|---|---|---|")
        documented = _field_docs(each)
        for name, field in each.model_fields.items():
            default = "required" if field.is_required() else _default(field.default)
            kind = escaped(_type_name(field.annotation))
            yield f"| `{name}` | {kind} | {default} | {escaped(documented.get(name, ''))} |"
        if each is Ladder:
            yield f"| `extends` | text | none | {EXTENDS} |"
        yield ""


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for each in found:
        for field in each.model_fields.values():
            found += [inner for inner in _inner_models(field.annotation) if inner not in found]
    return found


def _inner_models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _inner_models(argument)]


def _default(value: object) -> str:
    if isinstance(value, BaseModel) or value in ({}, ()):
        return ""
    return f"`{json.dumps(value, default=str)}`" if value is not None else "none"


def _type_name(annotation: object) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    if annotation is type(None) or annotation is Ellipsis:
        return ""
    arguments = get_args(annotation)
    if not arguments:
        return {str: "text", int: "integer", float: "number", bool: "boolean"}.get(
            cast("type", annotation), str(annotation)
        )
    if all(isinstance(argument, str) for argument in arguments):
        return ", ".join(f"`{argument}`" for argument in arguments)
    parts = [part for argument in arguments if (part := _type_name(argument))]
    origin = getattr(annotation, "__origin__", None)
    if origin is tuple:
        return f"list of {parts[0]}"
    if origin is dict:
        return f"table of {parts[-1]}"
    return " or ".join(parts)


def schema(model: type[BaseModel], title: str) -> str:
    """The JSON schema of a model, with the meanings of its fields."""
    documented = {each.__name__: _field_docs(each) for each in _models(model)}
    schema = model.model_json_schema()
    schema["title"] = title
    if model is Ladder:
        schema["properties"]["extends"] = {"type": "string", "description": EXTENDS}
        schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for field, described in part.get("properties", {}).items():
            described.pop("title", None)
            if meaning := documented.get(name, {}).get(field):
                described["description"] = " ".join(meaning.split())
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _field_docs(model: type[BaseModel]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    body = tree.body[0]
    return attribute_docs(body) if isinstance(body, ast.ClassDef) else {}
