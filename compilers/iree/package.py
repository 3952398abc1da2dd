"""Which versions of IREE are taken: a module loads in the runtime of its compiler's series only.

See https://iree.dev/developers/general/versioning-scheme/.
"""

from __future__ import annotations

from compilers.installed import required_version

COMPILER, RUNTIME = "iree-base-compiler", "iree-base-runtime"
VERSIONS = ">=3.13,<3.14"


def installed_version(package: str) -> str:
    """Version of an installed package of IREE, without importing it.

    Raises:
        ToolchainMissingError: It is not installed, or of another series.
    """
    return required_version(package, versions=VERSIONS, extra="iree")
