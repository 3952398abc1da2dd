"""The node side of portable artifacts: they do not run; they are compiled first."""

from __future__ import annotations

from typing import NoReturn

from compilers.runtime import Bundle
from compilers.toolchain import Unsupported
from registry.artifact import ArtifactFormat, Manifest
from registry.digest import short
from registry.errors import LoadError
from registry.host import Host

HINT = "run `rung node-compile` on a node that has the vendor's toolkit"


class PortableRuntime:
    """Refuses every portable artifact: running its graph on a CPU would not be running it on its target."""

    accepts: ArtifactFormat = "portable"

    def version(self) -> str:
        """There is no runtime, and so no version."""
        return "none"

    def supports(self, manifest: Manifest, host: Host) -> Unsupported:
        """Never: the artifact is no machine code."""
        if manifest.format != self.accepts:
            return Unsupported("never", f"the artifact's format is `{manifest.format}`")
        return Unsupported(
            "not_upstream", f"it must be compiled on a node of `{manifest.target}` first: {HINT}"
        )

    def load(self, bundle: Bundle, host: Host, *, threads: int = 1) -> NoReturn:
        """Refuse.

        Raises:
            LoadError: Always.
        """
        manifest = bundle.manifest
        raise LoadError(
            f"artifact {short(manifest.digest)} for `{manifest.target}` is not compiled yet", hint=HINT
        )
