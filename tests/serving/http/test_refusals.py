"""What the server refuses, how it says so, and what it takes all the same: bodies, values, sizes."""

import json
from contextlib import suppress

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.support import CONTEXT, PROMPTS, complete


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"nonsense": 1}, "nonsense"),
        ({"n": 0}, "n"),
        ({"max_tokens": "12"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"echo": True, "stream": True}, "echo"),
        ({"stream_options": {}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"temperature": 1e400}, "temperature"),
        ({"model": 3}, "model"),
        ({"n": 100, "prompt": "x"}, "n"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(server, changes, param):
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2} | changes
    answer = httpx.post(f"{server[0]}/v1/completions", content=json.dumps(body))
    assert answer.status_code == 400
    error = answer.json()["error"]
    if "Infinity" not in json.dumps(body):
        assert error["param"] == param
        assert f"`{param}" in error["message"] or "sequences" in error["message"]
    assert error["rung"]["hint"]


def test_values_that_ask_for_nothing_are_accepted(client):
    asked = complete(
        client, best_of=1, suffix=None, logit_bias={}, presence_penalty=0, frequency_penalty=0.0, user="ada"
    )
    assert asked.choices[0].text == complete(client).choices[0].text


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ],
)
def test_what_a_chat_cannot_do_is_refused_by_name(server, changes, param):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]} | changes
    answer = httpx.post(f"{server[0]}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000, b"1" * 5000, b"NaN", b'{"model": "\\ud800"}'],
)
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_garbage_is_refused_clearly(server, route, content):
    answer = httpx.post(f"{server[0]}/v1/{route}", content=content)
    assert answer.status_code == 400
    assert "the request's body is not" in answer.json()["error"]["message"]


def test_a_prompt_longer_than_the_context_is_refused(client):
    for prompt, limit in (([5] * (CONTEXT + 1), 1), ([5] * CONTEXT, 1), ([5] * 10, CONTEXT)):
        with pytest.raises(openai.BadRequestError) as caught:
            complete(client, prompt=prompt, max_tokens=limit)
        assert caught.value.code == "context_length_exceeded"
    assert complete(client, prompt=[5] * (CONTEXT - 1), max_tokens=1).usage.total_tokens == CONTEXT


def test_a_text_longer_than_the_context_is_refused_before_it_is_read(client, server):
    most = server[1].model.max_body_bytes
    for text in ("a " * 40_000, "x" * 100_000, "…" * 30_000, "\n" * 50_000):
        assert len(json.dumps(text)) < most or "…" in text
        with pytest.raises(openai.BadRequestError) as caught:
            complete(client, prompt=[PROMPTS[0], text], max_tokens=1)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": text}])
        assert caught.value.code == "context_length_exceeded"


def test_a_prompt_of_the_whole_context_is_taken_in_every_spelling(client, server, tokenizer):
    text = "\u00e4\u00f6 \u4e2d" * 2000
    room = CONTEXT - 1
    while len(tokenizer.encode(text)) > room:
        text = text[:-8]
    body = {"model": "tiny", "prompt": text, "max_tokens": 1, "temperature": 0}
    for ascii_only in (True, False):
        data = json.dumps(body, ensure_ascii=ascii_only).encode()
        answer = httpx.post(f"{server[0]}/v1/completions", content=data, timeout=60)
        assert answer.json()["usage"]["prompt_tokens"] == len(tokenizer.encode(text))
    batch = [tokenizer.encode(text)] * 32
    assert complete(client, prompt=batch, max_tokens=1).usage.prompt_tokens == 32 * len(batch[0])


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "tiny", "prompt": [' + b"1," * 60_000 + b"1]}",
        b'{"model": "tiny", "prompt": [' + b'"a",' * 30_000 + b'"a"]}',
        b'{"model": "tiny", "prompt": [[' + b'"a",' * 30_000 + b'"a"]]}',
        b'{"model": "tiny", "prompt": [' + b"[]," * 40_000 + b"[]]}",
        b"{" + b",".join(b'"k%d": 1' % number for number in range(15_000)) + b"}",
        json.dumps({"model": "tiny", "messages": [{f"k{n}": 1 for n in range(10_000)}]}).encode(),
        b'{"model": "' + b"x" * 150_000 + b'", "prompt": "a"}',
        json.dumps({"model": "tiny", "prompt": "a", "stop": ["b" * 5000]}).encode(),
        json.dumps({"model": "tiny", "prompt": "a", "tools": [["x"] * 20_000]}).encode(),
        b'{"model": "tiny", "prompt": ' + b"[" * 100_000,
    ],
)
def test_a_body_of_very_many_parts_is_refused_in_a_few_words(server, body):
    answer = httpx.post(f"{server[0]}/v1/completions", content=body, timeout=60)
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 2000


def test_other_refusals_have_their_status(server):
    url = server[0]
    assert httpx.get(f"{url}/v1/completions").status_code == 405
    assert httpx.get(f"{url}/nothing").json()["error"]["code"] == "not_found"
    big = b'{"model": "tiny", "prompt": "' + b"x" * (17 << 20) + b'"}'
    answer = httpx.post(f"{url}/v1/completions", content=big)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    def pieces():
        for _ in range(18):
            yield b"x" * (1 << 20)

    with suppress(httpx.WriteError):  # the server hung up before it was all sent
        assert httpx.post(f"{url}/v1/completions", content=pieces()).status_code == 413
    assert httpx.get(f"{url}/healthz").json() == {"status": "alive"}
    assert httpx.get(f"{url}/readyz").status_code == 200


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


FIELDS = [
    "prompt",
    "messages",
    "model",
    "n",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "echo",
    "user",
    "tools",
    "logit_bias",
    "best_of",
    "response_format",
    "ignore_eos",
    "max_completion_tokens",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=5),
    route=st.sampled_from(["completions", "chat/completions"]),
    base=st.booleans(),
)
def test_no_request_is_an_internal_error(server, body, route, base):
    start = (
        {"model": "tiny", "prompt": "x", "max_tokens": 1}
        if route == "completions"
        else {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 1,
        }
    )
    data = json.dumps((start if base else {}) | body)
    answer = httpx.post(f"{server[0]}/v1/{route}", content=data, timeout=30)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
