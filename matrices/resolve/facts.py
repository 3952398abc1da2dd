"""Facts: everything that the gates of resolution may look at, in one frozen value.

A gate that needs a new fact adds a field here; `serving/node/choose.py` collects the facts of a real node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from matrices.resolve.request import Request
from registry.host import Host


@dataclass(frozen=True, slots=True)
class Facts:
    """The request, and what is known about the machine that would serve it."""

    request: Request
    host: Host
    revoked: Mapping[str, str] = field(default_factory=dict)
    """Artifact → why it must not be served any more, as far as the node has learnt."""
    runtimes: Mapping[str, str] | None = None
    """Installed runtime → version, as reported by `Runtime.version()`; None: not known."""
    at: datetime | None = None
    """When the decision is made, aware UTC; None: not known. For rules that apply from or until a date."""

    @property
    def region(self) -> str | None:
        """Where the node is; None: not known."""
        return self.request.region
