import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from compilers.model import template_process
from compilers.model.chat_template import ChatTemplate
from compilers.model.template_process import TemplateError, render_apart
from registry.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
DOUBLED = (
    "{%% set n = namespace(x='ab') %%}{%% for i in range(%d) %%}{%% set n.x = n.x ~ n.x %%}{%% endfor %%}"
    "{{ n.x }}"
)
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "RENDER_S", 0.5)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ 'a'|center(10**10) }}",
        "{{ '%9999999999d'|format(1) }}",
        "{{ [0] * 10**10 }}",
        "{{ 9**(9**9) }}",
        "{{ lipsum(n=10000000) }}",
        DOUBLED % 60,
        DOUBLED % 24,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    ],
)
def test_a_template_without_end_is_ended_and_the_next_one_is_rendered(source: str) -> None:
    with pytest.raises(ConfigurationError, match="refuses this conversation"):
        ChatTemplate({"default": source}, {}, "x").render(CHAT)
    assert render_apart("{{ messages[0].content }}", {"messages": CHAT}) == "hi"


def test_what_jinja_gives_for_a_value_survives_the_pipe() -> None:
    values = [None, True, 1, 10**30, 1.5, float("inf"), "größer 😀", "\ud800", {1: "a", "b": [None]}, []]
    assert render_apart("{{ v }}", {"v": values}) == str(values)


def test_threads_get_their_own_texts() -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = render_apart("{{ 'x' * n }}", {"n": number * 1000})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == {number: "x" * (number * 1000) for number in range(16)}


def test_a_process_that_was_killed_while_idle_is_started_again() -> None:
    render_apart("x", {})
    process = template_process._PROCESS._process
    assert process is not None
    process.kill()
    process.wait()
    assert render_apart("{{ 1 + 1 }}", {}) == "2"


def test_a_fork_starts_a_process_of_its_own() -> None:
    code = """
import os
from compilers.model.template_process import render_apart, _PROCESS
render_apart("x", {})
mine = _PROCESS._process.pid
if (child := os.fork()) == 0:
    other = render_apart("{{ 2 }}", {}) == "2" and _PROCESS._process.pid != mine
    _PROCESS.end()
    os._exit(0 if other else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert render_apart("{{ 3 }}", {}) == "3" and _PROCESS._process.pid == mine
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_the_message_of_a_template_is_kept() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render_apart("{{ raise_exception('roles must alternate') }}", {})
