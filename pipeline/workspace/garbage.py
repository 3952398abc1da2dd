"""Garbage of a workspace: what nothing needs any more, with its size, and why the rest is kept (`rung gc`).

Kept are releases, approved cells, cells of the ladders that are named, registered checkpoints, the latest
kits and all evidence: scorecards, logs, verifications. What a build can make again from a checkpoint (graphs,
variants, probes, compiled files) is kept while one of these holds it or a named ladder's next build would
find it. Without ladders nothing of that kind goes, because nobody said what is still wanted.

`survey` only reads. `remove_garbage` can be killed at any moment: records go before the blobs that they name,
and the workspace is marked, so that the next build or `rung gc` finishes the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from matrices.cells.cell import Cell
from matrices.ledger import query
from matrices.ledger.build_records import BuildRecord, blobs_of
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from matrices.releases.release import Release
from pipeline.executors.scratch import remove_stale_scratch, stale_scratch
from pipeline.kit import blobs_of_kits
from registry.mlflow import Checkpoints
from registry.upkeep import StoredBlob, collect, images, leftovers, stored_blobs
from registry.workspace import Workspace

MADE_AGAIN: Final = frozenset({"export", "quantize", "lower", "probe"})
"""Stages whose outputs a build can make again from a checkpoint; those of all others are evidence."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What ladders ask for now."""

    families: frozenset[str]
    cells: frozenset[str]
    """Ids of their cells."""
    keys: frozenset[str]
    """Keys of the build records that their next build would find."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some of what a workspace holds, and why it goes or stays."""

    kind: str
    why: str
    count: int
    size_bytes: int
    freed_bytes: int
    """What the file system gets back if it goes: nothing of a file that has another name elsewhere."""
    subjects: tuple[str, ...] = ()
    """Names of what holds it, or of what it belongs to, sorted; empty where nothing has a name."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What goes and what stays."""

    garbage: tuple[Share, ...]
    kept: tuple[Share, ...]
    """Each blob is counted once, under the first reason that holds it."""
    keep: frozenset[str]
    """Digests that keep what they stand for (`registry/upkeep.py`)."""
    blobs: frozenset[str]
    """Digests of the blobs that go."""
    records: tuple[str, ...]
    """Keys of the build records that go."""
    grace_s: float

    @property
    def freed_bytes(self) -> int:
        """What the file system gets back."""
        return sum(share.freed_bytes for share in self.garbage)


@dataclass(frozen=True, slots=True)
class _Holder:
    """A reason to keep something."""

    kind: str
    why: str
    subject: str
    roots: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a workspace has on record."""

    cells: tuple[Cell, ...]
    releases: tuple[Release, ...]
    records: tuple[BuildRecord, ...]
    checkpoints: Mapping[str, str]
    """Name and version → digest."""
    kits: frozenset[str]


def survey(
    workspace: Workspace,
    *,
    database: Database,
    checkpoints: Checkpoints,
    wanted: InUse | None,
    grace_s: float,
    without: Iterable[str] = (),
) -> Survey:
    """What nothing needs, and why the rest is kept.

    Args:
        workspace: Where.
        database: The workspace's.
        checkpoints: The workspace's.
        wanted: What the ladders in use ask for; None: whatever was built is wanted.
        grace_s: Leave what was added, or made, less than this many seconds ago.
        without: Names of releases and of checkpoints (`name/version`) to leave out, as if they were removed.

    Raises:
        CorruptError: The store's index or a release of the database is damaged, so it is not known what is in
            use.
        RegistryError: MLflow or the database cannot be used.
    """
    gone = frozenset(without)
    contents = _Contents(
        cells=tuple(query.cells(database)),
        releases=tuple(one for one in query.releases(database) if one.name not in gone),
        records=tuple(query.stages(database)),
        checkpoints={one.ref: one.digest for one in checkpoints.all() if one.ref not in gone},
        kits=frozenset(blobs_of_kits(workspace.kits)),
    )
    held = images(workspace.store)
    holders = list(_holders(contents, wanted=wanted))
    dropped = _dropped_records(contents, held=held, holders=holders, wanted=wanted, grace_s=grace_s)
    holders += _record_holders(contents.records, dropped=dropped)
    return _sorted_out(workspace, contents, held=held, holders=holders, dropped=dropped, grace_s=grace_s)


def remove_garbage(found: Survey, *, workspace: Workspace, database: Database) -> None:
    """Remove what a survey found; for a process that holds the writers' lock alone since before the survey.

    Raises:
        RegistryError: Something cannot be removed; the same call again removes the rest.
    """
    was_unclean = workspace.dirty_marker.exists()
    workspace.dirty_marker.touch()
    Ledger(database).forget_stages(found.records)
    remove_stale_scratch(workspace.scratch)
    collect(workspace.store, keep=found.keep, grace_s=found.grace_s)
    if not was_unclean or found.grace_s == 0:
        workspace.dirty_marker.unlink(missing_ok=True)


def _holders(contents: _Contents, *, wanted: InUse | None) -> Iterator[_Holder]:
    """What keeps something, but for build records; earlier ones are named as the reason."""
    for release in contents.releases:
        roots = {one.manifest.digest for one in release.cells}
        roots |= {entry.digest for one in release.cells for entry in one.manifest.files}
        yield _Holder("releases", "releases hold them", release.name, frozenset(roots))
    for cell in contents.cells:
        if cell.artifact is not None and cell.state == "approved":
            yield _Holder("approved cells", "people approved them", cell.id, frozenset({cell.artifact}))
    for cell in contents.cells:
        if cell.artifact is not None and (
            wanted is None or cell.family not in wanted.families or cell.id in wanted.cells
        ):
            why = "they are in the matrix" if wanted is None else "a ladder asks for them"
            yield _Holder("cells", why, cell.id, frozenset({cell.artifact}))
    for ref, digest in contents.checkpoints.items():
        yield _Holder("checkpoints", "they are registered in MLflow", ref, frozenset({digest}))
    if contents.kits:
        yield _Holder("kits", "nodes may still run the latest kits", "", contents.kits)
    for cell in contents.cells:
        proofs = {result.scorecard for result in cell.tasks} | ({cell.log} if cell.log else set())
        yield _Holder("evidence", "scorecards and logs are what rulings rest on", "", frozenset(proofs))


def _record_holders(records: Iterable[BuildRecord], *, dropped: frozenset[str]) -> Iterator[_Holder]:
    for record in records:
        if record.key not in dropped:
            blobs = frozenset(blobs_of(record.output))
            if record.stage in MADE_AGAIN:
                yield _Holder("stage outputs", "the next build takes them", record.stage, blobs)
            else:
                yield _Holder("evidence", "scorecards and logs are what rulings rest on", "", blobs)


def _dropped_records(
    contents: _Contents,
    *,
    held: Mapping[str, set[str]],
    holders: Iterable[_Holder],
    wanted: InUse | None,
    grace_s: float,
) -> frozenset[str]:
    """Keys of records that no build finds again and that keep blobs which nothing else keeps."""
    if wanted is None or not {cell.family for cell in contents.cells} <= wanted.families:
        return frozenset()  # a record does not say which family's builds would find it
    evidence = (record for record in contents.records if record.stage not in MADE_AGAIN)
    kept = _reached(frozenset().union(*(one.roots for one in holders)), held=held)
    kept |= {digest for record in evidence for digest in blobs_of(record.output)}
    oldest = datetime.now(UTC) - timedelta(seconds=grace_s)
    return frozenset(
        record.key
        for record in contents.records
        if record.stage in MADE_AGAIN
        and record.key not in wanted.keys
        and record.finished_at <= oldest
        and not kept.issuperset(blobs_of(record.output))
    )


def _sorted_out(
    workspace: Workspace,
    contents: _Contents,
    *,
    held: Mapping[str, set[str]],
    holders: list[_Holder],
    dropped: frozenset[str],
    grace_s: float,
) -> Survey:
    """Every blob under the first reason that keeps it, or as garbage of its kind."""
    blobs = {blob.digest: blob for blob in stored_blobs(workspace.store)}
    kept, garbage, left = _Shares(blobs), _Shares(blobs), set(blobs)

    def take(digests: Iterable[str]) -> set[str]:
        taken = left.intersection(digests)
        left.difference_update(taken)
        return taken

    for holder in holders:
        mine = take(_reached(holder.roots, held=held))
        kept.add(holder.kind, holder.why, subject=holder.subject, digests=mine)
    young = {digest for digest in left if blobs[digest].age_s < grace_s}
    young |= _reached({root for root, inside in held.items() if inside & young}, held=held)
    kept.add(
        "new blobs", f"they were added less than {grace_s / 3600:g} h ago", subject="", digests=take(young)
    )
    for cell in contents.cells:
        if cell.artifact is not None and cell.artifact in held:
            why = "no ladder that was named asks for their cells, and no release or approval holds them"
            garbage.add("artifacts", why, subject=cell.id, digests=take(held[cell.artifact]))
    for record in contents.records:
        if record.key in dropped:
            why = "no ladder's build finds them any more"
            garbage.add("stage outputs", why, subject=record.stage, digests=take(blobs_of(record.output)))
    garbage.add("blobs", "nothing refers to them", subject="", digests=take(set(left)))
    return Survey(
        garbage=(
            *garbage.shares(),
            *_on_disk("scratch", "builds that are gone left it behind", stale_scratch(workspace.scratch)),
            *_on_disk("leftovers", "processes that are gone left them", leftovers(workspace.store)),
        ),
        kept=kept.shares(),
        keep=frozenset().union(*(holder.roots for holder in holders)),
        blobs=garbage.digests,
        records=tuple(sorted(dropped)),
        grace_s=grace_s,
    )


class _Shares:
    """Blobs by kind and reason.

    Args:
        blobs: Every blob of the store by digest.
    """

    def __init__(self, blobs: Mapping[str, StoredBlob]) -> None:
        self._blobs = blobs
        self._found: dict[tuple[str, str], set[str]] = {}
        self._subjects: dict[tuple[str, str], set[str]] = {}

    def add(self, kind: str, why: str, *, subject: str, digests: Iterable[str]) -> None:
        """Count blobs under a reason; a subject is named even where its blobs are counted elsewhere."""
        found = set(digests)
        if found or subject:
            self._found.setdefault((kind, why), set()).update(found)
        if subject and (found or kind in ("releases", "approved cells", "checkpoints")):
            self._subjects.setdefault((kind, why), set()).add(subject)

    @property
    def digests(self) -> frozenset[str]:
        """All of them."""
        return frozenset().union(*self._found.values())

    def shares(self) -> tuple[Share, ...]:
        """The counts, in the order in which reasons came up."""
        return tuple(
            Share(
                kind=kind,
                why=why,
                count=len(digests),
                size_bytes=sum(self._blobs[digest].size_bytes for digest in digests),
                freed_bytes=sum(blob.size_bytes for d in digests if (blob := self._blobs[d]).links == 1),
                subjects=tuple(sorted(self._subjects.get((kind, why), ()))),
            )
            for (kind, why), digests in self._found.items()
            if digests or self._subjects.get((kind, why))
        )


def _reached(roots: Iterable[str], *, held: Mapping[str, set[str]]) -> set[str]:
    """Digests that roots keep: themselves, and what their images hold."""
    wanted = set(roots)
    return wanted.union(*(held[root] for root in wanted & held.keys()))


def _on_disk(kind: str, why: str, paths: list[Path]) -> list[Share]:
    if not paths:
        return []
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,))]
    size = sum(file.lstat().st_size for file in files if file.is_file())
    return [Share(kind, why, len(paths), size, size, tuple(sorted(path.name for path in paths)))]
