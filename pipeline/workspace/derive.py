"""Derive cells again: their results are held against the scorecards in the content store.

The database is not believed. What a cell says of a task type is computed again from its scorecard, which is
found by its digest, and from the reference scorecards; what differs was edited outside Rung, or judged by
other bars. `rung doctor` does so without a ladder, `rung release create` with its bars and checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import ValidationError

from evals.judge import judge
from evals.scorecard import Scorecard
from evals.verdict import Bar, Verdict, earned_tier
from matrices.cells.cell import Cell, TaskResult
from matrices.ledger import query
from matrices.ledger.build_records import BuildRecord
from matrices.ledger.db import Database
from matrices.releases.ruling import Ruling
from registry.digest import Digest, short
from registry.errors import CorruptError, RungError
from registry.store import Store
from registry.value import describe

_CLOSE = 1e-9


class HasBlobs(Protocol):
    """What has blobs: the store, or the records of a build."""

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        ...

    def read_bytes(self, digest: str) -> bytes:
        """A blob's bytes, checked."""
        ...


def differences(cell: Cell, *, store: Store, ruling: Ruling | None) -> list[str]:
    """What a cell says that its scorecards or rulings do not, one sentence each.

    Args:
        cell: As the database has it.
        store: The content store.
        ruling: The latest ruling on its artifact.
    """
    results = (result_difference(result, store=store, artifact=cell.artifact) for result in cell.tasks)
    found = [why for why in results if why is not None]
    verb = ruling.verb if ruling is not None else None
    for state, needed in (("approved", "approve"), ("rejected", "reject"), ("withdrawn", "withdraw")):
        if cell.state == state and verb != needed:
            found.append(f"it is {state}, and no ruling on its artifact says so")
    return found


def check_results(cells: Iterable[Cell], *, store: Store) -> None:
    """Check that cells say what their scorecards show.

    Raises:
        CorruptError: One does not.
    """
    for cell in cells:
        for result in cell.tasks:
            if (why := result_difference(result, store=store, artifact=cell.artifact)) is not None:
                raise CorruptError(
                    f"the database's `{cell.id}` is not what its evidence shows: {why}",
                    hint="it was edited outside Rung: build it again",
                )


def result_difference(result: TaskResult, *, store: HasBlobs, artifact: Digest | None) -> str | None:
    """What a result says that its scorecard does not, in one sentence; None where they agree.

    Args:
        result: As a cell or the record of an evaluation has it.
        store: Has the scorecard.
        artifact: The artifact that it must be of; None: any.
    """
    card = _card(store, result.scorecard)
    if isinstance(card, str):
        return f"{result.task_type}: {card}"
    about = (artifact and card.subject, card.task_type, card.tasks_digest)
    if about != (artifact, result.task_type, result.tasks_digest):
        return f"{result.task_type}: its scorecard is of {short(card.subject)} on {card.task_type}"
    counted = (len(card.outcomes), card.available, card.batch_size)
    if counted != (result.samples, result.available, result.batch_size):
        return f"{result.task_type}: its scorecard has {counted[0]} samples, the cell says {result.samples}"
    if not _same(result.accuracy, card.accuracy):
        given, said = f"{card.accuracy:.3f}", f"{result.accuracy:.3f}"
        return f"{result.task_type}: its scorecard gives an accuracy of {given}, the cell says {said}"
    mean = math.fsum(one.value for one in card.outcomes) / len(card.outcomes)
    for verdict in result.verdicts:
        if not _same(verdict.accuracy, mean):
            return f"{result.task_type}: its scorecard gives {mean:.3f}, a verdict {verdict.accuracy:.3f}"
    if result.tier != earned_tier(list(result.verdicts)):
        return f"{result.task_type}: it says tier {result.tier}, its verdicts do not"
    return None


class References:
    """The reference scorecards that a workspace has recorded."""

    def __init__(self, database: Database, store: Store) -> None:
        outputs = (record.output for record in query.stages(database, stage="reference"))
        cards = (_card(store, str(output.get("scorecard"))) for output in outputs)
        self._cards = tuple(card for card in cards if isinstance(card, Scorecard))

    def of(self, card: Scorecard, *, checkpoint: Digest) -> list[Scorecard]:
        """A checkpoint's own outcomes on the tasks of a scorecard; one for each machine that took them."""
        wanted = (checkpoint, card.task_type, card.tasks_digest)
        return [one for one in self._cards if (one.subject, one.task_type, one.tasks_digest) == wanted]


def verdict_differences(
    cell: Cell,
    *,
    store: Store,
    references: References,
    checkpoints: Sequence[Digest],
    alphas: Mapping[str, float],
) -> list[str]:
    """Verdicts of a cell that do not follow from its scorecards and its references', one sentence each.

    Args:
        cell: As the database has it.
        store: The content store.
        references: Of the workspace.
        checkpoints: Digests of the ladder's checkpoints, by tier.
        alphas: Task type → error probability of the ladder.
    """
    found = []
    for result in cell.tasks:
        card = _card(store, result.scorecard)
        if isinstance(card, str):
            found.append(f"{result.task_type}: {card}")
            continue
        for verdict in result.verdicts:
            alpha = alphas.get(result.task_type)
            if verdict.tier > len(checkpoints) or alpha is None:
                continue  # of a task type or tier that the ladder does not have any more
            cards = references.of(card, checkpoint=checkpoints[verdict.tier - 1])
            if not any(_follows(verdict, card, reference=one, alpha=alpha) for one in cards):
                why = "follows from no reference on record" if cards else "has no reference on record"
                found.append(f"{result.task_type}: the {verdict.status} for tier {verdict.tier} {why}")
    return found


def record_difference(record: BuildRecord, *, store: HasBlobs) -> str | None:
    """What the record of an evaluation says that its scorecard does not; None where they agree.

    Args:
        record: Of a finished stage; only those of evaluations have a scorecard and a result.
        store: The content store.
    """
    if record.stage not in ("evaluate", "outcomes"):
        return None
    try:
        result = TaskResult.model_validate(record.output.get("result"))
    except ValidationError as error:
        return f"it is not the result of an evaluation: {describe(error)}"
    return result_difference(result, store=store, artifact=None) if store.has(result.scorecard) else None


def _follows(verdict: Verdict, card: Scorecard, *, reference: Scorecard, alpha: float) -> bool:
    bar = Bar(tier=verdict.tier, floor=verdict.floor, margin_points=verdict.margin_points, alpha=alpha)
    try:
        again = judge(card, reference=reference, bar=bar)
    except RungError:
        return False
    return again.status == verdict.status and _same(again.reference_accuracy, verdict.reference_accuracy)


def _card(store: HasBlobs, digest: str) -> Scorecard | str:
    """The scorecard of a digest, or why there is none."""
    try:
        card = Scorecard.model_validate_json(store.read_bytes(digest))
    except (RungError, ValidationError) as error:
        return f"its scorecard cannot be read: {error.message if isinstance(error, RungError) else digest}"
    return card if card.outcomes else "its scorecard has no outcome"


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, abs_tol=_CLOSE)


def all_differences(cells: Iterable[Cell], *, database: Database, store: Store) -> dict[str, list[str]]:
    """Cell id → what `differences` finds, for cells where it finds something."""
    rulings = query.rulings(database)
    found = {cell.id: differences(cell, store=store, ruling=rulings.get(cell.id)) for cell in cells}
    return {cell: why for cell, why in found.items() if why}
