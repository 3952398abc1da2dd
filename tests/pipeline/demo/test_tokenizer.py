from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.tasks.words import VOCABULARY

pytest.importorskip("transformers", reason="install `rung[build]`")

from evals.tasks.catalog import TASK_TYPES
from evals.tasks.draw import Draw
from evals.tasks.scene import draw_scene
from pipeline.demo.corpus import collate, task_document
from pipeline.demo.tokenizer import build_tokenizer, word_ids

TOKENIZER = build_tokenizer()
texts = st.lists(
    st.one_of(st.sampled_from(VOCABULARY), st.text("abcXYZ019-_{}", min_size=1, max_size=6)),
    min_size=1,
    max_size=12,
).map(" ".join)


@given(context=texts, continuation=texts)
def test_ids_of_a_continued_context_are_those_of_both_parts(context: str, continuation: str) -> None:
    whole = TOKENIZER.encode(f"{context} {continuation}")
    assert whole == TOKENIZER.encode(context) + TOKENIZER.encode(f" {continuation}", add_special_tokens=False)


@given(text=texts)
def test_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=True) == text


@given(text=st.text(max_size=40))
def test_any_text_can_be_encoded(text: str) -> None:
    assert TOKENIZER.encode(text)[0] == TOKENIZER.bos_token_id


def test_every_word_of_the_tasks_has_one_id() -> None:
    ids = word_ids()
    for word in VOCABULARY:
        assert TOKENIZER.encode(word, add_special_tokens=False) == [ids[word]]


@pytest.fixture(params=range(len(TASK_TYPES)), ids=list(TASK_TYPES))
def document_ids(request: Any) -> tuple[str, list[int]]:
    document = task_document(Draw(3), kind=request.param)
    return " ".join(document.words[1:-1]), collate([document]).inputs[0].tolist()


def test_training_reads_what_the_tokenizer_writes(document_ids: tuple[str, list[int]]) -> None:
    text, ids = document_ids
    assert TOKENIZER.encode(text) == ids


def test_a_chat_renders_as_a_training_document() -> None:
    scene = draw_scene(TASK_TYPES["retrieval"].source, Draw(3), split="train")
    first, second = (scene.ask(Draw(seed), "generate") for seed in (1, 2))
    chat = [
        {"role": "user", "content": f"{scene.context} {first.text}"},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": second.text},
    ]
    rendered = TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == f"<s> {scene.context} {first.text} {first.answer} . </s> {second.text}"
