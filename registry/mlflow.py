"""Checkpoints in the MLflow model registry: names, versions, aliases and lineage.

MLflow is the source of truth: a registered model is a checkpoint's name, a model version its version, and a
logged model carries the files, so that any MLflow user finds them there. The content store holds the same
files by digest: where MLflow keeps its files on the same file system, both are names of the same bytes. The
version's tags (`registry/tags.py`) describe its contents.

Adding is idempotent: the same digest under the same name is the same version. Leftovers of a killed `add` (a
logged model that is pending, or that no version refers to) are removed or reused by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from registry.atomic import file_lock, remove_tree, scratch_directory, storage_errors
from registry.catalog import ModelVersion, open_catalog
from registry.checkpoint import Checkpoint, FileEntry
from registry.checkpoint_names import ALIAS, check_foreign, check_name
from registry.digest import canonical_json
from registry.errors import (
    CheckpointError,
    CorruptError,
    NotFoundError,
    UnknownNameError,
)
from registry.intake import FACTS_NAME, CheckpointFacts, read_checkpoint
from registry.mlflow_client import download, experiment_id, local_directory, open_client
from registry.mlflow_models import create_registered, locate, log_model, own_model, take_up
from registry.store import Store
from registry.tags import DIGEST, FACTS, PREFIX, check_stated, checkpoint_of, stated_tags, version_tags
from registry.value import describe

_REF = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>\d+|latest))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The checkpoints of an MLflow registry."""

    uri: str
    """MLflow tracking and registry URI."""
    store: Store

    def add(
        self,
        path: Path,
        *,
        name: str,
        family: str,
        licence: str | None = None,
        parent: str | None = None,
        alias: str | None = None,
        add_bos: bool | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> Checkpoint:
        """Register a local checkpoint directory; content that is registered already keeps its version.

        Args:
            path: Directory in the Hugging Face layout.
            name: MLflow registered model.
            family: Model family that it belongs to.
            licence: SPDX identifier; None: what the checkpoint states.
            parent: Checkpoint that it was distilled or tuned from.
            alias: MLflow alias to point to it.
            add_bos: Whether prompts begin with BOS; None: as its tokenizer does.
            check: Refuses a directory that was read without objection, such as one whose weights no compiler
                takes; raises CheckpointError.

        Raises:
            CheckpointError: It cannot be accepted.
            ConfigurationError: A name is not allowed, or the same content is registered with other
            statements.
            NotFoundError: The parent does not exist.
            RegistryError: MLflow or the store cannot be used.
        """
        check_name("checkpoint name", name)
        check_name("family", family)
        if alias is not None:
            check_name("alias", alias, pattern=ALIAS)
        found = None if parent is None else self.find(parent)
        parent = None if found is None else found.ref
        facts = read_checkpoint(path)
        if check is not None:
            check(path)
        tags = version_tags(facts, family=family, licence=licence, parent=parent, add_bos=add_bos)
        asked = stated_tags(family=family, licence=licence, parent=parent, add_bos=add_bos)
        entry = self._store_files(path, facts)
        with self._lock():
            version = self._with_digest(name, facts.digest)
            if version is None:
                version = self._register(name, facts=facts, entry=entry, tags=tags, parent=found)
            check_stated(version, asked=asked)
            self._point(alias, version)
        checkpoint = checkpoint_of(version, facts)
        self.store.put_checkpoint(checkpoint, extra=[entry])
        return checkpoint

    def add_uri(
        self,
        uri: str,
        *,
        family: str,
        licence: str | None = None,
        parent: str | None = None,
        alias: str | None = None,
        add_bos: bool | None = None,
        check: Callable[[Path], None] | None = None,
    ) -> Checkpoint:
        """Adopt a model version that was registered without Rung: it is tagged, no new version is made.

        Args:
            uri: `models:/name/3`, `models:/name@alias` or `models:/name/latest`.
            family: Model family that it belongs to.
            licence: SPDX identifier; None: what the checkpoint states.
            parent: Checkpoint that it was distilled or tuned from.
            alias: MLflow alias to point to it.
            add_bos: Whether prompts begin with BOS; None: as its tokenizer does.
            check: Refuses a directory that was read without objection, such as one whose weights no compiler
                takes; raises CheckpointError.

        Raises:
            NotFoundError: The version does not exist.
            CheckpointError: It holds no checkpoint, or one that cannot be accepted.
            ConfigurationError: It was adopted before with other statements.
            RegistryError: MLflow or the store cannot be used.
        """
        check_name("family", family)
        if alias is not None:
            check_name("alias", alias, pattern=ALIAS)
        version = self._version(uri)
        found = None if parent is None else self.find(parent)
        parent = None if found is None else found.ref
        if DIGEST not in version.tags:
            with self._lock():
                facts, entry = self._fetch(version, check=check)
                tags = version_tags(facts, family=family, licence=licence, parent=parent, add_bos=add_bos)
                version = self._tag(version, tags=tags)
                self.store.put_checkpoint(checkpoint_of(version, facts), extra=[entry])
        check_stated(
            version, asked=stated_tags(family=family, licence=licence, parent=parent, add_bos=add_bos)
        )
        self._point(alias, version)
        return checkpoint_of(version, self._facts(version))

    def find(self, ref: str) -> Checkpoint:
        """The checkpoint of `name` (its newest version), `name@alias` or `name/version`.

        Raises:
            NotFoundError: The name, alias or version does not exist or was never added; the hint lists what
            does.
            RegistryError: MLflow cannot be used.
        """
        version = self._version(ref)
        if DIGEST not in version.tags:
            raise NotFoundError(
                f"`{version.name}/{version.version}` is in MLflow, but was not added to Rung",
                hint=f"run `rung checkpoint add models:/{version.name}/{version.version}`",
            )
        return checkpoint_of(version, self._facts(version))

    def all(self) -> list[Checkpoint]:
        """Every version that was added, by name and version.

        Raises:
            RegistryError: MLflow cannot be used.
        """
        catalog = open_catalog(self.uri)
        versions = [version for name in catalog.names() for version in catalog.versions(name)]
        return [checkpoint_of(one, self._facts(one)) for one in versions if DIGEST in one.tags]

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → `name/version` of one name; empty if it has none.

        Raises:
            RegistryError: MLflow cannot be used.
        """
        return {
            alias: f"{name}/{number}"
            for alias, number in sorted(open_catalog(self.uri).aliases(name).items())
        }

    def materialise(
        self, checkpoint: Checkpoint, *, out: Path, share: Literal["link", "copy"] = "link"
    ) -> None:
        """Create the directory `out` with a checkpoint's files; what the store lacks is fetched from MLflow.

        Raises:
            CorruptError: MLflow's files are no longer those that were registered.
            NotFoundError: Neither the store nor MLflow has them.
            StorageFullError: No space left; `out` is not made.
        """
        try:
            self.store.materialise(checkpoint.files, out=out, share=share)
        except (NotFoundError, CorruptError):
            self._fetch_again(checkpoint)
            self.store.materialise(checkpoint.files, out=out, share=share)

    def bring_here(self, checkpoint: Checkpoint) -> None:
        """Fetch from MLflow what the store lacks of a checkpoint, such as one that others registered.

        Raises:
            CorruptError: MLflow's files are no longer those that were registered.
            NotFoundError: MLflow does not have it.
            StorageFullError: No space is left.
        """
        files = (entry.digest for entry in checkpoint.files)
        if self.store.lists(checkpoint.digest) and all(map(self.store.has, files)):
            return
        self.store.put_checkpoint(checkpoint, extra=[self._fetch_again(checkpoint)])

    def read_file(self, checkpoint: Checkpoint, file: FileEntry) -> bytes:
        """The content of one small file of a checkpoint; fetched from MLflow if the store lacks it.

        Raises:
            CorruptError: MLflow's files are no longer those that were registered.
            NotFoundError: Neither the store nor MLflow has it.
        """
        try:
            return self.store.read_bytes(file.digest)
        except (NotFoundError, CorruptError):
            self._fetch_again(checkpoint)
            return self.store.read_bytes(file.digest)

    def local_copy(self, checkpoint: Checkpoint) -> Path | None:
        """The directory on this machine with MLflow's files of a checkpoint that `add` put there; None: none.

        Raises:
            NotFoundError: The version does not exist.
            RegistryError: MLflow cannot be used.
        """
        version = self._version(checkpoint.ref)
        with open_client(self.uri) as client:
            model = own_model(client, version)
        return None if model is None else local_directory(model.artifact_location)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Remove a version that `add` made from MLflow; one that was adopted only loses Rung's tags.

        Files on this machine go with it; those of a server are marked, and `mlflow gc` there removes them.
        MLflow keeps the rows of what was deleted. Killed in the middle, the same call again finishes it.

        Raises:
            NotFoundError: The version does not exist.
            RegistryError: MLflow cannot be used.
        """
        version = self._version(checkpoint.ref)
        with self._lock(), open_client(self.uri) as client:
            model = own_model(client, version)
            if model is None:
                for key in sorted(version.tags, key=lambda one: one != DIGEST):
                    if key.startswith(PREFIX):
                        client.delete_model_version_tag(version.name, str(version.version), key)
                return
            if (here := local_directory(model.artifact_location)) is not None:
                with storage_errors(here):
                    remove_tree(here)
            client.set_logged_model_tags(model.model_id, {DIGEST: "removed"})  # no `add` takes it up again
            client.delete_model_version(version.name, str(version.version))
            client.delete_logged_model(model.model_id)

    def _version(self, ref: str) -> ModelVersion:
        parts = _REF.fullmatch(ref)
        if not parts:
            raise NotFoundError(
                f"`{ref}` does not name a checkpoint",
                hint="write `name`, `name@alias` or `name/version`; a name with `@` cannot be taken: rename "
                "it in MLflow (`MlflowClient().rename_registered_model`)",
            )
        name, alias, number = parts["name"], parts["alias"], parts["version"]
        check_foreign(name)
        catalog = open_catalog(self.uri)
        versions = {one.version: one for one in catalog.versions(name)}
        if not versions:
            raise _unknown("checkpoint", name, known=catalog.names(), empty="run `rung checkpoint add` first")
        if alias is not None:
            aliases = catalog.aliases(name)
            if aliases.get(alias) not in versions:
                raise _unknown("alias", f"{name}@{alias}", known=[f"{name}@{one}" for one in aliases])
            return versions[aliases[alias]]
        if number in (None, "latest"):
            return versions[max(versions)]
        if int(number) not in versions:
            raise _unknown("checkpoint", f"{name}/{number}", known=[f"{name}/{one}" for one in versions])
        return versions[int(number)]

    def _with_digest(self, name: str, digest: str) -> ModelVersion | None:
        versions = open_catalog(self.uri).versions(name)
        return next((one for one in versions if one.tags.get(DIGEST) == digest), None)

    def _register(
        self,
        name: str,
        *,
        facts: CheckpointFacts,
        entry: FileEntry,
        tags: dict[str, str],
        parent: Checkpoint | None,
    ) -> ModelVersion:
        """A new version: its logged model first, with all files, then the version with all tags at once."""
        source = None if parent is None else self._version(parent.ref).source
        with open_client(self.uri) as client:
            experiment = experiment_id(client, self.uri)
            model = take_up(client, experiment, name=name, digest=facts.digest)
            if model is None:
                files = (*facts.files, entry)
                model = log_model(
                    client, experiment, name=name, tags=tags, files=files, store=self.store, parent=source
                )
            create_registered(client, name)
            created = client.create_model_version(name, source=f"models:/{model}", model_id=model, tags=tags)
            first = self._with_digest(name, facts.digest)
            if first is not None and first.version < int(created.version):
                # Another machine registered it first.
                client.delete_model_version(name, str(created.version))
                client.delete_logged_model(model)
                return first
        return ModelVersion(name, int(created.version), f"models:/{model}", tags)

    def _tag(self, version: ModelVersion, *, tags: dict[str, str]) -> ModelVersion:
        """Tag a version; the digest comes last, because it marks the others as complete."""
        with open_client(self.uri) as client:
            for key in sorted(tags, key=lambda one: one == DIGEST):
                client.set_model_version_tag(version.name, str(version.version), key, tags[key])
        return ModelVersion(version.name, version.version, version.source, {**version.tags, **tags})

    def _point(self, alias: str | None, version: ModelVersion) -> None:
        if alias is None or open_catalog(self.uri).aliases(version.name).get(alias) == version.version:
            return
        with open_client(self.uri) as client:
            client.set_registered_model_alias(version.name, alias, str(version.version))

    def _facts(self, version: ModelVersion) -> CheckpointFacts:
        """The contents of a version: from the store, else from MLflow."""
        digest = version.tags[DIGEST]
        stored = version.tags.get(FACTS, "")
        try:
            facts = CheckpointFacts.model_validate_json(self.store.read_bytes(stored))
        except (NotFoundError, CorruptError):
            facts, _ = self._fetch(version)
        except ValidationError as error:
            raise CorruptError(
                f"`{stored}` does not describe a checkpoint: {describe(error)}",
                hint=f"the tag rung.facts of `{version.name}/{version.version}` was changed: set it back",
            ) from error
        if facts.digest != digest:
            raise _changed(f"{version.name}/{version.version}", expected=digest, found=facts.digest)
        return facts

    def _fetch_again(self, checkpoint: Checkpoint) -> FileEntry:
        """Store a checkpoint's files from MLflow, if they are those that were registered; its `rung.json`."""
        facts, entry = self._fetch(self._version(checkpoint.ref))
        if facts.digest != checkpoint.digest:
            raise _changed(checkpoint.ref, expected=checkpoint.digest, found=facts.digest)
        return entry

    def _fetch(
        self, version: ModelVersion, *, check: Callable[[Path], None] | None = None
    ) -> tuple[CheckpointFacts, FileEntry]:
        """Download a version, store its files, and return what was found."""
        uri = f"models:/{version.name}/{version.version}"
        with storage_errors(self.store.ingest):
            self.store.ingest.mkdir(parents=True, exist_ok=True)
        with scratch_directory(self.store.ingest, name="download") as scratch:
            download(self.uri, name=version.name, version=version.version, out=scratch)
            path = locate(scratch, where=uri)
            facts = read_checkpoint(path)
            if check is not None:
                check(path)
            return facts, self._store_files(path, facts)

    def _store_files(self, path: Path, facts: CheckpointFacts) -> FileEntry:
        """Store a checkpoint's files and its facts; returns the entry of `rung.json`."""
        for file in facts.files:
            if self.store.add_file(path / file.path).digest != file.digest:
                raise CheckpointError(
                    f"`{path / file.path}` changed while it was read",
                    hint="add it again when nothing writes to it",
                )
        return self.store.add_bytes(canonical_json(facts)).at(FACTS_NAME)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `add` at a time over this store; over a shared server the lowest version wins."""
        with file_lock(self.store.root / "checkpoints.lock"):
            yield


def _unknown(kind: str, name: str, *, known: Iterable[str], empty: str = "") -> NotFoundError:
    error = UnknownNameError.of(kind, name, known=known)
    nothing = error.hint.startswith("there is no") and empty
    return NotFoundError(error.message, hint=empty if nothing else error.hint)


def _changed(ref: str, *, expected: str, found: str) -> CorruptError:
    return CorruptError(
        f"the files of `{ref}` in MLflow have the digest {found}, not {expected} as at registration",
        hint="they were changed: register them as a new version",
    )
