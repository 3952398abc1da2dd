"""Reloads of a running server, over a session whose steps the test can hold."""

import json
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from registry.errors import LoadError
from serving.http.reload import Reload
from serving.node.open import make_node
from tests.serving.support import TorchSession, make_checkpoint, make_model, running

PATIENCE_S = 60


@pytest.fixture(scope="module")
def other_session(tmp_path_factory):
    return TorchSession(make_checkpoint(tmp_path_factory.mktemp("other"), seed=1))


@contextmanager
def reloading(session, tokenizer, open_next):
    """A server, what asks it to reload, and what it tells of it."""
    told = []

    def tell(promise, number, outcome):
        told.append((promise.artifact, number, outcome.outcome))

    reload = Reload(open_next, tell=tell)
    with running(session, tokenizer, reload=reload) as (url, service):
        yield url, service, reload, told


def next_node(session, tokenizer, *, recipe="w8g64-rtn"):
    return make_node(make_model(session, tokenizer, recipe=recipe), runtimes={"onnxruntime": "1.0"})


def reload_once(url, reload):
    """Ask, and wait for what `/v1/models` says of it."""
    before = last_reload(url)
    reload.wanted.set()
    return wait_for(
        lambda: (found := last_reload(url)) and found != before and found["outcome"] != "running" and found
    )


def last_reload(url):
    return httpx.get(f"{url}/v1/models").json()["data"][0]["rung"]["reload"]


def wait_for(condition):
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)
    return found


def complete(url, **more):
    body = {"model": "tiny", "prompt": "the quick brown", "max_tokens": 8, "temperature": 0, **more}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_request_in_flight_ends_on_the_old_artifact_and_a_new_one_gets_the_new(
    session, other_session, tokenizer
):
    new = next_node(other_session, tokenizer)
    with reloading(session, tokenizer, lambda _node, _models: new) as (url, service, reload, told):
        expected_old = complete(url, max_tokens=40, ignore_eos=True).json()["choices"][0]["text"]
        lines, begun = [], threading.Event()

        def ask():
            body = {
                "model": "tiny", "prompt": "the quick brown", "max_tokens": 40, "temperature": 0,
                "ignore_eos": True, "stream": True,
            }  # fmt: skip
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
                artifacts.append(answer.headers["x-rung-artifact"])
                for line in answer.iter_lines():
                    lines.append(line)
                    if not begun.is_set():
                        session.gate.clear()
                        begun.set()

        artifacts = []
        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(PATIENCE_S)
        assert reload_once(url, reload)["outcome"] == "done"
        after = complete(url)
        assert after.headers["x-rung-artifact"] == new.promise.artifact
        wait_for(lambda: httpx.get(f"{url}/readyz").headers["x-rung-artifact"] == new.promise.artifact)
        assert service.engine.healthy, "it still has a request"
        session.gate.set()
        asking.join(PATIENCE_S)
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert "data: [DONE]" in lines
        assert artifacts == [service.promise.artifact]
        assert {event["system_fingerprint"] for event in events} == {service.model.fingerprint}
        assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == expected_old
        wait_for(lambda: not service.engine.healthy)
        assert told[-1] == (new.promise.artifact, 1, "done")
        metrics = httpx.get(f"{url}/metrics").text
        assert 'rung_reloads_total{outcome="done"} 1.0' in metrics
        assert metrics.count("rung_artifact_info{") == 1
        assert new.promise.artifact in metrics
        assert 'rung_sequences_total{how="finished"} 3.0' in metrics, "counts go on over the change"


def test_what_cannot_be_opened_leaves_the_old_one_and_the_reason_in_status_and_log(
    session, tokenizer, caplog
):
    problems = [LoadError("it needs 9 GiB", hint="restart instead"), RuntimeError("a library's own")]

    def open_next(_node, _models):
        raise problems.pop(0)

    with reloading(session, tokenizer, open_next) as (url, service, reload, told):
        found = reload_once(url, reload)
        assert (found["outcome"], found["release"]) == ("refused", "r1")
        assert found["error"] == {"code": "load", "message": "it needs 9 GiB", "hint": "restart instead"}
        assert "it needs 9 GiB" in caplog.text
        assert complete(url).headers["x-rung-artifact"] == service.promise.artifact
        found = reload_once(url, reload)
        assert found["error"]["code"] == "internal"
        assert "RuntimeError: a library's own" in caplog.text
        assert complete(url).headers["x-rung-artifact"] == service.promise.artifact
        assert [(number, outcome) for _, number, outcome in told] == [
            (1, "running"), (1, "refused"), (2, "running"), (2, "refused"),
        ]  # fmt: skip


def test_nothing_new_changes_nothing(session, tokenizer):
    with reloading(session, tokenizer, lambda node, _models: node) as (url, service, reload, _):
        assert last_reload(url) is None
        assert reload_once(url, reload)["outcome"] == "unchanged"
        assert service.engine.healthy
        assert complete(url).headers["x-rung-artifact"] == service.promise.artifact


def test_another_release_of_the_same_artifact_keeps_the_engine(session, tokenizer):
    def open_next(node, models):
        assert [model.session for model in models] == [session]
        release = node.model.release.model_copy(update={"name": "r2", "version": 2})
        return make_node(models[0].approved_by(release), runtimes={"onnxruntime": "1.0"})

    with reloading(session, tokenizer, open_next) as (url, service, reload, _):
        before = complete(url).json()
        assert reload_once(url, reload)["release"] == "r2"
        listed = httpx.get(f"{url}/v1/models").json()["data"][0]["rung"]
        assert (listed["release"], listed["artifact"]) == ("r2", service.promise.artifact)
        assert complete(url).json()["choices"] == before["choices"]
        assert service.engine.healthy, "it is the new service's too"


def test_a_reload_that_is_asked_for_during_another_comes_after_it(session, tokenizer):
    entered, go = threading.Event(), threading.Event()

    def open_next(node, _models):
        entered.set()
        assert go.wait(PATIENCE_S)
        return node

    with reloading(session, tokenizer, open_next) as (url, _, reload, told):
        reload.wanted.set()
        assert entered.wait(PATIENCE_S)
        reload.wanted.set()
        assert complete(url), "it answers meanwhile"
        go.set()
        wait_for(lambda: len(told) == 4)
        assert [number for _, number, _ in told] == [1, 1, 2, 2]
