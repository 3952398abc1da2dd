"""Code in task files is found whatever way it is named, and runs only if its digest was allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.loading import load_tasks
from evals.task_code import find_code
from registry.errors import RefusedError
from registry.ladder import TaskEntry

HEAD = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: generate_until
doc_to_target: a
"""
PLAIN = 'doc_to_text: "{{q}}"\n'
CODE = "doc_to_text: !function utils.text\n"
ENTRY = TaskEntry(floor=(0.0,), tasks=("own",), include="mine", chat_template=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "data.jsonl").write_text(json.dumps({"q": "a b", "a": "c"}) + "\n")
    write_code(folder)
    return folder


def write_code(folder: Path) -> None:
    mark = folder.parent / "ran"
    (folder / "utils.py").write_text(f"open({str(mark)!r}, 'w').close()\ndef text(doc): return doc['q']\n")


def write(folder: Path, body: str, *, name: str = "own.yaml", head: str = HEAD) -> None:
    (folder / name).write_text(head + body)


def load(folder: Path, code: str | None = None) -> None:
    load_tasks("mine", ENTRY, ladder_dir=folder.parent, cache_dir=folder.parent / "cache", code=code)


def ran(folder: Path) -> bool:
    return (folder.parent / "ran").exists()


def test_tasks_without_code_need_no_consent(folder: Path) -> None:
    write(folder, PLAIN)
    assert find_code(folder) is None
    load(folder)
    assert not ran(folder)


@pytest.mark.parametrize(
    "body",
    [
        CODE,
        PLAIN + "process_docs: !function utils.text\n",
        PLAIN + "filter_list: [{name: x, filter: [{function: custom, filter_fn: !function utils.text}]}]\n",
        PLAIN + "metric_list: [{metric: !function utils.text}]\n",
        "doc_to_text: !<!function> utils.text\n",
        'doc_to_text: !function "utils.text"\n',
        "doc_to_text: !func%74ion utils.text\n",
        "doc_to_text: !function os.system\n",
        PLAIN + "class: !function utils.text\n",
        PLAIN + "metric_list: [{metric: ./script, hf_evaluate: true}]\n",
    ],
)
def test_code_is_found_and_does_not_run_unless_its_digest_was_allowed(folder: Path, body: str) -> None:
    write(folder, body)
    code = find_code(folder)
    assert code is not None
    assert code.files == ("own.yaml", "utils.py")
    for allowed in (None, "sha256:" + "0" * 64):
        with pytest.raises(RefusedError, match="nobody has allowed"):
            load(folder, allowed)
    assert not ran(folder)


def test_allowed_code_runs_until_a_file_of_it_changes(folder: Path) -> None:
    write(folder, CODE)
    code = find_code(folder)
    assert code is not None
    load(folder, code.digest)
    assert ran(folder)
    (folder.parent / "ran").unlink()
    with (folder / "utils.py").open("a") as stream:
        stream.write("# one more line\n")
    with pytest.raises(RefusedError):
        load(folder, code.digest)
    assert not ran(folder)


def test_code_in_an_included_file_is_found_and_may_not_come_from_outside(folder: Path) -> None:
    write(folder, CODE, name="base", head="")
    write(folder, "include: base\n")
    inside = find_code(folder)
    assert inside is not None
    load(folder, inside.digest)

    (folder.parent / "ran").unlink()
    write(folder.parent, CODE, name="base", head="")
    write_code(folder.parent / "mine")
    (folder.parent / "utils.py").write_text((folder / "utils.py").read_text())
    write(folder, "include: ../base\n")
    outside = find_code(folder)
    assert outside is not None
    with pytest.raises(RefusedError, match=r"the function `utils\.text` from"):
        load(folder, outside.digest)
    assert not ran(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ q.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ lipsum.__globals__['os'].popen('true').read() }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
    ],
)
def test_prompt_templates_reach_nothing_but_their_document(folder: Path, template: str) -> None:
    write(folder, f'doc_to_text: "{template}"\n')

    class NoChat:
        tokenizer_name = "none"

        def apply_chat_template(self, chat_history: object, add_generation_prompt: bool = True) -> str:
            raise AssertionError("plain text is not rendered")

    def ask() -> None:
        tasks = load_tasks("mine", ENTRY, ladder_dir=folder.parent, cache_dir=folder.parent / "cache")
        tasks.tasks[0].requests(0, chat=NoChat())

    with pytest.raises(Exception, match=r"unsafe|undefined|[Rr]ange too big"):
        ask()
