"""Responses come back as they were packed; anything else is an evaluation error."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.responses import pack_responses, unpack_responses
from registry.errors import EvaluationError

numbers = st.floats(allow_nan=False)
texts = st.text(st.characters())
responses = texts | numbers | st.tuples(numbers, st.booleans())


@given(st.lists(st.lists(responses, max_size=5).map(tuple), max_size=10))
def test_responses_come_back_as_they_were_packed(samples: list[tuple[object, ...]]) -> None:
    assert unpack_responses(pack_responses(samples)) == samples


def test_a_thousand_multiple_choice_samples_take_less_than_80_kilobytes() -> None:
    samples = [tuple((-1 / (1 + n * 4 + k), n % 4 == k) for k in range(4)) for n in range(1000)]
    assert len(pack_responses(samples)) < 80_000


def _packed(document: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()


@pytest.mark.parametrize(
    "packed",
    [
        "",
        "not base64!",
        base64.b64encode(b"not deflated").decode(),
        _packed({"a": 1}),
        _packed([1]),
        _packed([[True]]),
        _packed([[[0.5, 1]]]),
        _packed([[[0.5]]]),
        _packed([[None]]),
        pack_responses([("a text",)])[:-8],
        base64.b64encode(zlib.compress(b"[" * 100_000)).decode(),
    ],
)
def test_what_is_not_packed_responses_is_refused(packed: str) -> None:
    with pytest.raises(EvaluationError, match="cannot be read"):
        unpack_responses(packed)


def test_a_text_that_inflates_to_more_than_any_scorecard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.responses.MAX_BYTES", 1000)
    with pytest.raises(EvaluationError, match="cut off or too long"):
        unpack_responses(_packed([["a" * 5000]]))
