"""Consents to code of task files: a person names its digest once, and it runs on this machine from then on.

They are kept in `consents.json`: a workspace's in `.rung/`, those of a node in the work directory of its run.
A kit brings none along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime

from evals.task_code import TaskCode, find_code
from registry.atomic import write_atomically
from registry.digest import Digest, canonical_json
from registry.document import Document
from registry.errors import ConfigurationError, RefusedError
from registry.ladder import TaskEntry
from registry.value import Value

CONSENTS_NAME: Final = "consents.json"
DIGITS: Final = 12
"""Of a digest that a person has to give at least."""


class Consent(Value):
    """Code that may run."""

    digest: Digest
    files: tuple[str, ...]
    """What it consists of, for people."""
    at: AwareDatetime


class Consents(Document):
    """All that was ever consented to on a machine, by time."""

    KIND: ClassVar[str] = "list of consents"
    RENEW: ClassVar[str] = "remove it, and allow the code again with `--allow-code`"

    schema_version: Literal[1] = 1
    consents: tuple[Consent, ...] = ()


def allowed_code(
    tasks: Mapping[str, TaskEntry], *, directory: Path, record: Path, given: Sequence[str] = (), how: str
) -> dict[str, Digest]:
    """Task type → the digest of its code, for those that have code; all of it was consented to.

    Args:
        tasks: Task type → its entry.
        directory: That `include` is relative to.
        record: The file of consents; those that are given now are added to it.
        given: Beginnings of digests that a person allows now.
        how: The command that takes `--allow-code`, for messages.

    Raises:
        RefusedError: Nobody has consented to a task type's code.
        ConfigurationError: A digest that was given is too short, or that of no code.
        SchemaError: The record cannot be read.
    """
    found = {
        name: code
        for name, entry in tasks.items()
        if entry.tasks and entry.include is not None and (code := find_code(directory / entry.include))
    }
    known = _read(record)
    fresh = [_chosen(text, found) for text in dict.fromkeys(given)]
    consented = {one.digest for one in known.consents} | {code.digest for code in fresh}
    for name, code in found.items():
        if code.digest not in consented:
            raise _refused(name, code, how=how)
    _add(fresh, known=known, record=record)
    return {name: code.digest for name, code in found.items()}


def _read(record: Path) -> Consents:
    try:
        return Consents.parse(record.read_bytes(), where=str(record))
    except FileNotFoundError:
        return Consents()


def _add(fresh: Sequence[TaskCode], *, known: Consents, record: Path) -> None:
    before = {one.digest for one in known.consents}
    added = tuple(
        Consent(digest=code.digest, files=code.files, at=datetime.now(UTC))
        for code in fresh
        if code.digest not in before
    )
    if added:
        after = Consents(consents=(*known.consents, *added))
        write_atomically(record, canonical_json(after.content) + b"\n")


def _chosen(text: str, found: Mapping[str, TaskCode]) -> TaskCode:
    digits = text.removeprefix("sha256:")
    for code in found.values():
        if len(digits) >= DIGITS and code.digest.removeprefix("sha256:").startswith(digits):
            return code
    listed = ", ".join(f"{_short(code)} (task.{name})" for name, code in found.items()) or "none"
    raise ConfigurationError(
        f"`--allow-code {text}` is not the digest of any task's code", hint=f"code there is: {listed}"
    )


def _refused(task_type: str, code: TaskCode, *, how: str) -> RefusedError:
    listed = ", ".join(f"`{name}`" for name in code.files[:6]) + (" …" if len(code.files) > 6 else "")
    return RefusedError(
        f"the tasks of task.{task_type} run code of their own, which nobody has allowed on this machine: "
        f"{listed}",
        hint=f"read these files; if they may run here with your rights: `{how} --allow-code {_short(code)}`",
    )


def _short(code: TaskCode) -> str:
    return code.digest.removeprefix("sha256:")[:DIGITS]
