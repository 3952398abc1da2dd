"""Plan files: the JSON beside compiled code that tells a runtime how to call it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from registry.errors import LoadError
from registry.value import Value, describe

PLAN_NAME: Final = "plan.json"
"""The file's name, unless a format has another."""

P = TypeVar("P", bound=Value)


def read_plan_file(path: Path, kind: type[P]) -> P:
    """The plan that a file holds.

    Raises:
        LoadError: The file is missing, damaged, or of another version.
    """
    hint = "pull or build the artifact again"
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LoadError(f"cannot read `{path}`: {error.strerror}", hint=hint) from error
    except ValidationError as error:
        raise LoadError(
            f"`{path}` is not a plan in the format this version reads: {describe(error)}", hint=hint
        ) from error
