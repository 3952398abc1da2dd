"""Agreement: equal answers, ties that rounding explains, and everything else is a contradiction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compilers.check.float_error import FloatError
from compilers.model.torch_reference import TorchSession
from evals.agreement import (
    ChatAnswer,
    Comparison,
    Difference,
    GreedyChoice,
    ReferenceAnswer,
    answer_choice,
    compare_answer,
    compare_outcome,
    forced_logits,
    logit_bounds,
    token_choices,
)

CLEAR, TIE = GreedyChoice(lead=2.0, bound=0.001), GreedyChoice(lead=0.0005, bound=0.001)


def reference(*texts: str, ended: bool = False, tie_at: int | None = None) -> ReferenceAnswer:
    choices = tuple(TIE if place == tie_at else CLEAR for place in range(len(texts)))
    return ReferenceAnswer(texts=texts, choices=choices, ended=ended)


def test_equal_answers_have_no_difference() -> None:
    theirs = reference("It", "It is", "It is", ended=True)
    assert compare_answer("1", ours=ChatAnswer("It is", ended=True), reference=theirs) is None


@pytest.mark.parametrize(
    ("text", "ended", "place"),
    [
        ("Is it", False, 0),
        ("It was so", False, 1),
        ("It is", True, 2),  # it stopped where the reference went on
        ("It is so", True, 2),  # the same text, and a stop token that the reference did not give
        ("It is so far", False, 2),
    ],
)
def test_two_answers_part_at_the_first_token_that_differs(text: str, ended: bool, place: int) -> None:
    for tie_at in range(3):
        theirs = reference("It", "It is", "It is so", tie_at=tie_at)
        found = compare_answer("1", ours=ChatAnswer(text, ended=ended), reference=theirs)
        assert found is not None
        assert found.choice.is_tie == (tie_at == place)


def test_the_first_bytes_of_a_character_make_no_difference() -> None:
    theirs = reference("a \ufffd", "a é", "a éb", tie_at=2)
    found = compare_answer("1", ours=ChatAnswer("a éc", ended=False), reference=theirs)
    assert found is not None
    assert found.choice.is_tie


def test_an_outcome_that_differs_is_held_against_the_closest_choice() -> None:
    assert compare_outcome("1", ours=1.0, reference=1.0, choices=[CLEAR]) is None
    tied = compare_outcome("1", ours=0.0, reference=1.0, choices=[CLEAR, TIE, CLEAR])
    assert tied is not None
    assert tied.choice == TIE
    clear = compare_outcome("1", ours=0.0, reference=1.0, choices=[CLEAR, CLEAR])
    assert clear is not None
    assert not clear.choice.is_tie


@given(st.integers(0, 300), st.integers(0, 12), st.integers(0, 3))
def test_agreement_holds_with_two_per_cent_of_ties_and_no_contradiction(
    compared: int, ties: int, others: int
) -> None:
    differences = tuple(Difference("x", "a", "b", choice) for choice in (*[TIE] * ties, *[CLEAR] * others))
    found = Comparison(compared, differences)
    assert (len(found.ties), len(found.contradictions)) == (ties, others)
    assert found.holds == (compared > 0 and others == 0 and 50 * ties <= compared)


def test_a_choice_of_tokens_is_led_by_the_difference_of_the_two_largest_logits() -> None:
    logits = np.array([[0.0, 3.0, 1.0], [5.0, 5.0, -1.0]], np.float32)
    found = token_choices(logits, bounds=np.array([0.5, 0.5]))
    assert found == (GreedyChoice(2.0, 0.5), GreedyChoice(0.0, 0.5))


def test_a_choice_of_answers_is_led_by_the_two_best_scores_and_bound_by_theirs() -> None:
    assert answer_choice([-9.0, -4.0, -5.5], bounds=[9.0, 0.1, 0.2]) == GreedyChoice(1.5, pytest.approx(0.3))


def test_the_bound_of_a_position_is_a_multiple_of_the_reference_s_own_error_there() -> None:
    error = FloatError(np.array([1e-5, 2e-5], np.float32), np.ones(3, np.float32), largest=1e-4)
    assert logit_bounds(error) == pytest.approx([3e-4, 6e-4])
    assert logit_bounds(error, factor=2.0) == pytest.approx([6e-4, 12e-4])


def test_forced_logits_are_those_from_which_transformers_chose_its_answer(byte_checkpoint: Path) -> None:
    session = TorchSession(byte_checkpoint)
    prompts = [[5, 9, 33, 80], [7, 8], [60, 61, 62, 63, 64, 65]]
    answers, wanted = [], []
    for prompt in prompts:
        out = session.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=7,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        answers.append(out.sequences[0, len(prompt) :].tolist())
        wanted += [logits[0].numpy() for logits in out.logits]
    found = forced_logits(session, prompts=prompts, answers=answers)
    assert found == pytest.approx(np.array(wanted), abs=1e-4)
    assert found.argmax(-1).tolist() == [token for answer in answers for token in answer]
