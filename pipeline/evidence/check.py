"""Check evidence: what a signed report says is compared with the workspace; what does not hold is refused.

A report holds if it answers a kit that this workspace issued, for the very artifacts that the matrix holds
now, on a machine that runs their target, with one version of each runtime throughout. Verdicts are made here,
from the node's samples and the workspace's own references: a node cannot claim a tier.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from compilers.backend import find_format
from compilers.check.probe import positions_of
from evals.scorecard import Scorecard
from matrices.cells.cell import Cell, TaskResult
from matrices.cells.steps import task_result
from matrices.chips.chip import find_accelerator
from matrices.ledger import query
from matrices.ledger.db import Database
from pipeline.evidence.document import EvidenceFile, Measured
from pipeline.kit import Kit, KitSubject, KitTask, issued_kit
from registry.artifact import Manifest
from registry.digest import digest_value, short
from registry.errors import EvaluationError, RefusedError, RungError
from registry.store import Store
from registry.target import find_target, missing_features, targets
from registry.workspace import Workspace
from serving.node.accelerator import chip_here

CLOCK_SKEW: Final = timedelta(minutes=10)
AGAIN: Final = "run `rung evidence run` again, with a new work directory"


@dataclass(frozen=True, slots=True)
class Judged:
    """A task type's result, and the samples that it rests on."""

    result: TaskResult
    card: Scorecard


@dataclass(frozen=True, slots=True)
class Verified:
    """One artifact's evidence, which holds."""

    measured: Measured
    kit: Kit | None
    judged: tuple[Judged, ...]


def check_report(
    path: Path, report: EvidenceFile, *, workspace: Workspace, database: Database, at: datetime
) -> list[Verified]:
    """All results of a report, if every one of them holds.

    Args:
        path: Of the file, for messages.
        report: Whose signature was verified.
        workspace: The workspace.
        database: The workspace's.
        at: Now; a file of a later time is refused.

    Raises:
        RefusedError: Something in it does not hold.
    """
    return _Check(path, report, workspace, database).all(at=at)


class _Check:
    def __init__(self, path: Path, report: EvidenceFile, workspace: Workspace, database: Database) -> None:
        self.path = path
        self.report = report
        self.workspace = workspace
        self.database = database

    def all(self, *, at: datetime) -> list[Verified]:
        report = self.report
        if report.created_at > at + CLOCK_SKEW:
            raise self.refused(
                f"it is from the future ({report.created_at:%Y-%m-%d %H:%M}Z)", "set its clock"
            )
        kit = self.kit()
        self.check_machine()
        names = [one.cell for one in report.results]
        if len(names) != len(set(names)):
            raise self.refused("it has two results for one cell")
        return [self.verified(one, kit) for one in report.results]

    def kit(self) -> Kit | None:
        report = self.report
        if report.kit is None:
            return None
        kit = issued_kit(self.workspace.kits, report.kit, public_key=self.workspace.public_key)
        if kit is None:
            raise self.refused(
                f"it answers the kit {short(report.kit)}, which this workspace never issued",
                "export a kit here (`rung evidence export`), and run that one",
            )
        if kit.target != report.target:
            raise self.refused(f"its kit is for `{kit.target}`, it says `{report.target}`")
        return kit

    def check_machine(self) -> None:
        """The machine has what the target's code needs."""
        report = self.report
        if report.target not in targets():
            raise self.refused(f"its target `{report.target}` is not known here", "upgrade Rung here")
        target = find_target(report.target)
        chip = chip_here(target, report.node.host)
        if report.node.chip != chip.name:
            raise self.refused(
                f"its chip is `{report.node.chip}`, on its machine `{report.target}` runs on `{chip.name}`"
            )
        known = find_accelerator(chip.name)
        if known is not None and report.target not in known.targets:
            raise self.refused(f"`{chip.name}` does not run `{report.target}`")
        lacking = missing_features(report.node.host, target=target)
        if lacking and any(_ran(one) for one in report.results):
            lacks = f"lacks {', '.join(lacking[:4])}, which `{report.target}` needs"
            raise self.refused(
                f"its machine ({report.node.host.chip}) {lacks}", "measure on a machine that has the hardware"
            )

    def verified(self, one: Measured, kit: Kit | None) -> Verified:
        cell, manifest = self.cell(one), self.manifest(one)
        if cell.artifact != one.artifact:
            holds = "none" if cell.artifact is None else short(cell.artifact)
            raise self.refused(
                f"its evidence for `{one.cell}` is of the artifact {short(one.artifact)}, "
                f"the one that the matrix holds is {holds}",
                "export a kit of what is built now, and run that one",
            )
        self.check_versions(one, manifest)
        self.check_chip(one)
        self.check_times(one, cell)
        self.check_compiled(one, manifest)
        if kit is None:
            if _ran(one):
                raise self.refused(f"it measured `{one.cell}` without a kit")
            return Verified(one, None, ())
        subject = kit.subject(one.cell)
        if subject is None or subject.manifest.digest != one.artifact:
            raise self.refused(f"its kit asks for another artifact of `{one.cell}`")
        self.check_parity(one, subject)
        types = [card.task_type for card in one.scorecards]
        if len(types) != len(set(types)):
            raise self.refused(f"it has two scorecards of one task type for `{one.cell}`")
        return Verified(one, kit, tuple(self.judged(one, card, kit) for card in one.scorecards))

    def cell(self, one: Measured) -> Cell:
        cells = query.cells(self.database, target=self.report.target)
        found = next((cell for cell in cells if cell.id == one.cell), None)
        if found is None:
            where = f"no cell of `{self.report.target}` in this workspace"
            raise self.refused(f"`{one.cell}` is {where}", "it is for another workspace")
        return found

    def manifest(self, one: Measured) -> Manifest:
        try:
            return self.workspace.store.find_artifact(one.artifact)
        except RungError as error:
            why = f"the artifact {short(one.artifact)} that it names is not in the registry"
            raise self.refused(why, error.hint) from error

    def check_versions(self, one: Measured, manifest: Manifest) -> None:
        """One version of the runtime throughout, and one that the artifact can have been run with."""
        runtime = one.measurement.runtime
        if runtime != manifest.format:
            raise self.refused(f"`{one.cell}` is of the format `{manifest.format}`, not `{runtime}`")
        claimed = self.report.node.runtimes.get(manifest.format)
        named: dict[str, str | None] = {"its result": one.measurement.runtime_version} if _ran(one) else {}
        if one.verify is not None:
            named["its parity"] = one.verify.measurement.runtime_version
        if one.speed is not None:
            named["its speed"] = one.speed.measurement.runtime_version
        named |= {f"its scorecard of {card.task_type}": card.runtime_version for card in one.scorecards}
        for what, version in named.items():
            if version is None or version != claimed:
                raise self.refused(f"it claims {runtime} {claimed} for `{one.cell}`, {what} says {version}")
        if _ran(one) and not find_format(manifest.format).runs(claimed or "", manifest):
            raise self.refused(
                f"`{one.cell}` was built with {manifest.toolchain} {manifest.toolchain_version}, "
                f"it was measured with {runtime} {claimed}",
                "install that version of the runtime on the node, or build the cell with the node's",
            )

    def check_chip(self, one: Measured) -> None:
        """One chip and driver throughout, the machine's own, and nothing by other means."""
        node, whole = self.report.node, one.measurement
        parts = [part.measurement for part in (one.verify, one.speed) if part is not None]
        for on in (whole, *parts):
            if (on.chip, on.driver, on.via) != (node.chip, node.driver, "chip"):
                named = f"`{on.chip}` with driver {on.driver}" + ("" if on.via == "chip" else f" by {on.via}")
                raise self.refused(f"it is of `{node.chip}` with driver {node.driver}, a result of {named}")
        if any(not on.same_conditions(whole) for on in parts):
            raise self.refused(f"the parts of its result for `{one.cell}` are of different conditions")
        for card in one.scorecards:
            if card.chip != node.chip:
                raise self.refused(
                    f"it is of `{node.chip}`, its scorecard of {card.task_type} of `{card.chip}`"
                )

    def check_times(self, one: Measured, cell: Cell) -> None:
        """Nothing was measured before its artifact was made, or before its evidence last expired."""
        times = [one.measurement.at, *(card.measured_at for card in one.scorecards)]
        times += [part.measurement.at for part in (one.verify, one.speed) if part is not None]
        earliest = min(aware(moment) for moment in times)
        own = [entry for entry in cell.evidence if entry.digest == cell.artifact]
        built = next((entry for entry in own if entry.state in ("built", "portable")), None)
        if built is not None and earliest < built.at - CLOCK_SKEW:
            raise self.refused(
                f"it measured `{one.cell}` on {earliest:%Y-%m-%d %H:%M}Z, the artifact was built "
                f"{built.at:%Y-%m-%d %H:%M}Z",
                "set the node's clock, and measure again",
            )
        expired = next((entry for entry in reversed(own) if entry.state == "expired"), None)
        if expired is not None and earliest < expired.at:
            raise self.refused(
                f"it measured `{one.cell}` on {earliest:%Y-%m-%d %H:%M}Z, before its evidence expired on "
                f"{expired.at:%Y-%m-%d %H:%M}Z",
                "measure again on the node, in a new work directory",
            )

    def check_compiled(self, one: Measured, manifest: Manifest) -> None:
        made = one.compiled
        if made is None:
            return
        if not find_format(manifest.format).compiled_on_node:
            raise self.refused(f"`{one.cell}` is of the format `{manifest.format}`, which no node compiles")
        if (made.artifact, made.target) != (one.artifact, manifest.target):
            raise self.refused(f"it compiled {short(made.artifact)} for `{made.target}`, not `{one.cell}`")

    def check_parity(self, one: Measured, subject: KitSubject) -> None:
        """The parity is of the kit's own probe."""
        if one.verify is None:
            return
        tokens = json.loads(self.workspace.store.read_bytes(subject.variant_probe.tokens))
        positions = positions_of(tokens)
        parity = one.verify.parity
        if (parity.probe, parity.positions) != (digest_value(tokens), positions):
            raise self.refused(f"the parity of `{one.cell}` is not of its kit's probe")

    def judged(self, one: Measured, card: Scorecard, kit: Kit) -> Judged:
        """A task type's result, by the kit's bars and the workspace's references."""
        task: KitTask | None = next((task for task in kit.tasks if task.task_type == card.task_type), None)
        if task is None:
            raise self.refused(f"its kit does not ask for `{card.task_type}`")
        what = f"the scorecard of {card.task_type} for `{one.cell}`"
        if (card.subject, card.runtime) != (one.artifact, one.measurement.runtime):
            raise self.refused(f"{what} is of the artifact {short(card.subject)} on `{card.runtime}`")
        if card.tasks_digest != task.tasks_digest:
            raise self.refused(
                f"{what} is of the tasks {short(card.tasks_digest)}, "
                f"the references are of {short(task.tasks_digest)}",
                "install the version of lm-eval that the build machine has",
            )
        if card.batch_size != kit.evaluation.batch_size:
            raise self.refused(f"{what} was taken with batch size {card.batch_size}")
        store = self.workspace.store
        references = {
            bar.tier: _read_card(store, digest)
            for bar, digest in zip(task.bars, task.references, strict=True)
        }
        if card.available != min(reference.available for reference in references.values()):
            raise self.refused(f"{what} had {card.available} samples to take, the references had others")
        try:
            result = task_result(card, references=references, bars=task.bars)
        except EvaluationError as error:
            raise self.refused(f"{what} cannot be judged: {error.message}", error.hint) from error
        return Judged(result, card)

    def refused(self, why: str, hint: str = AGAIN) -> RefusedError:
        return RefusedError(f"evidence file `{self.path}` is refused: {why}", hint=hint)


def aware(moment: datetime) -> datetime:
    """A time with its zone; one without is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ran(one: Measured) -> bool:
    """Whether the artifact ran at all."""
    return bool(one.verify or one.speed or one.scorecards)


def _read_card(store: Store, digest: str) -> Scorecard:
    return Scorecard.model_validate_json(store.read_bytes(digest))
