"""Whose evidence a workspace takes: its own key's, and those of the nodes that a person has trusted."""

from __future__ import annotations

import re
from pathlib import Path

from registry.atomic import storage_errors, write_atomically
from registry.errors import ConfigurationError, NotFoundError
from registry.signing import fingerprint
from registry.workspace import Workspace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def trusted_keys(workspace: Workspace) -> list[Path]:
    """Public keys whose evidence is accepted, the workspace's own first."""
    nodes = sorted(workspace.trusted_keys.glob("*.pub")) if workspace.trusted_keys.is_dir() else []
    return [workspace.public_key, *nodes]


def add_key(workspace: Workspace, key: Path, *, name: str | None = None) -> Path:
    """Trust a node's public key; where it is kept in the workspace.

    Raises:
        ConfigurationError: It is not a public key, or another one has that name.
    """
    called = name or key.name.removesuffix(".pub")
    if not _NAME.fullmatch(called):
        raise ConfigurationError(
            f"`{called}` cannot be a node's name", hint="use letters, digits, `.`, `_` and `-`"
        )
    own = fingerprint(key)
    out = workspace.trusted_keys / f"{called}.pub"
    if out.is_file() and fingerprint(out) != own:
        raise ConfigurationError(
            f"another key of a node `{called}` is trusted", hint="remove it with `--remove`, or give `--name`"
        )
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, key.read_bytes())
    return out


def remove_key(workspace: Workspace, name: str) -> None:
    """Trust a node no more; what was recorded of it stays.

    Raises:
        NotFoundError: No such node.
    """
    path = workspace.trusted_keys / f"{name.removesuffix('.pub')}.pub"
    if not _NAME.fullmatch(name.removesuffix(".pub")) or not path.is_file():
        raise NotFoundError(f"no node `{name}` is trusted", hint="`rung evidence trust` lists them")
    path.unlink()
