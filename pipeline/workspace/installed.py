"""Which toolchains are installed here, and in which version."""

from __future__ import annotations

from compilers.backend import backend_names, find_toolchain
from registry.errors import ToolchainMissingError


def installed_toolchains() -> dict[str, str | ToolchainMissingError]:
    """Toolchain → version, or why it cannot be used here."""
    found: dict[str, str | ToolchainMissingError] = {}
    for name in backend_names():
        try:
            found[name] = find_toolchain(name).version()
        except ToolchainMissingError as error:
            found[name] = error
    return found
