"""Task types that cannot be evaluated: each fails alone, and all of them are said at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import EvaluationError


class FailedTasks:
    """Collects why task types could not be evaluated."""

    def __init__(self) -> None:
        self._errors: dict[str, EvaluationError] = {}

    @contextmanager
    def noted(self, task_type: str) -> Iterator[None]:
        """Note an error of a task type, and go on behind the block."""
        try:
            yield
        except EvaluationError as error:
            self._errors[task_type] = error

    def has(self, task_type: str) -> bool:
        """Whether a task type failed."""
        return task_type in self._errors

    def raise_any(self) -> None:
        """End with what was noted.

        Raises:
            EvaluationError: Some task type failed.
        """
        if self._errors:
            raise EvaluationError(
                "; ".join(
                    f"`{name}` could not be evaluated: {e.message}" for name, e in self._errors.items()
                ),
                hint="; ".join(dict.fromkeys(error.hint for error in self._errors.values())),
            )
