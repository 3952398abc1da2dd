"""Which versions of IREE are taken: the compiler's modules and the runtime belong together."""

from __future__ import annotations

from importlib import metadata

from registry.errors import ToolchainMissingError

COMPILER, RUNTIME = "iree-base-compiler", "iree-base-runtime"
SERIES = "3.13"
"""Modules are promised to load in the runtime of the same version only
(https://iree.dev/developers/general/versioning-scheme/)."""


def installed_version(package: str) -> str:
    """Version of an installed package of IREE, without importing it.

    Raises:
        ToolchainMissingError: It is not installed, or of another series.
    """
    hint = "install `rung[iree]`"
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise ToolchainMissingError(f"`{package}` is not installed", hint=hint) from error
    if not version.startswith(f"{SERIES}."):
        raise ToolchainMissingError(f"`{package}` is {version}, not of the series {SERIES}", hint=hint)
    return version
