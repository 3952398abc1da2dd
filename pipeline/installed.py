"""Which toolchains and runtimes are installed here, and in which version."""

from __future__ import annotations

from compilers.runtime import RUNTIMES, find_runtime
from compilers.toolchain import TOOLCHAINS, find_toolchain
from registry.errors import ToolchainMissingError


def installed_runtimes() -> dict[str, str]:
    """Runtime → version, of those that are installed."""
    found: dict[str, str] = {}
    for name in RUNTIMES:
        try:
            found[name] = find_runtime(name).version()
        except ToolchainMissingError:
            continue
    return found


def installed_toolchains() -> dict[str, str | ToolchainMissingError]:
    """Toolchain → version, or why it cannot be used here."""
    found: dict[str, str | ToolchainMissingError] = {}
    for name in TOOLCHAINS:
        try:
            found[name] = find_toolchain(name).version()
        except ToolchainMissingError as error:
            found[name] = error
    return found
