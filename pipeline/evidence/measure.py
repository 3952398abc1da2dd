"""Measure artifacts on this machine and write the signed evidence file: what `rung evidence run` does.

A node without a workspace measures a kit that it fetches; a build machine may measure its own artifacts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from pipeline.evidence.document import EvidenceFile, write_report
from pipeline.evidence.run import RunSettings, run_kit
from pipeline.kit import fetch_kit
from registry.errors import ConfigurationError
from registry.signing import generate_keys
from registry.workspace import Workspace
from serving.node.source import find_source


@dataclass(frozen=True, slots=True)
class PublishedKit:
    """Artifacts of a kit that a build machine made."""

    location: str
    """Directory or URL."""
    public_key: Path | None
    """Key that it must be signed with; None: the workspace's, where there is one."""


@dataclass(frozen=True, slots=True)
class OwnArtifacts:
    """Artifacts of this machine's workspace."""

    ladder: Path
    everything: bool
    """Also those whose evidence is complete."""


def measure(
    what: PublishedKit | OwnArtifacts,
    *,
    target: str,
    out: Path,
    key: Path | None,
    work: Path | None,
    settings: RunSettings,
    workspace: Workspace | None,
    report: Callable[[str], None],
) -> EvidenceFile:
    """Measure the artifacts of a target, and write one signed file.

    Args:
        what: Which artifacts.
        target: Whose hardware this machine has.
        out: The file.
        key: Private key to sign with; None: the workspace's.
        work: Directory from which a killed run resumes; None: beside `out`.
        settings: How to measure.
        workspace: The one that this machine is in, if any.
        report: Called with what is being done.

    Raises:
        ConfigurationError: There is no key to sign with or to verify the kit with, or no workspace to take
            artifacts from.
        SignatureError: The kit is not signed with the key.
    """
    private_key = signing_key(key, workspace=workspace, report=report)
    directory = (work or out.parent / f".{out.name}.work").absolute()
    directory.mkdir(parents=True, exist_ok=True)
    match what:
        case PublishedKit(location, public_key):
            base = find_source(location)
            kit = fetch_kit(base, target=target, public_key=_kit_key(public_key, workspace=workspace))
            found = run_kit(kit, blobs=base.within("store"), work=directory, settings=settings, report=report)
        case OwnArtifacts(ladder, everything):
            from pipeline.evidence.export import issue_kit, make_ladder_kit  # needs the database

            own = _own(workspace)
            kit = make_ladder_kit(ladder, target=target, workspace=own, everything=everything)
            issue_kit(kit, workspace=own)
            found = run_kit(
                kit, blobs=None, work=directory, store=own.store, settings=settings, report=report
            )
        case _:
            assert_never(what)
    write_report(found, path=out, private_key=private_key)
    return found


def signing_key(key: Path | None, *, workspace: Workspace | None, report: Callable[[str], None]) -> Path:
    """The private key that evidence is signed with, created with its public half if missing.

    Raises:
        ConfigurationError: None is given, and there is no workspace.
    """
    private = key or (workspace.private_key if workspace else None)
    if private is None:
        raise ConfigurationError(
            "no key to sign with", hint="give one with `--key node.key`; it is created if missing"
        )
    if not private.exists():
        public = private.with_suffix(".pub")
        generate_keys(private, public)
        report(f"made a key pair; have {public} trusted: `rung evidence trust`")
    return private


def _kit_key(key: Path | None, *, workspace: Workspace | None) -> Path:
    public = key or (workspace.public_key if workspace else None)
    if public is None or not public.is_file():
        raise ConfigurationError(
            "no key that the kit must be signed with",
            hint="give the build machine's `.rung/keys/rung.pub` with `--trusted`",
        )
    return public


def _own(workspace: Workspace | None) -> Workspace:
    if workspace is None:
        raise ConfigurationError(
            "`--ladder` measures the artifacts of a workspace, and there is none here",
            hint="run it in a workspace, or give a kit with `--kit`",
        )
    return workspace
