"""Base class of values that are written to disk or sent over a wire: frozen, no unknown fields."""

from __future__ import annotations

from pathlib import Path
from typing import Self

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


def configuration_error(error: ValidationError, *, where: str, hint: str) -> RungError:
    """The configuration error for a validation error in something that a user wrote."""
    return ConfigurationError(f"{where}: {describe(error)}", hint=hint)
