"""Rulings and approvals: what a person decided about a cell. The latest ruling on an artifact wins.

An approval is a ruling that lets the cell into a release. (A *decision* is what resolution makes on a node.)
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from registry.digest import Digest
from registry.value import Value

Verb = Literal["approve", "reject", "withdraw"]


class Approval(Value):
    """Who approved a cell, and why."""

    who: str
    why: str
    at: datetime
    artifact: Digest
    """The artifact that was reviewed; the approval applies only to it."""
    waiver: str | None = None
    """Text of the explicit waiver, where the evidence alone would not have sufficed."""


class Ruling(Value):
    """One ruling."""

    cell: str
    """Id of the cell."""
    verb: Verb
    who: str
    why: str
    at: AwareDatetime
    artifact: Digest | None
    """The artifact that was reviewed; None if the cell had none."""
    waiver: str | None = None
    """Why the missing evidence is accepted; None if none was missing."""
    missing: tuple[str, ...] = ()
    """Evidence that was missing at the time, one sentence each."""

    def approval(self) -> Approval | None:
        """The approval, if this ruling is one."""
        if self.verb != "approve" or self.artifact is None:
            return None
        return Approval(who=self.who, why=self.why, at=self.at, artifact=self.artifact, waiver=self.waiver)
