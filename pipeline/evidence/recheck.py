"""Check scorecards of evidence files against their own responses, and against a second run on this machine.

The work has a process of its own (`pipeline/stages/work/recheck.py`). Which samples are run again depends on
the file's digest and on the workspace's private key, so that nobody who makes a file can know them, and a
changed file has others.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from pipeline.build.cell_progress import cannot_run
from pipeline.consents import allowed_code
from pipeline.evidence.check import Verified
from pipeline.evidence.document import EvidenceFile
from pipeline.executors.interface import Failure, Work
from pipeline.executors.local import LocalExecutor
from pipeline.kit import Kit, folder_of
from pipeline.stages.events import ErrorEvent, Event, FinishEvent, OutputEvent, ProgressEvent
from pipeline.stages.recheck import RecheckOutput, RecheckRequest, RecheckSubject, RecheckTask
from registry.artifact import Manifest
from registry.atomic import scratch_directory
from registry.digest import digest_value
from registry.errors import ConfigurationError, RefusedError, RungError
from registry.ladder import TaskEntry
from registry.workspace import Workspace
from serving.node.host import installed_runtimes

TIMEOUT_S = 7200.0
_WORKER_BYTES = 1 << 30
"""For the executor's books; one worker runs at a time."""


@dataclass(frozen=True, slots=True)
class Rechecked:
    """What a check of one evidence file did."""

    marked: int
    """Scorecards whose samples were marked again."""
    rerun: int
    """Samples that were run again here."""


def recheck(
    path: Path,
    report: EvidenceFile,
    verified: Sequence[Verified],
    *,
    workspace: Workspace,
    say: Callable[[str], None],
) -> Rechecked:
    """Check the scorecards of an evidence file whose other claims hold.

    Args:
        path: Of the file, for messages.
        report: The file.
        verified: Its results.
        workspace: The workspace.
        say: Called with what is being done.

    Raises:
        RefusedError: A scorecard does not follow from its responses, or a second run contradicts it.
        ConfigurationError: lm-eval is not installed here.
    """
    judged = [one for one in verified if one.judged and one.kit is not None]
    if not judged:
        return Rechecked(0, 0)
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigurationError(
            f"`{path}` has scorecards, which cannot be marked again: lm-eval is not installed here",
            hint="install `rung[eval]`",
        )
    kit = judged[0].kit
    outputs: dict[str, RecheckOutput] = {}

    def take(event: Event) -> None:
        match event:
            case ProgressEvent():
                say(f"checking the samples of {path.name}: {event.text}")
            case OutputEvent():
                outputs[event.key] = RecheckOutput.model_validate(event.output)
            case ErrorEvent() | FinishEvent():
                pass  # the executor returns how it ended
            case _:
                assert_never(event)

    with scratch_directory(workspace.scratch, name="recheck") as folder:
        request = _request(report, judged, kit, workspace=workspace, tasks=folder)
        executor = LocalExecutor(workspace.store, scratch=workspace.scratch)
        ended = executor.run(Work("recheck", request, _WORKER_BYTES, TIMEOUT_S), on_event=take)
    if isinstance(ended, Failure):
        raise RefusedError(
            f"evidence file `{path}` is refused: its samples cannot be checked: {ended.message}",
            hint=ended.hint,
        )
    for one in judged:
        if problems := outputs[_key(one)].problems:
            raise RefusedError(
                f"evidence file `{path}` is refused: the scorecards of `{one.measured.cell}` do not hold: "
                + "; ".join(problems[:5]),
                hint="measure again on the node, in a new work directory; if that is refused too, ask why",
            )
    return Rechecked(
        marked=sum(len(one.judged) for one in judged), rerun=sum(one.rerun for one in outputs.values())
    )


def _request(
    report: EvidenceFile, judged: Sequence[Verified], kit: Kit | None, *, workspace: Workspace, tasks: Path
) -> RecheckRequest:
    if kit is None:
        raise ValueError("scorecards answer a kit")
    return RecheckRequest(
        ladder_directory=tasks,
        evaluation=kit.evaluation,
        tasks=tuple(_tasks(kit, workspace=workspace, out=tasks)),
        subjects=tuple(
            RecheckSubject(
                key=_key(one),
                manifest=_runs_here(one, workspace=workspace),
                scorecards=tuple(judged.card for judged in one.judged),
            )
            for one in judged
        ),
        secret=_secret(report, workspace=workspace),
    )


def _tasks(kit: Kit, *, workspace: Workspace, out: Path) -> list[RecheckTask]:
    """The kit's task types; the ladder's own task files are put below `out`."""
    entries: dict[str, TaskEntry] = {}
    for task in kit.tasks:
        entries[task.task_type] = task.entry
        if task.files:
            folder = folder_of(kit, task)
            workspace.store.materialise(task.files, out=out / folder, share="copy")
            entries[task.task_type] = task.entry.model_copy(update={"include": folder})
    code = allowed_code(entries, directory=out, record=workspace.consents, how="rung build LADDER")
    return [RecheckTask(task_type=name, entry=entry, code=code.get(name)) for name, entry in entries.items()]


def _runs_here(one: Verified, *, workspace: Workspace) -> Manifest | None:
    """The artifact's manifest, if it runs on this machine with the runtime that it was measured with."""
    measured = one.measured.measurement
    try:
        manifest = workspace.store.find_artifact(one.measured.artifact)
        runs = not cannot_run(manifest) and workspace.store.has_artifact(manifest.digest)
    except RungError:
        return None
    version = installed_runtimes().get(manifest.format)
    return manifest if runs and version == measured.runtime_version else None


def _secret(report: EvidenceFile, *, workspace: Workspace) -> str:
    key = workspace.private_key.read_bytes()
    return hmac.new(key, report.digest.encode(), hashlib.sha256).hexdigest()


def _key(one: Verified) -> str:
    return digest_value(["recheck", one.measured.cell, one.measured.artifact])
