"""Check a scorecard that somebody else made: mark its responses again, and compare some with a second run.

Marking shows that the outcomes follow from the responses, and that these are to the samples that had to be
taken, in their order: a card that picks the samples it likes is found, too. It does not show that the
artifact gave these responses; for that some samples are run again where the artifact runs here, chosen so
that whoever made the card could not foresee them.

Two runs of one artifact on different chips may differ where two tokens are nearly as likely. So log-
probabilities may differ by `CLOSE_NATS` and a share, texts may differ where their outcome does not, and one
sample in fifty may contradict. With `SAMPLES` samples, a card that claims 5 % of its outcomes falsely is
found with a probability of .81, one that claims 10 % with .99.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final

from evals.harness import Taken
from evals.responses import Response, unpack_responses
from evals.samples import LoadedTask, LoadedTasks
from evals.scorecard import Outcome, Scorecard
from registry.errors import EvaluationError

SAMPLES: Final = 60
"""Samples of a scorecard that are run again."""
CLOSE_NATS: Final = 0.1
CLOSE_SHARE: Final = 0.02
_TOLERATED_SHARE: Final = 0.02
_CLOSE: Final = 1e-9
_AGAIN: Final = "evaluate again with the version of Rung that reads it"


def marking_problems(card: Scorecard, tasks: LoadedTasks, *, order_seed: int) -> list[str]:
    """Why a card's outcomes do not follow from its responses, one sentence each; at most five.

    Args:
        card: The card.
        tasks: Of its task type, as they are here.
        order_seed: Of the order in which samples have to be taken.

    Raises:
        EvaluationError: It is of other tasks, or its responses cannot be read or marked.
    """
    if card.tasks_digest != tasks.ordered_digest(seed=order_seed):
        raise EvaluationError(
            f"the tasks of `{card.task_type}` are not those of the scorecard",
            hint="install the version of lm-eval that measured it",
        )
    if card.responses is None:
        return ["it has no responses, so that it cannot be marked again"]
    responses = unpack_responses(card.responses)
    if len(responses) != len(card.outcomes):
        return [f"it has {len(card.outcomes)} outcomes and the responses of {len(responses)} samples"]
    order = tasks.order(seed=order_seed)[: len(card.outcomes)]
    due = [(task.name, number, task.document_hash(number)) for task, number in order]
    taken = [(one.task, one.doc_id, one.doc_hash) for one in card.outcomes]
    if due != taken:
        place = next((n for n, (a, b) in enumerate(zip(due, taken, strict=False)) if a != b), len(due))
        return [f"its sample {place + 1} is not the one that has to be taken there"]
    marked = _mark(order, responses)
    wrong = [
        f"sample {claimed.doc_id} of `{claimed.task}` is {claimed.value:g}, its response gives {value:g}"
        for claimed, value in zip(card.outcomes, marked, strict=True)
        if not math.isclose(claimed.value, value, abs_tol=_CLOSE)
    ]
    return [*wrong[:4], f"and {len(wrong) - 4} more"] if len(wrong) > 5 else wrong


def chosen_samples(card: Scorecard, tasks: LoadedTasks, *, secret: str) -> list[tuple[LoadedTask, int]]:
    """The samples of a card to run again: all, or `SAMPLES` of them drawn by the secret."""
    by_name = {task.name: task for task in tasks.tasks}
    count = min(SAMPLES, len(card.outcomes))
    places = random.Random(secret).sample(range(len(card.outcomes)), count)
    return [(by_name[card.outcomes[place].task], card.outcomes[place].doc_id) for place in sorted(places)]


def rerun_problems(card: Scorecard, taken: Sequence[Taken]) -> list[str]:
    """What a second run of some samples contradicts, one sentence each; none where it may be chance.

    Args:
        card: A card without `marking_problems`.
        taken: The second run.
    """
    if card.responses is None:
        return []
    there = {
        (outcome.task, outcome.doc_id): (outcome, responses)
        for outcome, responses in zip(card.outcomes, unpack_responses(card.responses), strict=True)
    }
    wrong = []
    for here in taken:
        outcome, responses = there[here.outcome.task, here.outcome.doc_id]
        if (why := _contradiction(outcome, responses, here)) is not None:
            wrong.append(f"sample {outcome.doc_id} of `{outcome.task}`: {why}")
    if len(wrong) <= max(1, math.floor(_TOLERATED_SHARE * len(taken))) and len(taken) > 1:
        return []
    return [f"{len(wrong)} of {len(taken)} samples that were run again contradict it", *wrong[:3]]


def _mark(order: Sequence[tuple[LoadedTask, int]], responses: Sequence[Sequence[Response]]) -> list[float]:
    answers: dict[LoadedTask, dict[int, Sequence[Response]]] = {}
    for (task, number), given in zip(order, responses, strict=True):
        answers.setdefault(task, {})[number] = given
    values: dict[tuple[str, int], float] = {}
    for task, given_to in answers.items():
        for outcome in task.mark_again(given_to):
            values[outcome.task, outcome.doc_id] = outcome.value
    return [values[task.name, number] for task, number in order]


def _contradiction(outcome: Outcome, responses: Sequence[Response], here: Taken) -> str | None:
    for there, again in zip(responses, here.responses, strict=True):
        if (numbers := _probabilities(there, again)) is not None and not _near(*numbers):
            return f"it says a log-probability of {numbers[0]:.3f}, here it is {numbers[1]:.3f}"
    texts = any(isinstance(one, str) for one in here.responses)
    if texts and not math.isclose(outcome.value, here.outcome.value, abs_tol=_CLOSE):
        return f"it says {outcome.value:g}, here it is {here.outcome.value:g}"
    return None


def _probabilities(there: Response, again: Response) -> tuple[float, float] | None:
    match there, again:
        case (float(one), _), (float(other), _):
            return one, other
        case float(one), float(other):
            return one, other
    return None


def _near(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= CLOSE_NATS + CLOSE_SHARE * abs(other)
