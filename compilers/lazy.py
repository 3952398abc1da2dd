"""A lazy import: where a function or class is, imported when it is first used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)  # with slots, `Lazy[X](…)` fails when typing sets `__orig_class__`
class Lazy(Generic[T]):
    """A place that is imported on first use, so that naming it costs nothing and needs no library."""

    place: str
    """`module:attribute`."""

    @property
    def module(self) -> str:
        """The module's name."""
        return self.place.partition(":")[0]

    def load(self) -> T:
        """The attribute.

        Raises:
            ImportError: The module, or something that it imports, is not installed.
            AttributeError: The module has no such attribute.
        """
        module, _, attribute = self.place.partition(":")
        return cast("T", getattr(importlib.import_module(module), attribute))
