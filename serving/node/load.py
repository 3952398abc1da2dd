"""Load a bundle: refuse an artifact that cannot run here as it was evaluated, else open a session.

An artifact runs here exactly as it was evaluated, or not at all: its files are those of the manifest, the
host has what its target needs, the runtime is the version that the evidence was obtained with, and there is
memory for it and for the sequences it is to serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from compilers.backend import find_runtime
from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Bundle, Runtime, Session
from compilers.toolchain import Unsupported
from matrices.cells.levels import evaluated_on
from matrices.chips.memory import usable_memory_bytes
from matrices.releases.release import Release, ReleasedCell
from registry.artifact import MANIFEST_NAME, Manifest
from registry.digest import digest_file
from registry.errors import CorruptError, LoadError, RungError
from registry.host import Host
from registry.target import find_target, missing_features
from serving.engine.engine import Limits

DEFAULT_SLOTS = 8

VersionPolicy = Literal["evaluated", "any"]
"""Which versions of the runtime are accepted: those that the evidence was obtained with, or any."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A session with what the server must know of it."""

    manifest: Manifest
    digest: str
    """The artifact's."""
    session: Session
    tokenizer: Tokenizer
    limits: Limits
    """What its memory and this host's allow."""
    runtime_version: str
    host: Host
    release: Release | None
    cell: ReleasedCell | None
    """The approved cell with its evidence; None for a bundle outside any release, which has no tier."""

    @property
    def memory_bytes(self) -> int:
        """What it takes at its peak, with every slot in use to its end."""
        return _memory_bytes(self.manifest, self.limits)

    def approved_by(self, release: Release) -> LoadedModel:
        """The same model with the approval and evidence of another release.

        Raises:
            LoadError: The release does not hold it, or its evidence is of another version of the runtime.
        """
        cell = _find_cell(release, self.manifest)
        if cell is not None:
            _check_version(cell, self.manifest, version=self.runtime_version)
        return replace(self, release=release, cell=cell)


def load_bundle(
    path: Path,
    *,
    host: Host,
    release: Release | None = None,
    versions: VersionPolicy = "evaluated",
    files: Literal["verify", "trust"] = "verify",
    threads: int = 1,
    slots: int | None = None,
    context: int | None = None,
    beside: Sequence[LoadedModel] = (),
) -> LoadedModel:
    """A model that is ready to answer.

    Args:
        path: Directory of the bundle.
        host: What this machine is.
        release: Release that approved it; must hold the artifact.
        versions: `any` loads with a runtime of another version than the evidence is from.
        files: `trust` skips the digests, right after a pull that has checked them.
        threads: Threads of the runtime.
        slots: Sequences to run together; None: as many as fit, at most 8.
        context: Tokens of one sequence; None: what model and artifact were made for, or as many as
            fit.
        beside: Models that go on answering meanwhile, and keep their memory.

    Raises:
        LoadError: It cannot run here as it was evaluated, or not beside the others.
        CorruptError: A file is not the one that the manifest names.
        SchemaError: There is no manifest that this version reads.
    """
    manifest = read_bundle(path, files=files).manifest
    cell = _find_cell(release, manifest)
    _check_features(manifest, host=host)
    runtime = find_runtime(manifest.format, where=str(path / MANIFEST_NAME))
    version = _check_runtime(runtime, manifest, host=host)
    if cell is not None and versions == "evaluated":
        _check_version(cell, manifest, version=version)
    limits = plan_limits(manifest, host=host, slots=slots, context=context)
    _check_room(manifest, limits, host=host, beside=beside)
    session = runtime.load(Bundle(manifest=manifest, path=path), host, threads=threads)
    return LoadedModel(
        manifest=manifest,
        digest=manifest.digest,
        session=session,
        tokenizer=_read_tokenizer(path, manifest),
        limits=compiled_limits(limits, longest=session.max_context, context=context),
        runtime_version=version,
        host=host,
        release=release,
        cell=cell,
    )


def read_bundle(path: Path, *, files: Literal["verify", "trust"] = "verify") -> Bundle:
    """The bundle in a directory.

    Raises:
        SchemaError: There is no manifest that this version reads.
        CorruptError: A file is missing, is not the one that the manifest names, or is not named at all.
    """
    manifest = Manifest.read_json(path / MANIFEST_NAME)
    manifest.check_entry()
    expected = {entry.path for entry in manifest.files}
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()} - {MANIFEST_NAME}
    hint = "pull the artifact again"
    for name in sorted(expected ^ present):
        what = "is missing" if name in expected else "is not in the manifest"
        raise CorruptError(f"file `{name}` of bundle `{path}` {what}", hint=hint)
    for entry in manifest.files:
        file = path / entry.path
        if file.is_symlink():
            raise CorruptError(f"`{file}` is a link, which may lead elsewhere", hint=hint)
        if file.stat().st_size != entry.size_bytes:
            size = file.stat().st_size
            raise CorruptError(f"`{file}` has {size} bytes, the manifest says {entry.size_bytes}", hint=hint)
        if files == "verify" and (found := digest_file(file)) != entry.digest:
            raise CorruptError(f"`{file}` has digest {found}, the manifest says {entry.digest}", hint=hint)
    return Bundle(manifest=manifest, path=path)


def compiled_limits(limits: Limits, *, longest: int, context: int | None = None) -> Limits:
    """Limits within what the artifact was compiled for: fixed shapes hold fewer tokens than the model does.

    Raises:
        LoadError: A longer context was asked for.
    """
    if context is not None and context > longest:
        raise LoadError(
            f"a context of {context} tokens was asked for, the artifact was compiled for {longest}",
            hint=f"ask for at most {longest}, or take an artifact of another toolchain",
        )
    return replace(limits, capacity=min(limits.capacity, longest))


def plan_limits(
    manifest: Manifest, *, host: Host, slots: int | None = None, context: int | None = None
) -> Limits:
    """How many sequences of what length fit beside the artifact, in the memory of its target on this host.

    Raises:
        LoadError: What was asked for does not fit, or not even one sequence does.
    """
    longest = manifest.facts.max_context
    if context is not None and not 1 <= context <= longest:
        raise LoadError(
            f"a context of {context} tokens was asked for, the model was made for {longest}",
            hint=f"ask for 1 to {longest}",
        )
    usable = usable_memory_bytes(find_target(manifest.target, where="the manifest"), host)
    if usable is None:
        raise LoadError(
            f"the memory that `{manifest.target}` has on this host is not known",
            hint="see what `rung doctor` says of the accelerator; update its driver",
        )
    budget = usable - manifest.memory_bytes
    per_token = max(1, manifest.kv_bytes_per_token)
    capacity = context or min(longest, max(1, budget // per_token // (slots or 1)))
    fits = budget // (per_token * capacity)
    if fits < (slots or 1):
        needed = manifest.memory_bytes + per_token * capacity * (slots or 1)
        raise LoadError(
            f"{manifest.checkpoint} ({manifest.recipe}) needs {_gib(needed)} for {slots or 1} sequences "
            f"of {capacity} tokens; this host has {_gib(usable)} for it",
            hint="ask for a shorter context or fewer slots, or resolve for this host again",
        )
    running = slots or min(DEFAULT_SLOTS, fits)
    return Limits(
        slots=running,
        capacity=capacity,
        kept=min(running, fits - running),
        kept_tokens=manifest.kept_tokens,
    )


def _memory_bytes(manifest: Manifest, limits: Limits) -> int:
    return manifest.serving_memory_bytes(callers=limits.slots, tokens=limits.capacity)


def _check_room(manifest: Manifest, limits: Limits, *, host: Host, beside: Sequence[LoadedModel]) -> None:
    target = find_target(manifest.target, where="the manifest")
    others = [
        one
        for one in beside
        if find_target(one.manifest.target, where="the manifest").kind == target.kind  # share its memory
    ]
    usable = usable_memory_bytes(target, host)
    needed, taken = _memory_bytes(manifest, limits), sum(one.memory_bytes for one in others)
    if others and usable is not None and needed + taken > usable:
        serving = " and ".join(f"{one.manifest.checkpoint} ({one.manifest.recipe})" for one in others)
        raise LoadError(
            f"{manifest.checkpoint} ({manifest.recipe}) needs {_gib(needed)} for {limits.slots} sequences of "
            f"{limits.capacity} tokens, beside {_gib(taken)} of {serving}, which is still serving; this host "
            f"has {_gib(usable)} for both",
            hint="restart the server instead, or start it with fewer `--slots` or a smaller `--max-context`",
        )


def _find_cell(release: Release | None, manifest: Manifest) -> ReleasedCell | None:
    if release is None:
        return None
    for cell in release.cells:
        if cell.manifest.digest == manifest.digest:
            return cell
    raise LoadError(
        f"artifact {manifest.digest} is not in release `{release.name}`",
        hint="pull an artifact of this release, or hold the release that approved this one",
    )


def _check_features(manifest: Manifest, *, host: Host) -> None:
    missing = missing_features(host, target=find_target(manifest.target, where="the manifest"))
    if missing:
        raise LoadError(
            f"{manifest.checkpoint} was built for `{manifest.target}`, this host ({host.chip}) lacks "
            + ", ".join(missing),
            hint="resolve for this host again",
        )


def _check_runtime(runtime: Runtime, manifest: Manifest, *, host: Host) -> str:
    try:
        version = runtime.version()
    except RungError as error:
        raise LoadError(
            f"runtime `{manifest.format}` cannot be used here: {error.message}", hint=error.hint
        ) from error
    support = runtime.supports(manifest, host)
    if isinstance(support, Unsupported):
        raise LoadError(
            f"runtime `{manifest.format}` cannot run {manifest.checkpoint} ({manifest.recipe}, "
            f"{manifest.target}): {support.reason}",
            hint="resolve for this host again",
        )
    return version


def _check_version(cell: ReleasedCell, manifest: Manifest, *, version: str) -> None:
    evaluated = evaluated_on(cell.cell)
    if evaluated is None or evaluated.runtime_version != version:
        known = evaluated.runtime_version if evaluated else "a version that its evidence does not name"
        raise LoadError(
            f"{cell.cell.id} was evaluated with {manifest.format} {known}, this host has {version}",
            hint=f"install that version of {manifest.format}, or build and release the cell with this one",
        )


def _read_tokenizer(path: Path, manifest: Manifest) -> Tokenizer:
    facts = manifest.facts
    try:
        return Tokenizer.from_directory(path, add_bos=facts.add_bos, eos_token_ids=facts.eos_token_ids)
    except RungError as error:
        where = f"the tokenizer of {manifest.checkpoint}"
        raise LoadError(f"{where} cannot be used: {error.message}", hint=error.hint) from error


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
