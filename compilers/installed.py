"""Which version of a package is installed, without importing it: an import may crash, a question must not."""

from __future__ import annotations

import functools
from importlib import metadata

from packaging.specifiers import SpecifierSet

from registry.errors import ToolchainMissingError


def required_version(*names: str, versions: str = "", extra: str) -> str:
    """The installed version of the first of some distributions that is there.

    Args:
        names: Distributions of which any will do.
        versions: Versions that work, such as `>=1.32,<2`; empty: all.
        extra: The part of Rung that installs it, such as `build`.

    Raises:
        ToolchainMissingError: None is installed, or in a version that does not work.
    """
    hint = f"install `rung[{extra}]`"
    for name in names:
        try:
            found = _version(name)
        except metadata.PackageNotFoundError:
            continue
        if not SpecifierSet(versions, prereleases=True).contains(found):
            raise ToolchainMissingError(f"`{name}` {found} is installed, what works is {versions}", hint=hint)
        return found
    raise ToolchainMissingError(f"`{names[0]}` is not installed", hint=hint)


@functools.cache  # reading it takes 8 ms, and a build asks for each key
def _version(name: str) -> str:
    return metadata.version(name)
