"""A run on the machine that has the hardware: from a kit to a report, artifact by artifact.

Each artifact is examined by the very worker that a build uses, in a separate process: loaded as a node
loads it, held against torch's logits, timed, and evaluated. What fails is in the report; the others go on.
Every result is kept in the work directory as soon as it is there, so that a run that was killed goes on. A
result holds for one kit, artifact, runtime, chip and driver: with any of them changed it is measured anew.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal, assert_never

from compilers.backend import find_format, find_runtime
from compilers.toolchain import Unsupported
from evals.scorecard import Scorecard
from pipeline.consents import CONSENTS_NAME, allowed_code
from pipeline.evidence.document import EvidenceFile, Machine, Measured, MeasurementProblem
from pipeline.executors.interface import Failure, Work
from pipeline.executors.local import LocalExecutor
from pipeline.executors.scratch import remove_stale_scratch
from pipeline.kit import Kit, KitSubject, KitTask, folder_of
from pipeline.stages.evaluate import EvaluateOutput
from pipeline.stages.events import ErrorEvent, Event, FinishEvent, OutputEvent, ProgressEvent
from pipeline.stages.examine import ExamineRequest
from pipeline.stages.speed import SpeedOutput, SpeedRequest
from pipeline.stages.task import TaskRequest
from pipeline.stages.verify import VerifyOutput
from registry.artifact import Manifest
from registry.atomic import write_atomically
from registry.digest import Digest, canonical_json, digest_value
from registry.errors import CorruptError, NotFoundError, RungError
from registry.host import Host
from registry.ladder import TaskEntry
from registry.recipe import parse_recipe
from registry.store import Store
from registry.target import find_target, missing_features
from registry.value import Value
from serving.node.accelerator import chip_here
from serving.node.directory import NodeDirectory
from serving.node.fetch import fetch_blob
from serving.node.host import installed_runtimes, this_host
from serving.node.pull import pull_artifact
from serving.node.source import Deadline, Source

Part = Literal["parity", "speed", "quality"]
PARTS: tuple[Part, ...] = ("parity", "speed", "quality")
DEFAULT_SPEED = SpeedRequest(key=digest_value("speed"))
_WORKER_BYTES = 1 << 30
"""For the executor's books; one worker runs at a time."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run measures."""

    parts: tuple[Part, ...] = PARTS
    threads: int = 1
    timeout_s: float = 7200.0
    """Limit of each artifact."""
    speed: SpeedRequest = DEFAULT_SPEED
    cells: tuple[str, ...] = ()
    """Only these; empty: all of the kit."""
    allow_code: tuple[str, ...] = ()
    """Beginnings of digests of code in task files that the person allows to run."""


class Kept(Value):
    """What a run has of one artifact so far."""

    verify: VerifyOutput | None = None
    speed: SpeedOutput | None = None
    scorecards: tuple[Scorecard, ...] = ()
    problem: MeasurementProblem | None = None
    at: datetime


def run_kit(
    kit: Kit,
    *,
    blobs: Source | None,
    work: Path,
    store: Store | None = None,
    settings: RunSettings,
    report: Callable[[str], None],
) -> EvidenceFile:
    """Measure every artifact of a kit on this machine.

    Args:
        kit: The verified kit.
        blobs: Where its blobs are fetched from (a tree with `blobs/sha256/`); None: they are in `store`.
        work: Directory of one's own, in which a killed run goes on.
        store: A store that has everything, such as the workspace's; None: one in `work`.
        settings: How.
        report: Told what is being done.

    Raises:
        NotFoundError: A cell that was asked for is not in the kit.
        RefusedError: The kit's tasks run code that nobody has allowed on this machine.
        InterruptedFetchError: The source does not answer; the same run goes on where it stopped.
        StorageFullError: No space left.
    """
    node = _Node(
        kit, work=work, store=store or Store.create(work / "store"), settings=settings, report=report
    )
    subjects = _chosen(kit, settings.cells)
    if blobs is not None:
        node.fetch(blobs)
    node.unpack_tasks()
    results = []
    for number, subject in enumerate(subjects, start=1):
        report(f"{number}/{len(subjects)} {subject.cell}")
        results.append(node.measure(subject, blobs=blobs))
    return EvidenceFile(
        kit=kit.digest,
        target=kit.target,
        node=node.facts,
        created_at=datetime.now(UTC),
        quality=node.quality,
        results=tuple(results),
    )


def describe_node(target: str, *, host: Host | None = None) -> Machine:
    """This machine, as evidence names it."""
    machine = host or this_host()
    chip = chip_here(find_target(target), machine)
    return Machine(
        host=machine,
        chip=chip.name,
        driver=chip.driver,
        runtimes=installed_runtimes(),
        rung=metadata.version("rung"),
        python=platform.python_version(),
        system=platform.platform(),
    )


class _Node:
    def __init__(
        self, kit: Kit, *, work: Path, store: Store, settings: RunSettings, report: Callable[[str], None]
    ) -> None:
        self.kit = kit
        self.work = work
        self.store = store
        self.settings = settings
        self.report = report
        self.entries: dict[str, TaskEntry] = {}
        """Task type → its entry, with the folder that its files were unpacked to."""
        self.code: dict[str, Digest] = {}
        """Task type → the digest of its code, which a person has allowed."""
        self.facts = describe_node(kit.target)
        self.chip = chip_here(find_target(kit.target), self.facts.host)
        scratch = work / "scratch"
        if scratch.is_dir():
            remove_stale_scratch(scratch)
        self.executor = LocalExecutor(store, scratch=scratch, threads=settings.threads)

    @property
    def quality(self) -> Literal["measured", "not asked", "lm-eval is not installed"]:
        """Whether artifacts are evaluated, and why not."""
        if "quality" not in self.settings.parts or not self.kit.tasks:
            return "not asked"
        return "measured" if importlib.util.find_spec("lm_eval") else "lm-eval is not installed"

    def fetch(self, blobs: Source) -> None:
        """Bring the kit's own blobs."""
        for entry in self.kit.blobs:
            fetch_blob(
                blobs,
                entry,
                store=self.store,
                partial=self.work / "partial",
                received=lambda _: None,
                deadline=Deadline.of(entry.size_bytes),
            )

    def unpack_tasks(self) -> None:
        """Put the kit's task files where they are run from, once their code was allowed here."""
        if self.quality != "measured":
            return
        self.entries = {task.task_type: self.unpacked(task) for task in self.kit.tasks}
        self.code = allowed_code(
            self.entries,
            directory=self.work / "tasks",
            record=self.work / CONSENTS_NAME,
            given=self.settings.allow_code,
            how="rung evidence run …",
        )

    def unpacked(self, task: KitTask) -> TaskEntry:
        """A task type's entry with its own files below the work directory."""
        if not task.files:
            return task.entry
        folder = folder_of(self.kit, task)
        out = self.work / "tasks" / folder
        if not out.is_dir():
            self.store.materialise(task.files, out=out, share="copy")
        return task.entry.model_copy(update={"include": folder})

    def measure(self, subject: KitSubject, *, blobs: Source | None) -> Measured:
        """Everything that is asked of one artifact, or why it is not there."""
        manifest = subject.manifest
        version = self.facts.runtimes.get(manifest.format)
        problem = self.cannot(manifest) or self.lacks(manifest, blobs)
        kept = self.kept(subject) if problem is None else Kept(problem=problem, at=datetime.now(UTC))
        if problem is None and not self.is_whole(kept):
            kept = self.examine(subject, kept.model_copy(update={"problem": None}))
        return Measured(
            cell=subject.cell,
            artifact=manifest.digest,
            measurement=self.chip.measurement(runtime=manifest.format, runtime_version=version, at=kept.at),
            verify=kept.verify,
            scorecards=kept.scorecards,
            speed=kept.speed,
            problem=kept.problem,
        )

    def cannot(self, manifest: Manifest) -> MeasurementProblem | None:
        """Why this machine does not run the artifact as its target would."""
        target, host = find_target(manifest.target), self.facts.host
        if missing := missing_features(host, target=target):
            hint = f"run this on a machine with `{target.name}`"
            lacks = f"this machine ({host.chip}) lacks {', '.join(missing[:6])}"
            return MeasurementProblem(code="hardware", message=lacks, hint=hint)
        try:
            support = find_runtime(manifest.format).supports(manifest, host)
        except RungError as error:
            return MeasurementProblem(**error.to_json())
        if isinstance(support, Unsupported):
            hint = (
                "compile it here first: `rung node-compile`"
                if find_format(manifest.format).compiled_on_node
                else "see `rung doctor`"
            )
            return MeasurementProblem(code="runtime", message=support.reason, hint=hint)
        if manifest.format not in self.facts.runtimes:
            said = f"the runtime `{manifest.format}` is not installed here"
            return MeasurementProblem(code="toolchain_missing", message=said, hint="install `rung[serve]`")
        return None

    def lacks(self, manifest: Manifest, blobs: Source | None) -> MeasurementProblem | None:
        """Bring the artifact; why that cannot be."""
        if blobs is None:
            return None
        try:
            pull_artifact(manifest, blobs=blobs, into=NodeDirectory(self.work))
        except (CorruptError, NotFoundError) as error:
            return MeasurementProblem(**error.to_json())
        return None

    def examine(self, subject: KitSubject, kept: Kept) -> Kept:
        """Run the worker; what it reports is kept at once."""
        state = kept

        def take(event: Event) -> None:
            nonlocal state
            match event:
                case ProgressEvent():
                    self.report(f"  {event.text}")
                case OutputEvent():
                    state = self.keep(subject, self.with_output(state, event))
                case ErrorEvent() | FinishEvent():
                    pass  # the executor returns how it ended
                case _:
                    assert_never(event)

        work = Work(subject.cell, self.request(subject, kept), _WORKER_BYTES, self.settings.timeout_s)
        ended = self.executor.run(work, on_event=take)
        if isinstance(ended, Failure):
            problem = MeasurementProblem(code=ended.code, message=ended.message, hint=ended.hint)
            self.report(f"  {ended.code}: {ended.message}")
            state = self.keep(subject, state.model_copy(update={"problem": problem}))
        return state

    def request(self, subject: KitSubject, kept: Kept) -> ExamineRequest:
        """What the worker still has to do."""
        verifies = "parity" in self.settings.parts and kept.verify is None
        done = {card.task_type for card in kept.scorecards}
        tasks = [task for task in self.kit.tasks if task.task_type not in done]
        return ExamineRequest(
            verify_key=digest_value("verify") if verifies else None,
            manifest=subject.manifest,
            recipe=parse_recipe(subject.manifest.recipe),
            variant_probe=subject.variant_probe,
            checkpoint_probe=subject.checkpoint_probe,
            ladder_directory=self.work / "tasks",
            evaluation=self.kit.evaluation,
            tasks=tuple(self.task(task) for task in tasks) if self.quality == "measured" else (),
            speed=self.settings.speed if "speed" in self.settings.parts and kept.speed is None else None,
        )

    def task(self, task: KitTask) -> TaskRequest:
        """A task type as the worker is asked for it."""
        return TaskRequest(
            key=digest_value(["evaluate", task.task_type]),
            task_type=task.task_type,
            entry=self.entries[task.task_type],
            bars=task.bars,
            references=task.references,
            code=self.code.get(task.task_type),
        )

    def with_output(self, kept: Kept, event: OutputEvent) -> Kept:
        """What is kept, and one output more."""
        now = {"at": datetime.now(UTC)}
        match event.stage:
            case "verify":
                return kept.model_copy(update={"verify": VerifyOutput.model_validate(event.output), **now})
            case "speed":
                return kept.model_copy(update={"speed": SpeedOutput.model_validate(event.output), **now})
            case "evaluate":
                digest = EvaluateOutput.model_validate(event.output).result.scorecard
                card = Scorecard.model_validate_json(self.store.read_bytes(digest))
                return kept.model_copy(update={"scorecards": (*kept.scorecards, card), **now})
        return kept

    def is_whole(self, kept: Kept) -> bool:
        """Whether all that is asked was measured."""
        parts = self.settings.parts
        evaluated = {card.task_type for card in kept.scorecards} >= {
            task.task_type for task in self.kit.tasks
        }
        return (
            ("parity" not in parts or kept.verify is not None)
            and ("speed" not in parts or kept.speed is not None)
            and (self.quality != "measured" or evaluated)
        )

    def kept(self, subject: KitSubject) -> Kept:
        """What an earlier run measured under the same conditions."""
        path = self._path(subject)
        if not path.is_file():
            return Kept(at=datetime.now(UTC))
        try:
            return Kept.read_json(path)
        except RungError:
            return Kept(at=datetime.now(UTC))

    def keep(self, subject: KitSubject, kept: Kept) -> Kept:
        """Write down what is measured of an artifact."""
        path = self._path(subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, canonical_json(kept))
        return kept

    def _path(self, subject: KitSubject) -> Path:
        facts = self.facts
        conditions = digest_value(
            {
                "kit": self.kit.digest,
                "artifact": subject.manifest.digest,
                "runtime": facts.runtimes.get(subject.manifest.format),
                "chip": facts.chip,
                "driver": facts.driver,
                "threads": self.settings.threads,
                "speed": self.settings.speed,
            }
        )
        return self.work / "results" / f"{conditions.removeprefix('sha256:')}.json"


def _chosen(kit: Kit, cells: Sequence[str]) -> tuple[KitSubject, ...]:
    for name in cells:
        if kit.subject(name) is None:
            known = ", ".join(f"`{one.cell}`" for one in kit.subjects[:6])
            raise NotFoundError(f"the kit has no cell `{name}`", hint=f"it has {known}")
    return tuple(one for one in kit.subjects if not cells or one.cell in cells)
