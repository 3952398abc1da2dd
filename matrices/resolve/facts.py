"""Facts: everything that the gates of resolution may ask about, in one frozen value.

A gate with a new fact adds a field here; `serving/node/choose.py` collects the facts of a real node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from matrices.resolve.request import Request
from registry.host import Host


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked for, and what is known of the machine that would serve it."""

    request: Request
    host: Host
    runtimes: Mapping[str, str] | None = None
    """Installed runtime → version, as `Runtime.version()` says; None: not known."""
    at: datetime | None = None
    """When the decision is made, aware UTC; None: not known. For rules that hold from or until a date."""

    @property
    def region(self) -> str | None:
        """Where the node is; None: not known."""
        return self.request.region
