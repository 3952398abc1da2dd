"""Scorecards that do not follow from their responses, or that a second run contradicts, are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compilers.model.tokenizer import Tokenizer
from evals.harness import Taken, evaluate, load_tasks, scorecard, take_samples
from evals.recheck import SAMPLES, chosen_samples, marking_problems, rerun_problems
from evals.responses import Response, pack_responses, unpack_responses
from evals.samples import LoadedTasks
from evals.scorecard import Scorecard
from registry.digest import digest_bytes
from registry.errors import EvaluationError
from registry.ladder import TaskEntry
from tests.evals.torch_session import RecomputingSession

SEED = 3
AVAILABLE = 40


@pytest.fixture(scope="module")
def tasks() -> LoadedTasks:
    """Multiple choice and generation."""
    entry = TaskEntry(floor=(0.0,), max_samples=AVAILABLE, chat_template=False)
    return load_tasks("retrieval", entry, ladder_dir=Path())


@pytest.fixture(scope="module")
def card(word_session: RecomputingSession, word_tokenizer: Tokenizer, tasks: LoadedTasks) -> Scorecard:
    run = evaluate(word_session, word_tokenizer, tasks, batch_size=8, order_seed=SEED, chunk=50)
    return scorecard(run, subject=digest_bytes(b"a"), runtime="torch", runtime_version="2", chip="any")


def problems(card: Scorecard, tasks: LoadedTasks) -> list[str]:
    return marking_problems(card, tasks, order_seed=SEED)


def test_an_honest_card_holds_whole_and_stopped_early(card: Scorecard, tasks: LoadedTasks) -> None:
    assert len(card.outcomes) == AVAILABLE
    assert {type(one[0]) for one in unpack_responses(card.responses or "")} == {tuple, str}
    assert problems(card, tasks) == []
    few = unpack_responses(card.responses or "")[:10]
    early = {"outcomes": card.outcomes[:10], "responses": pack_responses(few)}
    assert problems(card.model_copy(update=early), tasks) == []


def all_right(card: Scorecard) -> dict[str, object]:
    return {"outcomes": tuple(one.model_copy(update={"value": 1.0}) for one in card.outcomes)}


def one_right(card: Scorecard) -> dict[str, object]:
    place = next(n for n, one in enumerate(card.outcomes) if one.value == 0.0)
    outcomes = list(card.outcomes)
    outcomes[place] = outcomes[place].model_copy(update={"value": 1.0})
    return {"outcomes": tuple(outcomes)}


def a_little_right(card: Scorecard) -> dict[str, object]:
    wrong = [one for one in card.outcomes if one.value == 0.0]
    return {
        "outcomes": tuple(
            one.model_copy(update={"value": 0.5}) if one is wrong[0] else one for one in card.outcomes
        )
    }


def no_responses(card: Scorecard) -> dict[str, object]:
    return {"responses": None}


def fewer_responses(card: Scorecard) -> dict[str, object]:
    return {"responses": pack_responses(unpack_responses(card.responses or "")[:-1])}


def only_those_that_are_right(card: Scorecard) -> dict[str, object]:
    kept = [n for n, one in enumerate(card.outcomes) if n % 2 == 0 or one.value == 1.0]
    given = unpack_responses(card.responses or "")
    return {
        "outcomes": tuple(card.outcomes[n] for n in kept),
        "responses": pack_responses([given[n] for n in kept]),
    }


def another_order(card: Scorecard) -> dict[str, object]:
    given = unpack_responses(card.responses or "")
    return {"outcomes": card.outcomes[::-1], "responses": pack_responses(given[::-1])}


def another_document(card: Scorecard) -> dict[str, object]:
    first = card.outcomes[0].model_copy(update={"doc_hash": "0" * 64})
    return {"outcomes": (first, *card.outcomes[1:])}


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (all_right, "its response gives 0"),
        (one_right, "its response gives 0"),
        (a_little_right, "is 0.5, its response gives 0"),
        (no_responses, "has no responses"),
        (fewer_responses, "outcomes and the responses of"),
        (only_those_that_are_right, "is not the one that has to be taken there"),
        (another_order, "its sample 1 is not the one"),
        (another_document, "its sample 1 is not the one"),
    ],
)
def test_a_card_that_does_not_follow_from_its_responses_is_found(
    card: Scorecard, tasks: LoadedTasks, lie: Callable[[Scorecard], dict[str, object]], said: str
) -> None:
    found = problems(card.model_copy(update=lie(card)), tasks)
    assert any(said in text for text in found), found
    assert len(found) <= 5


@pytest.mark.parametrize(
    "change",
    [
        lambda given: ("a text",) if isinstance(given[0], tuple) else ((-1.0, True),),
        lambda given: given[:-1],
        lambda given: (*given, given[0]),
        lambda given: (),
    ],
)
def test_responses_to_other_requests_cannot_be_marked(
    card: Scorecard,
    tasks: LoadedTasks,
    change: Callable[[tuple[Response, ...]], tuple[Response, ...]],
) -> None:
    given = unpack_responses(card.responses or "")
    forged = pack_responses([change(given[0]), *given[1:]])
    with pytest.raises(EvaluationError, match="are not those of its"):
        problems(card.model_copy(update={"responses": forged}), tasks)


def test_a_card_of_other_tasks_cannot_be_marked(card: Scorecard, tasks: LoadedTasks) -> None:
    with pytest.raises(EvaluationError, match="are not those of the scorecard"):
        marking_problems(card, tasks, order_seed=SEED + 1)


def test_the_samples_that_are_run_again_depend_on_the_secret_alone(
    card: Scorecard, tasks: LoadedTasks
) -> None:
    many = card.model_copy(update={"outcomes": card.outcomes * 3})
    drawn = [chosen_samples(many, tasks, secret=secret) for secret in ("a", "a", "b")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == SAMPLES
    assert len(chosen_samples(card, tasks, secret="a")) == AVAILABLE


@pytest.fixture(scope="module")
def again(
    card: Scorecard, word_session: RecomputingSession, word_tokenizer: Tokenizer, tasks: LoadedTasks
) -> list[Taken]:
    samples = chosen_samples(card, tasks, secret="a")
    return take_samples(word_session, word_tokenizer, tasks, samples, batch_size=4)


def test_a_second_run_of_the_same_artifact_does_not_contradict(card: Scorecard, again: list[Taken]) -> None:
    assert rerun_problems(card, again) == []


def test_near_ties_on_another_chip_do_not_contradict(card: Scorecard, again: list[Taken]) -> None:
    def nearly(given: tuple[Response, ...]) -> tuple[Response, ...]:
        return tuple((one[0] + 0.05, one[1]) if isinstance(one, tuple) else one for one in given)

    moved = [replace(one, responses=nearly(one.responses)) for one in again]
    value = 1.0 - moved[0].outcome.value
    moved[0] = replace(moved[0], outcome=moved[0].outcome.model_copy(update={"value": value}))
    assert rerun_problems(card, moved) == []


def test_responses_that_somebody_made_up_are_contradicted(
    card: Scorecard, tasks: LoadedTasks, again: list[Taken]
) -> None:
    """The liar knows the answers, and makes responses from which every outcome follows."""
    by_name = {task.name: task for task in tasks.tasks}
    made_up: list[tuple[Response, ...]] = []
    for outcome, given in zip(card.outcomes, unpack_responses(card.responses or ""), strict=True):
        document = by_name[outcome.task].documents[outcome.doc_id]
        if isinstance(given[0], str):
            made_up.append((str(by_name[outcome.task].lm_task.doc_to_target(document)),))
        else:
            right = by_name[outcome.task].lm_task.doc_to_target(document)
            made_up.append(tuple((-1.0, True) if n == right else (-9.0, False) for n in range(len(given))))
    forged = card.model_copy(update=all_right(card) | {"responses": pack_responses(made_up)})
    assert problems(forged, tasks) == []

    found = rerun_problems(forged, again)

    assert "samples that were run again contradict it" in found[0]
    assert len(found) == 4
