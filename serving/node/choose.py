"""Which artifact of a release this node serves: what is wanted, held against what the machine is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from matrices.releases.release import Release, ReleasedCell
from matrices.resolve.facts import Facts
from matrices.resolve.request import Request
from matrices.resolve.resolve import Decision, resolve
from registry.errors import RefusedError, UnknownNameError
from registry.host import Host
from serving.node.directory import NodeDirectory
from serving.node.host import installed_runtimes, this_host


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which artifacts of a release are wanted."""

    tasks: tuple[str, ...] = ()
    """Task types; empty: all of the release."""
    min_tier: int | None = None
    """None: the ladder's last tier."""
    artifacts: tuple[str, ...] = ()
    """Digests or cell ids, instead of what the host takes."""
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The artifact that a node is going to serve, and why."""

    directory: NodeDirectory
    release: Release
    host: Host
    wanted: Wanted
    decision: Decision
    artifact: str
    """Digest."""
    revoked: Mapping[str, str] = field(default_factory=dict)
    """Artifact → why it must not be served any more."""


def choose(
    directory: NodeDirectory,
    wanted: Wanted,
    *,
    host: Host | None = None,
    release: str | None = None,
    family: str | None = None,
    key: Path | None = None,
    region: str | None = None,
) -> Choice:
    """The best artifact that a node may serve, of a release in its directory.

    Args:
        directory: Filled by a pull.
        wanted: What it has to serve.
        host: None: this machine.
        release: None: the one that was pulled last.
        family: Only a release of this family; None: of any.
        key: Public key to trust; None: the one given at the pull.
        region: Where the node is.

    Raises:
        NotFoundError: The directory has no such release.
        SignatureError: The release is not signed with the key.
        RefusedError: Nothing may be served here as asked, or the release is older than one that the node has
            had.
    """
    found = directory.read_release(release, family=family, key=key)
    revoked = directory.read_revocations(key=key).reasons
    machine = host or this_host()
    decision = decide(found, wanted, machine, region=region, revoked=revoked)
    return Choice(directory, found, machine, wanted, decision, accept(decision), revoked)


def node_facts(
    request: Request,
    host: Host,
    *,
    runtimes: Mapping[str, str] | None = None,
    revoked: Mapping[str, str] | None = None,
) -> Facts:
    """What the gates may ask about this node.

    Args:
        request: What is asked for.
        host: The machine.
        runtimes: Runtime → version; None: those that are installed here, which are looked up.
        revoked: Artifact → why it must not be served any more; None: none is known to be.
    """
    known = installed_runtimes() if runtimes is None else runtimes
    return Facts(request=request, host=host, revoked=revoked or {}, runtimes=known, at=datetime.now(UTC))


def decide(
    release: Release,
    wanted: Wanted,
    host: Host,
    *,
    region: str | None = None,
    runtimes: Mapping[str, str] | None = None,
    revoked: Mapping[str, str] | None = None,
) -> Decision:
    """What a host may serve of a release; without `runtimes`, with those that are installed here."""
    pinned = find_released(release, wanted.artifacts[0]).manifest.digest if wanted.artifacts else None
    request = Request(
        family=release.family,
        task=wanted.tasks or release.tasks,
        min_tier=wanted.min_tier or release.tiers,
        artifact=pinned,
        region=region,
    )
    return resolve(release, node_facts(request, host, runtimes=runtimes, revoked=revoked))


def accept(decision: Decision) -> str:
    """The artifact that a decision allows.

    Raises:
        RefusedError: It allows none; the message holds the first gate that each candidate failed.
    """
    if decision.chosen is not None and decision.outcome == "allow":
        return decision.chosen.manifest.digest
    failed = "; ".join(f"{c.id} [{c.gate}] {c.reason}" for c in decision.candidates[:6])
    hint = "ask for less with `--min-tier`, or see `rung resolve`"
    if decision.feasible_tier is not None:
        hint = f"tier {decision.feasible_tier} is possible here: `--min-tier {decision.feasible_tier}`"
    raise RefusedError(f"{decision.reason}: {failed}", hint=hint)


def choose_artifacts(
    release: Release,
    wanted: Wanted,
    host: Host,
    *,
    runtimes: Mapping[str, str] | None = None,
    revoked: Mapping[str, str] | None = None,
) -> list[str]:
    """Digests of what to pull. Without `runtimes`, for those that are installed here.

    Raises:
        RefusedError: This host may take none of them as asked, the release has expired, or an artifact that
            is named was revoked.
        UnknownNameError: The release has no such artifact.
    """
    if release.expired(datetime.now(UTC)):
        raise RefusedError(
            f"release `{release.name}` expired {release.expires_at:%Y-%m-%d %H:%M}Z",
            hint="pull a newer release, or have one created",
        )
    withdrawn = revoked or {}
    if wanted.everything:
        return [one.manifest.digest for one in release.cells if one.manifest.digest not in withdrawn]
    if not wanted.artifacts:
        return [accept(decide(release, wanted, host, runtimes=runtimes, revoked=revoked))]
    named = [find_released(release, name) for name in wanted.artifacts]
    for one in named:
        if (why := withdrawn.get(one.manifest.digest)) is not None:
            raise RefusedError(f"`{one.cell.id}` was revoked: {why}", hint="pull another artifact")
    return [one.manifest.digest for one in named]


def find_released(release: Release, name: str) -> ReleasedCell:
    """The cell of a release with this artifact's digest or cell id.

    Raises:
        UnknownNameError: There is none.
    """
    for cell in release.cells:
        if name in (cell.manifest.digest, cell.cell.id):
            return cell
    known = [one for cell in release.cells for one in (cell.cell.id, cell.manifest.digest)]
    raise UnknownNameError.of("artifact", name, known=known, where=f"release `{release.name}`")
