import httpx
import pytest

from serving.contract.problems import RequestError, SessionMovedError, UnavailableError
from serving.contract.promise import make_promise
from serving.contract.terms import Terms, agree, headers, read_terms
from tests.serving.support import make_cell, make_manifest, make_own_promise, running

TASKS = ("reasoning", "tool-calling")


def test_every_answer_carries_the_earned_tier_and_the_artifact(server):
    url, service = server
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    digest = service.promise.artifact
    for task, tier in (("tool-calling", "2"), ("reasoning", "none"), (None, "none")):
        headers = {} if task is None else {"X-Rung-Task": task}
        for stream in (True, False):
            answer = httpx.post(f"{url}/v1/completions", json=body | {"stream": stream}, headers=headers)
            assert answer.status_code == 200
            assert answer.headers["x-rung-tier"] == tier
            assert answer.headers["x-rung-artifact"] == digest
            assert "x-rung-disclosure" not in answer.headers
    for answer in (httpx.get(f"{url}/v1/models"), httpx.get(f"{url}/x"), httpx.post(f"{url}/v1/completions")):
        assert answer.headers["x-rung-artifact"] == digest


def test_a_tier_above_what_was_earned_is_a_typed_503_with_alternatives(server):
    headers = {"X-Rung-Min-Tier": "1", "X-Rung-Task": "tool-calling"}
    answer = httpx.post(
        f"{server[0]}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1}, headers=headers
    )
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-rung-tier"] == "2"
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("tier_unavailable", "server_error")
    assert "tier 2 for tool-calling" in error["message"]
    here, abroad = error["rung"]["alternatives"]
    assert (here["cell"], here["tier"], here["here"]) == ("tiny/1:fp32:cpu-x86-64-v3:onnxruntime", 1, True)
    assert (abroad["here"], abroad["gate"]) == (False, "hardware")


@pytest.mark.parametrize("choice", [{}, {"on_unavailable": "error"}, {"on_unavailable": "wait"}])
def test_nobody_is_downgraded_without_consent(choice):
    terms = Terms(min_tier=1, task="tool-calling", **choice)
    with pytest.raises(UnavailableError):
        agree(make_own_promise(), terms)


def test_who_allows_it_is_downgraded_and_told():
    got = agree(make_own_promise(), Terms(min_tier=1, task="tool-calling", on_unavailable="downgrade"))
    assert (got.tier, got.outcome) == (2, "downgraded")
    assert (
        headers(make_own_promise(), got)["X-Rung-Disclosure"]
        == "asked for tier 1 for tool-calling, served tier 2"
    )
    met = agree(make_own_promise(), Terms(min_tier=2, task="tool-calling", on_unavailable="downgrade"))
    assert met.outcome == "met"
    assert "X-Rung-Disclosure" not in headers(make_own_promise(), met)


def test_without_a_task_only_the_tier_of_all_tasks_counts():
    with pytest.raises(UnavailableError, match="no tier over all tasks"):
        agree(make_own_promise(), Terms(min_tier=2))
    assert agree(make_own_promise(default_task="tool-calling"), Terms(min_tier=2)).tier == 2


def test_a_bundle_without_a_release_has_no_tier():
    bare = make_promise(make_manifest(), context_tokens=64, sequences=1)
    assert headers(bare, agree(bare, Terms()))["X-Rung-Tier"] == "none"
    with pytest.raises(UnavailableError, match="no release has approved"):
        agree(bare, Terms(min_tier=2))


def test_a_session_stays_with_its_artifact_and_tier():
    promise = make_own_promise()
    first = headers(promise, agree(promise, Terms(task="tool-calling")))
    given = {"X-Rung-Session": first["X-Rung-Session"], "X-Rung-Task": "tool-calling"}
    again = read_terms(given, tasks=TASKS)
    assert agree(promise, again).outcome == "met"
    other = make_cell(make_manifest(recipe="fp32"), tiers={"tool-calling": 1, "reasoning": 1})
    moved = make_promise(other.manifest, context_tokens=64, sequences=1, cell=other)
    with pytest.raises(SessionMovedError, match="was answered by sha256"):
        agree(moved, again)
    got = agree(moved, read_terms({**given, "X-Rung-On-Unavailable": "downgrade"}, tasks=TASKS))
    sent = headers(moved, got)
    assert promise.artifact in sent["X-Rung-Disclosure"]
    assert sent["X-Rung-Session"].startswith(moved.artifact)


def test_a_session_that_turns_to_a_task_of_a_lower_tier_is_told():
    promise = make_own_promise()
    pinned = headers(promise, agree(promise, Terms(task="tool-calling")))["X-Rung-Session"]
    with pytest.raises(SessionMovedError, match="no tier for reasoning"):
        agree(promise, read_terms({"X-Rung-Session": pinned, "X-Rung-Task": "reasoning"}, tasks=TASKS))


def test_a_moved_session_is_a_409(session, tokenizer):
    headers = {"X-Rung-Session": "sha256:" + "0" * 64}
    with running(session, tokenizer) as (url, _):
        answer = httpx.post(
            f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1}, headers=headers
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_moved")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Rung-Min-Tier", "0"),
        ("X-Rung-Min-Tier", "best"),
        ("X-Rung-Min-Tier", "-1"),
        ("X-Rung-Min-Tier", ""),
        ("X-Rung-Min-Tier", "²"),
        ("X-Rung-Min-Tier", "9999"),
        ("X-Rung-Task", "tool-caling"),
        ("X-Rung-On-Unavailable", "panic"),
        ("X-Rung-Session", "mine"),
        ("X-Rung-Session", "sha256:0;tier=1"),
    ],
)
def test_a_header_with_a_wrong_value_is_named(header, value):
    with pytest.raises(RequestError, match=header) as caught:
        read_terms({header: value}, tasks=TASKS)
    assert caught.value.status == 400
    assert caught.value.param == header
    if header == "X-Rung-Task":
        assert "did you mean `tool-calling`" in caught.value.hint
