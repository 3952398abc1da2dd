"""A node's directory: filled by a pull from a workspace or a mirror, decided from, and loaded from.

It holds `releases/NAME/`, `bundles/DIGEST/`, a store with the bytes, and `trusted.pem`, the key given at
the pull.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matrices.cells.cell import cell_id
from matrices.releases.files import read_release
from matrices.releases.release import Release
from matrices.resolve.facts import Facts
from matrices.resolve.request import Request
from matrices.resolve.resolve import Decision, resolve
from registry.artifact import Manifest
from registry.atomic import write_atomically
from registry.errors import ConfigurationError, NotFoundError, RefusedError
from registry.host import Host
from registry.workspace import Workspace, find_workspace
from serving.node.host import installed_runtimes
from serving.node.pull import Pulled, Report, bundle_directory, find_released, pull, pull_release
from serving.node.source import find_source

TRUSTED = "trusted.pem"


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


def pull_to_node(
    name: str,
    *,
    source: str | None,
    key: Path | None,
    out: Path,
    wanted: Wanted,
    host: Host,
    report: Report | None,
) -> Pulled:
    """Pull a release, and of its artifacts what is wanted.

    Raises:
        RefusedError: This host may take none of them as asked.
        SignatureError: The release is not signed with the key.
        CorruptError: Bytes are not those that the release names; nothing of them stays.
    """
    place = find_workspace() if source is None or key is None else None
    base = source if source is not None else str(_own(place).state)
    trusted = key if key is not None else _own(place).public_key
    if not trusted.is_file():
        raise ConfigurationError(
            f"no public key at `{trusted}`", hint="give the release manager's with `--key`"
        )
    mirror = find_source(base)
    release_source, blobs = mirror.within(f"releases/{name}"), mirror.within("store")
    release = pull_release(release_source, public_key=trusted, out=out)
    artifacts = _choose(release, wanted, host)
    pulled = pull(
        blobs=blobs, release=release_source, public_key=trusted, out=out, artifacts=artifacts, report=report
    )
    write_atomically(out / TRUSTED, trusted.read_bytes())
    return pulled


def decide(release: Release, wanted: Wanted, host: Host, *, region: str | None = None) -> Decision:
    """What a host may serve of a release."""
    pinned = find_released(release, wanted.artifacts[0]).manifest.digest if wanted.artifacts else None
    request = Request(
        family=release.family,
        task=wanted.tasks or release.tasks,
        min_tier=wanted.min_tier or release.tiers,
        artifact=pinned,
        region=region,
    )
    return resolve(release, Facts(request=request, host=host, runtimes=installed_runtimes()))


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


def read_node(directory: Path, *, release: str | None, key: Path | None) -> Release:
    """The release that a node's directory holds, verified.

    Raises:
        NotFoundError: It holds none, or not that one.
        ConfigurationError: It holds several and none is named, or there is no key to trust.
        SignatureError: The release is not signed with the key.
    """
    parent = directory / "releases"
    known = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    if not known:
        raise NotFoundError(
            f"no release in `{directory}`", hint=f"`rung pull RELEASE --out {directory}` brings one"
        )
    if release is None and len(known) > 1:
        raise ConfigurationError(f"`{directory}` holds {', '.join(known)}", hint="name one with `--release`")
    name = release or known[0]
    if name not in known:
        raise NotFoundError(f"no release `{name}` in `{directory}`", hint=f"it holds {', '.join(known)}")
    trusted = key or directory / TRUSTED
    if not trusted.is_file():
        raise ConfigurationError(
            f"no public key at `{trusted}`", hint="give the release manager's with `--key`"
        )
    return read_release(parent / name, public_key=trusted)


def bundle_of(directory: Path, artifact: str) -> Path:
    """Where a node holds an artifact.

    Raises:
        NotFoundError: It was not pulled.
    """
    path = bundle_directory(directory, artifact)
    if not path.is_dir():
        raise NotFoundError(
            f"artifact `{artifact}` is not in `{directory}`", hint="pull it: `rung pull … --artifact`"
        )
    return path


def name_of(manifest: Manifest) -> str:
    """The id of the cell that an artifact is of."""
    return cell_id(
        checkpoint=manifest.checkpoint,
        recipe=manifest.recipe,
        target=manifest.target,
        toolchain=manifest.toolchain,
    )


def _choose(release: Release, wanted: Wanted, host: Host) -> list[str] | None:
    if wanted.everything:
        return None
    if wanted.artifacts:
        return [find_released(release, name).manifest.digest for name in wanted.artifacts]
    return [accept(decide(release, wanted, host))]


def _own(place: Workspace | None) -> Workspace:
    return find_workspace() if place is None else place
