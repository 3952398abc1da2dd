import json
import threading
import time
from contextlib import suppress

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.support import CONTEXT, TorchSession, running

PROMPTS = ["the quick brown fox", "call the tool", "one two three", "naïve café", "weather in Paris", "{"]


def complete(client, prompt="the quick brown fox", **more):
    values = {"model": "tiny", "max_tokens": 12, "temperature": 0} | more
    return client.completions.create(prompt=prompt, **values)


def reference(session, tokens, count):
    """Greedy tokens straight from the session's model, in one go without a cache."""
    torch = session.torch
    ids = list(tokens)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(session.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(tokens) :]


def test_a_completion_is_the_models_own_greedy_text(client, session, tokenizer):
    answer = complete(client)
    expected = reference(session, tokenizer.encode("the quick brown fox"), 12)
    assert 1 not in expected
    assert answer.choices[0].text == tokenizer.decode(expected)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(tokenizer.encode("the quick brown fox"))
    assert answer.usage.completion_tokens == 12


def test_every_form_of_prompt_is_taken(client, tokenizer):
    text = PROMPTS[0]
    tokens = tokenizer.encode(text)
    forms = [text, [text], tokens, [tokens]]
    assert len({complete(client, prompt=form).choices[0].text for form in forms}) == 1
    several = complete(client, prompt=PROMPTS)
    assert [choice.index for choice in several.choices] == list(range(len(PROMPTS)))
    assert [c.text for c in several.choices] == [complete(client, prompt=p).choices[0].text for p in PROMPTS]


def test_a_stream_gives_the_same_text_and_its_usage(client):
    whole = complete(client)
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    counted = {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert chunks[-1].usage.model_dump(include=counted) == whole.usage.model_dump(include=counted)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert len(chunks) > 3


def test_a_stream_of_several_choices_tells_them_apart(client):
    chunks = complete(client, prompt=PROMPTS[:2], n=2, seed=5, temperature=1, stream=True)
    texts = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    whole = complete(client, prompt=PROMPTS[:2], n=2, seed=5, temperature=1)
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert len(set(texts.values())) == 4


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_text_ends_before_a_stop_string_wherever_token_borders_fall(client, length):
    whole = complete(client, max_tokens=40).choices[0].text
    clean = [at for at in range(4, len(whole) - length) if "�" not in whole[at : at + length]]
    assert clean
    for at in clean[:6]:
        stop = whole[at : at + length]
        answer = complete(client, max_tokens=40, stop=[stop, "not there"])
        assert answer.choices[0].text == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        chunks = complete(client, max_tokens=40, stop=stop, stream=True)
        assert "".join(c.choices[0].text for c in chunks) == whole[: whole.index(stop)]


def test_a_seed_gives_the_same_tokens_whatever_runs_beside(client):
    alone = complete(client, seed=11, temperature=1, max_tokens=30).choices[0].text
    beside = {}

    def ask(number):
        beside[number] = complete(
            client, prompt=PROMPTS[number % 6], seed=number, temperature=1, max_tokens=30
        )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    again = complete(client, seed=11, temperature=1, max_tokens=30).choices[0].text
    [thread.join() for thread in threads]
    assert again == alone
    assert complete(client, seed=12, temperature=1, max_tokens=30).choices[0].text != alone
    assert (
        complete(client, seed=-3, temperature=1).choices[0].text
        == complete(client, seed=-3, temperature=1).choices[0].text
    )


def test_requests_at_the_same_time_run_in_one_batch_and_equal_sequential_ones(client, server, session):
    alone = [complete(client, prompt=prompt, max_tokens=40).choices[0].text for prompt in PROMPTS]
    session.calls.clear()
    session.gate.clear()
    found = {}

    def ask(number):
        found[number] = complete(client, prompt=PROMPTS[number], max_tokens=40).choices[0].text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(PROMPTS))]
    [thread.start() for thread in threads]
    wait_for(lambda: server[1].engine.stats().waiting + server[1].engine.stats().running == len(PROMPTS))
    session.gate.set()
    [thread.join() for thread in threads]
    assert [found[number] for number in range(len(PROMPTS))] == alone
    assert max(len(call) for call in session.calls) == 4, "four slots decode together"


def test_logprobs_are_those_of_the_model(client, session, tokenizer):
    answer = complete(client, logprobs=3, echo=True, max_tokens=2)
    tokens = tokenizer.encode(PROMPTS[0])
    tokens += reference(session, tokens, 2)
    with session.torch.inference_mode():
        expected = session.model(session.torch.tensor([tokens])).logits[0].log_softmax(-1)
    scores = answer.choices[0].logprobs
    assert scores.token_logprobs[0] is None
    assert scores.top_logprobs[0] is None
    assert len(scores.tokens) == len(scores.text_offset) == len(tokens)
    for at in range(1, len(tokens)):
        assert scores.token_logprobs[at] == pytest.approx(float(expected[at - 1, tokens[at]]), abs=1e-4)
        top = scores.top_logprobs[at]
        assert max(top.values()) == pytest.approx(float(expected[at - 1].max()), abs=1e-4)
        assert 3 <= len(top) <= 4
    assert scores.token_logprobs[-1] == max(scores.top_logprobs[-1].values()), (
        "a greedy token is its place's best"
    )
    assert answer.choices[0].text.startswith(PROMPTS[0])


def test_echo_without_new_tokens_only_scores(client, tokenizer):
    answer = complete(client, echo=True, logprobs=0, max_tokens=0)
    assert answer.choices[0].text == PROMPTS[0]
    assert len(answer.choices[0].logprobs.tokens) == len(tokenizer.encode(PROMPTS[0]))
    assert answer.usage.completion_tokens == 0


def test_long_prompts_are_scored_in_parts_and_alike(client, server, session, monkeypatch):
    prompt = [3 + number % 300 for number in range(CONTEXT - 2)]
    whole = complete(client, prompt=prompt, echo=True, logprobs=1, max_tokens=1)
    monkeypatch.setattr("serving.engine.engine.LOGIT_BYTES", 4 * 400 * 20)
    session.calls.clear()
    parts = complete(client, prompt=prompt, echo=True, logprobs=1, max_tokens=1)
    assert len(session.calls) > 5
    first, second = whole.choices[0].logprobs.token_logprobs, parts.choices[0].logprobs.token_logprobs
    assert second[1:] == pytest.approx(first[1:], abs=1e-4)


def test_a_chat_uses_the_checkpoints_own_template(client, tokenizer, checkpoint):
    from transformers import AutoTokenizer

    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, temperature=0)
    prompt = AutoTokenizer.from_pretrained(checkpoint).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    plain = complete(client, prompt=list(prompt), max_tokens=8)
    assert answer.choices[0].message.content == plain.choices[0].text
    assert answer.usage.prompt_tokens == len(prompt)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 8


def test_chat_logprobs_name_tokens_and_bytes(client):
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=6,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 6
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in content)
    text = answer.choices[0].message.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode(errors="replace") == text
    whole = [entry for entry in content if not entry.token.startswith("token_id:")]
    assert whole
    assert all(bytes(entry.bytes).decode() == entry.token for entry in whole)


def test_the_next_turn_of_a_chat_reuses_what_was_read(client):
    messages = [{"role": "user", "content": "one two three four five six seven " * 3}]
    first = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, temperature=0)
    messages += [
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "call the tool"},
    ]
    second = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens // 2


def test_models_are_listed_with_their_evidence(client):
    [model] = client.models.list().data
    assert model.id == "tiny-family"
    assert model.model_extra["rung"]["tiers"] == {"tool-calling": 2, "reasoning": None}
    assert client.models.retrieve("tiny/1").id == "tiny/1"


def test_every_name_of_the_model_is_served(client, server):
    for name in server[1].promise.models:
        assert complete(client, model=name, max_tokens=1).model == "tiny-family"
    with pytest.raises(openai.NotFoundError) as caught:
        complete(client, model="tinny")
    assert caught.value.code == "model_not_found"
    assert "did you mean `tiny`" in caught.value.body["rung"]["hint"]


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


def test_an_answer_with_very_many_log_probabilities_is_the_same(client, server):
    few = complete(client, logprobs=20, max_tokens=40)
    many = complete(client, logprobs=20, max_tokens=60, echo=True)
    both = many.choices[0].logprobs.top_logprobs[len(PROMPTS[0].split()) :]
    assert few.choices[0].logprobs.top_logprobs[0] in both


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


def test_a_caller_who_hangs_up_frees_the_slot(server, session):
    url, service = server
    before = service.engine.stats()
    body = {"model": "tiny", "prompt": "x", "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    for stream in (True, False):
        session.gate.clear()
        with httpx.Client() as caller:
            request = caller.build_request("POST", f"{url}/v1/completions", json=body | {"stream": stream})
            request.extensions["timeout"] = {"connect": 5, "read": 0.3, "write": 5, "pool": 5}
            with pytest.raises(httpx.ReadTimeout):
                next(caller.send(request, stream=True).iter_bytes())
        session.gate.set()
        wait_for(lambda: service.engine.stats().running == 0)
    after = service.engine.stats()
    assert after.cancelled - before.cancelled == 2
    assert after.completion_tokens - before.completion_tokens < 200


def test_a_failed_step_fails_its_requests_and_no_others(client, session):
    session.failures = 1
    with pytest.raises(openai.InternalServerError) as caught:
        complete(client)
    assert caught.value.status_code == 500
    assert "fell over" not in str(caught.value), "internals do not reach callers"
    assert complete(client).choices[0].text


def test_a_full_queue_is_told_with_retry_after_and_waiting_is_bounded(session, tokenizer):
    from serving.engine.engine import Limits

    limits = Limits(slots=1, capacity=CONTEXT, queued=1)
    with running(session, tokenizer, limits=limits, max_wait_s=0.5) as (url, service):
        session.gate.clear()
        body = {"model": "tiny", "prompt": "x", "max_tokens": 2}
        threads = [
            threading.Thread(
                target=httpx.post, args=(f"{url}/v1/completions",), kwargs={"json": body, "timeout": 30}
            )
            for _ in range(2)
        ]
        [thread.start() for thread in threads]
        wait_for(lambda: service.engine.stats().running + service.engine.stats().waiting == 2)
        refused = httpx.post(f"{url}/v1/completions", json=body)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "overloaded"
        begin = time.monotonic()
        waited = httpx.post(
            f"{url}/v1/completions", json=body, headers={"X-Rung-On-Unavailable": "wait"}, timeout=30
        )
        assert waited.status_code == 503
        assert time.monotonic() - begin >= 0.5
        threading.Timer(0.2, session.gate.set).start()
        waited = httpx.post(
            f"{url}/v1/completions", json=body, headers={"X-Rung-On-Unavailable": "wait"}, timeout=30
        )
        assert waited.status_code == 200
        [thread.join() for thread in threads]


def test_metrics_count_requests_tokens_and_sequences(session, tokenizer):
    with running(session, tokenizer, region="eu", default_task="tool-calling") as (
        url,
        service,
    ):
        body = {"model": "tiny", "prompt": "one two", "max_tokens": 3, "ignore_eos": True}
        assert httpx.post(f"{url}/v1/completions", json=body).headers["x-rung-region"] == "eu"
        httpx.post(f"{url}/v1/completions", json=body | {"model": "x"})
        wait_for(lambda: service.engine.stats().finished == 1)
        text = httpx.get(f"{url}/metrics").text
    labels = 'decision="met",route="/v1/completions",status="200",task="tool-calling",tier="2"'
    assert f"rung_requests_total{{{labels}}} 1.0" in text
    assert 'status="404"' in text
    assert 'rung_tokens_total{kind="completion"} 3.0' in text
    assert 'rung_sequences_total{how="finished"} 1.0' in text


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_session_that_gives_nonsense_is_an_error_of_its_own_sequence(checkpoint, tokenizer):
    session = TorchSession(checkpoint)
    with session.torch.no_grad():
        session.model.lm_head.weight[7] = float("nan")
    with running(session, tokenizer) as (url, service):
        answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "load")
        wait_for(lambda: service.engine.stats().running == 0)
        assert service.engine.healthy
