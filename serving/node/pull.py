"""Pull: bring a release and its artifacts onto a node, verified, resumable and whole.

    store/                           a content store, in the form of an OCI image layout
    revocations.json                 what must not be served any more, signed
    memory.json                      the newest release that was pulled of each family
    releases/<name>/                 `release.json` and `release.sig`, verified before any blob is fetched
    bundles/<hex>/                   one directory per artifact: `manifest.json` and exactly its files
    partial/<hex>                    bytes of a blob that is not complete yet; the next pull goes on from them

A blob joins the store when its digest is right; a bundle appears whole. Whatever is killed, filled or
corrupted meanwhile, the same pull again ends in the same tree. Any number of pulls may run at once, and a
node's directory is a source for other nodes.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compilers.runtime import Bundle
from matrices.releases.files import RELEASE_NAME, SIGNATURE_NAME, check_name, check_named, read_release
from matrices.releases.release import Release
from matrices.releases.revocations import (
    MAX_REVOCATIONS_BYTES,
    NOTHING_REVOKED,
    REVOCATIONS_NAME,
    Revocations,
    parse_revocations,
)
from registry.artifact import MANIFEST_NAME, Manifest
from registry.atomic import SUFFIX, remove_tree, storage_errors, temporary_directory, write_atomically
from registry.checkpoint import FileEntry
from registry.digest import canonical_json, short
from registry.errors import (
    CorruptError,
    NotFoundError,
    RefusedError,
    RegistryError,
    RungError,
    SignatureError,
    StorageFullError,
)
from registry.host import Host
from registry.signing import fingerprint
from registry.store import Store
from serving.node.choose import Wanted, choose_artifacts, find_released
from serving.node.directory import NodeDirectory, check_key
from serving.node.fetch import fetch_blob, is_sound
from serving.node.load import read_bundle
from serving.node.memory import read_memory, remember_act, remember_release
from serving.node.source import Deadline, Source, read_small

MAX_RELEASE_BYTES = 64 << 20
MAX_SIGNATURE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the pull of one artifact has come."""

    file: str
    """Path in the bundle of the file that is being fetched."""
    done_bytes: int
    """Of all files together; bytes that were there already count."""
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull has brought."""

    release: Release
    release_directory: Path
    bundles: tuple[Bundle, ...]


Report = Callable[[Progress], None]


def pull(
    *,
    blobs: Source,
    release: Source,
    public_key: Path,
    into: NodeDirectory,
    name: str | None = None,
    artifacts: Sequence[str] | None = None,
    report: Report | None = None,
) -> Pulled:
    """Bring a release and its artifacts into a node's directory.

    Args:
        blobs: A tree with `blobs/sha256/`.
        release: The release's own directory there.
        public_key: PEM file of the key that is trusted.
        into: Made if it is not there; may hold other releases.
        name: The name that the release must have; None: any.
        artifacts: Digests or cell ids; None: every artifact of the release.
        report: Called as bytes arrive.

    Raises:
        SignatureError: The release is not signed with the key, or was changed.
        CorruptError: A blob is not what its digest says, even when fetched anew.
        NotFoundError: The source lacks something.
        UnknownNameError: The release has no such artifact.
        InterruptedFetchError: The source does not answer; the same pull goes on where it stopped.
        TooSlowError: It answers too slowly; the same pull goes on where it stopped.
        StorageFullError: No space left; what was fetched halfway is removed.
        RefusedError: The release has another name, or the directory holds another of the same name.
    """
    got = pull_release(release, public_key=public_key, into=into, name=name)
    cells = got.cells if artifacts is None else tuple(find_released(got, name) for name in artifacts)
    bundles = tuple(pull_artifact(cell.manifest, blobs=blobs, into=into, report=report) for cell in cells)
    remember_release(into.root, got)
    return Pulled(release=got, release_directory=into.release(got.name), bundles=bundles)


def pull_wanted(
    name: str,
    *,
    source: Source,
    public_key: Path,
    into: NodeDirectory,
    wanted: Wanted,
    host: Host,
    runtimes: Mapping[str, str] | None = None,
    report: Report | None = None,
    allow_older: bool = False,
    replace_key: bool = False,
) -> Pulled:
    """Pull a release, and of its artifacts those that are wanted on a host.

    Args:
        name: Of the release.
        source: A tree with `releases/` and `store/`.
        public_key: PEM file of the key that is trusted; the directory keeps a copy.
        into: The node's directory.
        wanted: Which artifacts.
        host: The machine that is to serve them.
        runtimes: Runtime → version there; None: as installed here.
        report: Called as bytes arrive.
        allow_older: Take a release that is older than one that the node has had; recorded.
        replace_key: Trust this key instead of the one that the directory was filled with; recorded.

    Raises:
        RefusedError: The host may take none of them as asked; the source's release has another name, is older
            than the node's, has expired or its revocation list is withheld; the directory trusts another key.
        ConfigurationError: There is no such key, or no release can have that name.
        SignatureError, CorruptError, NotFoundError, InterruptedFetchError, StorageFullError: See `pull`.
    """
    trusted = check_key(public_key)
    replaced = _replaced_key(into, trusted)
    if replaced is not None and not replace_key:
        raise RefusedError(
            f"`{into.root}` trusts the key {short(replaced)}, `{trusted}` is {short(fingerprint(trusted))}",
            hint="give the key that it trusts, or replace that with `--replace-key`, which is recorded",
        )
    there, blobs = source.within(f"releases/{check_name(name)}"), source.within("store")
    release = pull_release(there, public_key=trusted, into=into, name=name, allow_older=allow_older)
    list_ = _newest_revocations(source, release=release, public_key=trusted, into=into, fresh=bool(replaced))
    if replaced is None:
        _keep_revocations(list_, into)
    artifacts = choose_artifacts(release, wanted, host, runtimes=runtimes, revoked=list_.list.reasons)
    bundles = tuple(
        pull_artifact(find_released(release, one).manifest, blobs=blobs, into=into, report=report)
        for one in artifacts
    )
    if replaced is not None:
        _keep_revocations(list_, into)
        change = f"{short(fingerprint(trusted))} instead of {short(replaced)}"
        remember_act(into.root, "replaced key", change)
    write_atomically(into.trusted_key, trusted.read_bytes())
    remember_release(into.root, release, allow_older=allow_older)
    return Pulled(release=release, release_directory=into.release(release.name), bundles=bundles)


def _replaced_key(into: NodeDirectory, key: Path) -> str | None:
    """The fingerprint of the key that a node's directory trusts, if it is another one."""
    if not into.trusted_key.is_file():
        return None
    trusted = fingerprint(into.trusted_key)
    return None if trusted == fingerprint(key) else trusted


@dataclass(frozen=True, slots=True)
class _FetchedList:
    """A verified revocation list."""

    list: Revocations
    data: bytes | None
    """What to write; None: it is the node's own."""


def _newest_revocations(
    source: Source, *, release: Release, public_key: Path, into: NodeDirectory, fresh: bool
) -> _FetchedList:
    """The source's revocation list, or the node's own if that is newer (or, if `fresh`, of another key).

    Raises:
        SignatureError: The source's list is not signed with the key.
        RefusedError: It is older than the release says it must be.
    """
    own = NOTHING_REVOKED if fresh else into.read_revocations(key=public_key)
    found = _FetchedList(own, None)
    with suppress(NotFoundError):
        data = read_small(
            source,
            REVOCATIONS_NAME,
            limit_bytes=MAX_REVOCATIONS_BYTES,
            what="revocation list",
            deadline=Deadline.of(),
        )
        theirs = parse_revocations(data, where=f"{REVOCATIONS_NAME} of the source", public_key=public_key)
        if fresh or theirs.version > own.version:
            found = _FetchedList(theirs, data)
    if found.list.version < release.revocations:
        raise RefusedError(
            f"release `{release.name}` was made after the revocation list {release.revocations}, the source "
            f"gives {found.list.version or 'none'}",
            hint="the source withholds it or is damaged: pull from another, or publish again",
        )
    return found


def _keep_revocations(found: _FetchedList, into: NodeDirectory) -> None:
    if found.data is not None:
        with storage_errors(into.root):
            into.root.mkdir(parents=True, exist_ok=True)
        write_atomically(into.revocations, found.data)
    elif found.list is NOTHING_REVOKED:
        into.revocations.unlink(missing_ok=True)


def pull_release(
    source: Source,
    *,
    public_key: Path,
    into: NodeDirectory,
    name: str | None = None,
    allow_older: bool = False,
) -> Release:
    """Bring a release into the node's directory, once its signature and its name (None: any) are verified.

    One that is older than the node has had is refused, unless `allow_older`.

    Raises:
        SignatureError, SchemaError, NotFoundError, StorageFullError, RefusedError: See `pull`.
    """
    deadline = Deadline.of()
    files = {
        RELEASE_NAME: read_small(
            source, RELEASE_NAME, limit_bytes=MAX_RELEASE_BYTES, what="release", deadline=deadline
        )
    }
    try:
        files[SIGNATURE_NAME] = read_small(
            source, SIGNATURE_NAME, limit_bytes=MAX_SIGNATURE_BYTES, what="signature", deadline=deadline
        )
    except NotFoundError as error:
        raise SignatureError(
            f"the release is not signed: {error.message}", hint="without its signature it is not trusted"
        ) from error
    with tempfile.TemporaryDirectory(prefix="rung-release-") as scratch:
        _write_files(Path(scratch), files)
        release = read_release(Path(scratch), public_key=public_key)
    if name is not None:
        check_named(release, name, where="the source")
    if not allow_older:
        read_memory(into.root).check_not_older(release)
    target = into.release(release.name)
    standing = _standing(target, public_key=public_key)
    if standing is None:
        _clear(target)
        try:
            with temporary_directory(target) as draft:
                _write_files(draft, files)
                draft.chmod(0o755)
        except RegistryError:
            if not (target / RELEASE_NAME).is_file():  # otherwise another pull wrote it first
                raise
        standing = read_release(target, public_key=public_key)
    if standing.digest != release.digest:
        raise RefusedError(
            f"`{target}` holds another release `{release.name}` ({short(standing.digest)}) than the source "
            f"({short(release.digest)})",
            hint="releases are frozen: find out which one is meant, and remove the other",
        )
    return release


def pull_artifact(
    manifest: Manifest, *, blobs: Source, into: NodeDirectory, report: Report | None = None
) -> Bundle:
    """Bring one artifact into the node's directory; what is there and sound is not fetched again.

    Raises:
        CorruptError, NotFoundError, InterruptedFetchError, StorageFullError: See `pull`.
    """
    manifest.check_entry()
    store = Store.create(into.store)
    document = canonical_json(manifest)
    missing = [file for file in manifest.files if not is_sound(store, file)]
    _check_space(into, missing)
    missing_bytes = sum(file.size_bytes for file in missing)
    done = manifest.size_bytes - missing_bytes
    deadline = Deadline.of(missing_bytes)

    for file in missing:
        tell = partial(_report, report, file, before=done, total=manifest.size_bytes)
        fetch_blob(blobs, file, store=store, partial=into.partial, received=tell, deadline=deadline)
        done += file.size_bytes
    store.put_artifact(manifest)
    own = FileEntry(path=MANIFEST_NAME, digest=manifest.digest, size_bytes=len(document))
    return _make_bundle(store, [*manifest.files, own], directory=into.bundle(manifest.digest))


def _report(report: Report | None, file: FileEntry, received_bytes: int, *, before: int, total: int) -> None:
    if report is not None:
        report(Progress(file=file.path, done_bytes=before + received_bytes, total_bytes=total))


def _make_bundle(store: Store, files: list[FileEntry], *, directory: Path) -> Bundle:
    """The bundle's directory, made of links into the store; a damaged one is made anew."""
    for _ in range(3):
        if directory.exists():
            try:
                return read_bundle(directory)
            except RungError:
                _clear(directory)
        try:
            store.materialise(files, out=directory)
        except (StorageFullError, CorruptError):
            raise
        except RegistryError:
            if not directory.exists():
                raise
            # Another pull wrote it first: its bundle is read on the next turn.
    return read_bundle(directory)


def _standing(target: Path, *, public_key: Path) -> Release | None:
    """The release that is there; None if there is none, or one that does not verify."""
    try:
        return read_release(target, public_key=public_key)
    except RungError:
        return None


def _clear(directory: Path) -> None:
    """Take a directory away under another name first, so that nobody sees half of it."""
    if not directory.exists():
        return
    aside = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}{SUFFIX}")
    with storage_errors(directory), suppress(FileNotFoundError):
        directory.rename(aside)
    remove_tree(aside)


def _write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    with storage_errors(directory):
        for name, data in files.items():
            (directory / name).write_bytes(data)


def _check_space(into: NodeDirectory, missing: list[FileEntry]) -> None:
    """Refuse at once what cannot fit, rather than after an hour."""
    needed = sum(file.size_bytes for file in missing)
    for file in missing:
        with suppress(FileNotFoundError):
            needed -= (into.partial / file.digest.removeprefix("sha256:")).stat().st_size
    free = shutil.disk_usage(into.root).free
    if needed > free:
        raise StorageFullError(
            f"`{into.root}` has {free} bytes free, {needed} are needed",
            hint="free space there, then run the same command again",
        )
