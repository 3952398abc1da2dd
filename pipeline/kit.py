"""Kits: what a build machine hands to a node so that it can examine artifacts, as one signed index.

    kits/<target>/        `kit.json` and `kit.sig`: the latest of a target
    kits/<hex>/           the same by the kit's digest, kept by the workspace that issued it
    store/                every blob that the index names, in the form of an OCI image layout

A kit's directory has the form of a workspace's `.rung/`, so a node takes kits from either, over HTTP too. The
index has no time: equal content is one kit with one digest, and evidence names the kit it answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field, field_validator

from evals.verdict import Bar
from pipeline.stages.probe import ProbeOutput
from registry.artifact import Manifest
from registry.atomic import remove_tree, storage_errors
from registry.checkpoint import FileEntry
from registry.digest import Digest, canonical_json, short
from registry.document import Document
from registry.errors import CorruptError, RungError, SchemaError
from registry.ladder import EvaluationEntry, TaskEntry
from registry.signed_document import SignedNames, read_signed, write_signed
from registry.target import targets
from registry.value import Value
from serving.node.source import Deadline, Source, read_small

DIRECTORY: Final = "kits"
INDEX_NAME: Final = "kit.json"
SIGNATURE_NAME: Final = "kit.sig"
MAX_BYTES: Final = 64 << 20
_NAMES: Final = SignedNames(
    kind="kit",
    document=INDEX_NAME,
    signature=SIGNATURE_NAME,
    obtain="make one: `rung evidence export LADDER --target T`",
)


class KitTask(Value):
    """One task type that artifacts are to be evaluated on."""

    task_type: str
    entry: TaskEntry
    """As in the ladder; `include` names the folder of `files`."""
    bars: tuple[Bar, ...]
    references: tuple[Digest, ...]
    """Scorecard blobs of the tiers' reference checkpoints, by tier."""
    tasks_digest: Digest
    """Of task definitions, data and order, as the references have it."""
    files: tuple[FileEntry, ...] = ()
    """The ladder's own task folder; empty: the task type ships with Rung, or is lm-eval's own."""

    @field_validator("entry")
    @classmethod
    def _has_its_prompts_decided(cls, entry: TaskEntry) -> TaskEntry:
        """Kits from before there was a choice are of plain text."""
        return entry if entry.chat_template is not None else entry.model_copy(update={"chat_template": False})


class KitSubject(Value):
    """One artifact that evidence is wanted for."""

    cell: str
    manifest: Manifest
    variant_probe: ProbeOutput
    checkpoint_probe: ProbeOutput


class Kit(Document):
    """The index."""

    KIND: ClassVar[str] = "kit"
    RENEW: ClassVar[str] = "export it again with the version of Rung that this machine has"

    schema_version: Literal[1] = 1
    target: str
    family: str
    evaluation: EvaluationEntry
    tasks: tuple[KitTask, ...]
    subjects: tuple[KitSubject, ...] = Field(min_length=1)
    """By cell id."""
    blobs: tuple[FileEntry, ...]
    """Probes, reference scorecards and task files, with their sizes; bundles' files are in the manifests."""

    def subject(self, cell: str) -> KitSubject | None:
        """The subject of a cell's id."""
        return next((one for one in self.subjects if one.cell == cell), None)


def write_kit(kit: Kit, *, kits: Path, private_key: Path) -> Path:
    """Write and sign a kit's index in the directory of kits, by its digest and as the latest of its target.

    Returns:
        The directory by its digest.
    """
    by_digest = kits / kit.digest.removeprefix("sha256:")
    if not by_digest.is_dir():
        _write(kit, by_digest, private_key=private_key)
    latest = kits / kit.target
    if not _holds(latest, kit):
        with storage_errors(latest):
            remove_tree(latest)
        _write(kit, latest, private_key=private_key)
    return by_digest


def read_kit(directory: Path, *, public_key: Path) -> Kit:
    """The kit in a directory, after its signature has been verified.

    Raises:
        NotFoundError: There is none.
        SignatureError: It is not signed with the key, or was changed.
        SchemaError: It was written by another version.
    """
    data = read_signed(directory, names=_NAMES, public_key=public_key)
    return Kit.parse(data, where=str(directory / INDEX_NAME))


def fetch_kit(source: Source, *, target: str, public_key: Path) -> Kit:
    """The latest kit of a target at a source, verified.

    Raises:
        NotFoundError: The source has none.
        SignatureError, SchemaError: See `read_kit`.
    """
    published = source.within(f"{DIRECTORY}/{target}")
    with tempfile.TemporaryDirectory(prefix="rung-kit-") as scratch:
        for name in (INDEX_NAME, SIGNATURE_NAME):
            (Path(scratch) / name).write_bytes(
                read_small(published, name, limit_bytes=MAX_BYTES, what="kit", deadline=Deadline.of())
            )
        kit = read_kit(Path(scratch), public_key=public_key)
    if kit.target != target:
        raise CorruptError(
            f"the kit of `{target}` at the source is for `{kit.target}`", hint="export the kit again"
        )
    return kit


def issued_kit(kits: Path, digest: str, *, public_key: Path) -> Kit | None:
    """The kit of a digest that this workspace issued; None if it never did, or not so."""
    try:
        kit = read_kit(kits / digest.removeprefix("sha256:"), public_key=public_key)
    except RungError:
        return None
    return kit if kit.digest == digest else None


def blobs_of_kits(kits: Path) -> set[str]:
    """Digests of what the latest kit of each target names, for whoever removes what nobody needs.

    Kits before the latest hold nothing back: their index stays, the bytes may go.
    """
    found: set[str] = set()
    for target in targets():
        try:
            path = kits / target / INDEX_NAME
            kit = Kit.parse(path.read_bytes(), where=str(path))
        except (OSError, SchemaError):
            continue  # nobody runs a kit that cannot be read
        found |= {entry.digest for entry in kit.blobs}
        found |= {subject.manifest.digest for subject in kit.subjects}
    return found


def _write(kit: Kit, directory: Path, *, private_key: Path) -> None:
    write_signed(canonical_json(kit.content), directory=directory, names=_NAMES, private_key=private_key)


def _holds(directory: Path, kit: Kit) -> bool:
    try:
        whole = (directory / SIGNATURE_NAME).is_file()
        return whole and (directory / INDEX_NAME).read_bytes() == canonical_json(kit.content)
    except OSError:
        return False


def folder_of(kit: Kit, task: KitTask) -> str:
    """Name of the folder in which a node unpacks a task's files."""
    return f"{short(kit.digest)}-{task.task_type}"
