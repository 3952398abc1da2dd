"""Conversations as clients send them back, through the `openai` client and as bare JSON."""

import json

import httpx
import pytest
from openai.types.chat import ChatCompletionMessage

from compilers.model.tokenizer import Tokenizer
from serving.openai.messages import ChatMessage, plain_forms
from tests.serving.support import make_checkpoint, running

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TEMPLATES = {
    "documented": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments | tojson }})"
        "{% endfor %}{% endfor %}"
    ),
    "joins content": "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}",
    "joins arguments": (
        "{% for m in messages %}{{ '[' + m.role + ']' + (m.content or '') }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name + ' ' + c.function.arguments }}"
        "{% endfor %}{% endfor %}"
    ),
}


@pytest.fixture(scope="module", params=TEMPLATES)
def asking(request, tmp_path_factory, session):
    """A function that posts messages to a server of a checkpoint with one of the templates."""
    path = make_checkpoint(tmp_path_factory.mktemp("chat"))
    (path / "chat_template.jinja").write_text(TEMPLATES[request.param])
    with running(session, Tokenizer.from_directory(path, add_bos=True)) as (url, _):

        def ask(*messages, **more):
            body = {"model": "tiny", "messages": list(messages), "max_tokens": 2} | more
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)

        yield ask


@pytest.mark.parametrize(
    "turn",
    [
        ChatCompletionMessage(role="assistant", content="x").model_dump(),
        {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None, "audio": None},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "not JSON"}},
        {"role": "assistant", "tool_calls": [CALL | {"index": 0, "extra": None}]},
        {"role": "assistant", "content": "x", "tool_calls": [], "annotations": [], "refusal": None},
        {"role": "assistant", "content": "x", "reasoning_content": "because"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no", "text": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "x", "cache_control": None}]},
        {"role": "assistant", "content": "x", "name": "ada", "anything": None},
    ],
)
def test_an_answer_is_taken_back_as_clients_send_it(asking, turn):
    answer = asking(USER, turn, {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "1"}, USER)
    assert answer.status_code == 200, answer.text


def test_the_servers_own_answer_is_taken_back_whole(asking):
    message = asking(USER).json()["choices"][0]["message"]
    assert asking(USER, message, USER).status_code == 200


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (
            {"content": [{"type": "text", "text": "A", "cache_control": {}}]},
            "messages.0.content.0.cache_control",
        ),
        ({"content": [{"type": "image_url", "image_url": {}}]}, "messages.0.content.0.image_url"),
        ({"content": "x", "weight": 1}, "messages.0.weight"),
        ({"content": "x", "audio": {"id": "a"}}, "messages.0.audio"),
        ({"content": "x", "<text>": 1}, "messages.0.<text>"),
        ({"content": 3}, "messages.0.content"),
        ({"content": [3]}, "messages.0.content.0"),
        ({"content": None}, "messages.0"),
        ({"content": [{"type": "text"}]}, "messages.0.content.0"),
        ({"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}, "messages.0.tool_calls.0.type"),
        (
            {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "strict": True}}]},
            "messages.0.tool_calls.0.function.strict",
        ),
    ],
)
def test_a_refusal_names_the_place_that_is_in_the_way(asking, message, place):
    answer = asking({"role": "user"} | message)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages")
    assert f"`{place}`" in error["message"].split("(got")[0]


def test_every_unknown_key_is_named(asking):
    part = {"type": "text", "text": "A", "one": 1}
    error = asking({"role": "user", "content": [part | {"two": 2}]}, seven=7).json()["error"]
    for place in ("messages.0.content.0.one", "messages.0.content.0.two", "seven"):
        assert f"`{place}`" in error["message"]
    options = asking(USER, stream=True, stream_options={"include_usage": True, "other": 1}).json()["error"]
    assert "`stream_options.other`" in options["message"]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"prompt": ["a", 1]}, "prompt.1"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [[1], [2, "b"]]}, "prompt.1.1"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"stop": ["x", 1]}, "stop.1"),
        ({"stop": 3}, "stop"),
    ],
)
def test_a_form_that_was_not_meant_is_not_named(server, changes, place):
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1} | changes
    error = httpx.post(f"{server[0]}/v1/completions", json=body).json()["error"]
    assert f"parameter `{place}`:" in error["message"]
    assert "more" not in error["message"]


def test_the_documented_form_comes_first():
    turns = [ChatMessage.model_validate(turn) for turn in (USER, {"role": "assistant", "tool_calls": [CALL]})]
    first, *others = plain_forms(turns)
    assert "content" not in first[1]
    assert first[1]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert json.loads(others[-1][1]["tool_calls"][0]["function"]["arguments"]) == {"x": 1}
    assert others[-1][1]["content"] == ""
    assert plain_forms(turns[:1]) == [[USER]]
