import threading
import time

import httpx
import openai
import pytest

from tests.serving.support import CONTEXT, PROMPTS, TorchSession, complete, running


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


def test_an_answer_with_very_many_log_probabilities_is_the_same(client, server):
    few = complete(client, logprobs=20, max_tokens=40)
    many = complete(client, logprobs=20, max_tokens=60, echo=True)
    both = many.choices[0].logprobs.top_logprobs[len(PROMPTS[0].split()) :]
    assert few.choices[0].logprobs.top_logprobs[0] in both


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
