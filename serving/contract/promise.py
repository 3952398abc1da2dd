"""The holding: what one node serves, and the quality that it has evidence for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matrices.cells.levels import earned_tiers
from matrices.releases.release import Release, ReleasedCell
from matrices.resolve.facts import Facts
from matrices.resolve.request import Request
from matrices.resolve.resolve import resolve
from registry.artifact import Manifest
from registry.digest import short
from registry.host import Host
from serving.contract.problems import Json
from serving.node.host import installed_runtimes
from serving.node.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node promises its callers."""

    manifest: Manifest
    artifact: str
    """Digest."""
    host: Host
    release: Release | None = None
    cell: ReleasedCell | None = None
    runtimes: Mapping[str, str] | None = None
    """Installed runtime → version; None: not known."""
    region: str | None = None
    default_task: str | None = None
    """Task type of callers that name none."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names under which callers may ask for it; the first is the one that is listed."""
        manifest = self.manifest
        name = manifest.checkpoint.partition("/")[0]
        names = [manifest.family, name, manifest.checkpoint, self.artifact]
        return tuple(dict.fromkeys(names if self.cell is None else [*names, self.cell.cell.id]))

    @property
    def subject(self) -> str:
        """The cell's id, or what is known of a bundle without one."""
        if self.cell is not None:
            return f"`{self.cell.cell.id}`"
        return f"artifact {short(self.artifact)}, which no release has approved"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task types that there is evidence for."""
        return () if self.cell is None else tuple(result.task_type for result in self.cell.cell.tasks)

    def tier(self, task: str | None) -> int | None:
        """The tier earned for a task type; for None the tier that holds for every one of them."""
        return None if self.cell is None else _tier(self.cell, task)

    def alternatives(self, *, task: str | None, min_tier: int) -> list[Json]:
        """What else the release has: first what this host could serve."""
        if self.release is None or not self.tasks:
            return []
        request = Request(
            family=self.release.family, task=task or self.tasks, min_tier=min_tier, region=self.region
        )
        decision = resolve(self.release, Facts(request=request, host=self.host, runtimes=self.runtimes))
        own = None if self.cell is None else self.cell.cell.id
        found: list[Json] = [
            {"cell": one.id, "tier": one.tier, "here": True, "gate": None, "reason": one.reason}
            for one in decision.candidates
            if one.outcome in ("chosen", "allow") and one.id != own
        ]
        found += [
            {"cell": one.id, "tier": one.tier, "here": False, "gate": one.gate, "reason": one.reason}
            for one in decision.near_misses
            if one.id != own
        ]
        return found


def make_holding(
    model: LoadedModel, *, region: str | None = None, default_task: str | None = None
) -> Holding:
    """The holding of a node that has loaded this model."""
    return Holding(
        manifest=model.manifest,
        artifact=model.digest,
        host=model.host,
        release=model.release,
        cell=model.cell,
        runtimes=installed_runtimes(),
        region=region,
        default_task=default_task,
    )


def _tier(cell: ReleasedCell, task: str | None) -> int | None:
    earned = earned_tiers(cell.cell)
    wanted = list(earned.values()) if task is None else [earned.get(task)]
    known = [tier for tier in wanted if tier is not None]
    return max(known) if known and len(known) == len(wanted) else None
