"""Base class of values that are written to disk or sent over a wire: frozen, no unknown fields."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from registry.errors import ConfigurationError, RungError, SchemaError


class Value(BaseModel):
    """A frozen value; `model_copy(update=…)` makes a changed copy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read_json(cls, path: Path) -> Self:
        """Read the value from a JSON file.

        Raises:
            SchemaError: The file is missing, is not JSON, or does not hold such a value.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise SchemaError(f"no {cls.__name__.lower()} at `{path}`", hint="check the path") from error
        except ValidationError as error:
            raise SchemaError(
                f"`{path}` is not {with_article(cls.__name__.lower())}: {describe(error)}",
                hint="it is damaged or was written by another version; fetch or build it again",
            ) from error


def describe(error: ValidationError) -> str:
    """The first problem of a validation error as `field: what is wrong (got value)`."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "document"
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    got = repr(first.get("input"))
    return f"{field}: {first['msg']} (got {got if len(got) <= 80 else got[:77] + '...'}){more}"


def with_article(noun: str) -> str:
    """The noun after `a` or `an`, for messages."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def configuration_error(
    error: ValidationError, *, where: str, hint: str, model: type[BaseModel] | None = None
) -> RungError:
    """The configuration error for a validation error in something that a user wrote.

    Args:
        error: The validation error.
        where: The file, for the message.
        hint: The remedy, where nothing better is known.
        model: What the file should hold: a key or value that is almost right is answered with the right one.
    """
    near = _nearest(error, model)
    if near:
        hint = "did you mean " + " or ".join(f"`{name}`" for name in near) + f"? ({hint})"
    return ConfigurationError(f"{where}: {describe(error)}", hint=hint)


def _nearest(error: ValidationError, model: type[BaseModel] | None) -> list[str]:
    """Known keys or values that are almost what one of the problems is about.

    Not only the first problem: a required key that is misspelled is missing as well.
    """
    for problem in error.errors(include_url=False):
        given, known = problem.get("input"), list[str]()
        if problem["type"] == "literal_error":
            known = re.findall(r"'([^']+)'", problem.get("ctx", {}).get("expected", ""))
        elif problem["type"] == "extra_forbidden" and model is not None:
            given, known = problem["loc"][-1], list(_at(model, problem["loc"][:-1]).model_fields)
        if near := difflib.get_close_matches(str(given), known, n=2, cutoff=0.6):
            return near
    return []


def _at(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of a table within a model; the innermost that is known."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            inner = _inner(model.model_fields[part].annotation)
            if inner is not None:
                model = inner
    return model


def _inner(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _inner(one)) is not None), None)
