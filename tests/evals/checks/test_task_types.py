"""What is refused when a ladder is read is what lm-eval refuses when it loads the task; the rest is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.checks.task_types import check_tasks
from evals.loading import load_tasks
from registry.errors import ConfigurationError, RungError, UnknownNameError
from registry.ladder import TaskEntry
from tests.evals.checks.folder import CHOICE, GONE, Folder, rows

FUNCTION = "doc_to_text: !function prompts.make\n"


def check(folder: Folder, known: Path, entry: TaskEntry | None = None) -> int | None:
    return check_tasks("own", entry or folder.entry(), ladder_directory=folder.root, cache=known).available


def load(folder: Folder, entry: TaskEntry | None = None) -> int:
    cache = folder.root / "cache"
    return load_tasks("own", entry or folder.entry(), ladder_dir=folder.root, cache_dir=cache).available


@pytest.mark.parametrize(
    ("changes", "data", "said"),
    [
        ({"doc_to_text": "{{qestion}}"}, None, "'qestion' is undefined"),
        ({"doc_to_text": "{{question"}, None, "doc_to_text is not a template"),
        ({"doc_to_text": "{{question|shout}}"}, None, "No filter named 'shout'"),
        ({"doc_to_text": GONE}, None, "no `doc_to_text`"),
        ({"doc_to_target": GONE}, None, "no `doc_to_target`"),
        ({"doc_to_txt": "{{question}}"}, None, "unknown key `doc_to_txt`"),
        ({"dataset_path": GONE}, None, "no `dataset_path`"),
        ({"test_split": GONE}, None, "no `test_split`"),
        ({"test_split": "tset"}, None, "unknown split `tset`"),
        ({"fewshot_split": "train"}, None, "unknown split `train`"),
        ({"output_type": "generate"}, None, "unknown output_type `generate`"),
        ({"metric_list": [{"metric": "exact_mach"}]}, None, "unknown metric `exact_mach`"),
        ({"metric_list": ["exact_match"]}, None, "metric_list has 'exact_match'"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "regx"}]}]}, None, "unknown filter `regx`"),
        ({"filter_list": [{"filter": [{"function": "regex"}]}]}, None, "filter_list has"),
        ({"metadata": {"rung_filter": "strict"}}, None, "unknown filter `strict` in metadata.rung_filter"),
        ({"include": "base.yaml"}, None, "includes `base.yaml`, which does not exist"),
        ({"include": "mine.yaml"}, None, "includes itself"),
        ({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, None, "no data file `gone.jsonl`"),
        ({"dataset_kwargs": {"data_files": "data.jsonl"}}, None, "unknown split `test`"),
        ({}, b'{"question": "a", "answer": "b"}\n{"question": "c", "ans', "line 2 is not JSON"),
        ({}, b'{"question": "\xff", "answer": "b"}', "is not UTF-8"),
        ({}, b'"a"\n"b"', "row 1 is not an object"),
        ({}, b"", "has no rows"),
        ({**CHOICE, "doc_to_choice": "{{question}}"}, rows(0), "which is not a list"),
        (CHOICE, rows(2), "the answer of sample 1, `2`, is not one of its 2 choices"),
    ],
)  # fmt: skip
def test_what_lm_eval_cannot_load_is_refused_before_and_says_why(
    changes: dict[str, Any], data: bytes | None, said: str, folder: Folder, known: Path
) -> None:
    folder.write(changes, data=data)
    with pytest.raises(ConfigurationError) as refused:
        check(folder, known)
    assert said in refused.value.message
    assert refused.value.hint
    with pytest.raises(RungError):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({}, None),
        ({"doc_to_text": "question"}, None),
        ({"doc_to_text": "the same for all"}, None),
        ({"doc_to_text": "{{question|upper}} {{range(3)|list}}"}, None),
        ({"output_type": GONE}, None),
        ({"test_split": GONE, "validation_split": "test"}, None),
        ({"num_fewshot": 2}, None),
        ({"dataset_kwargs": {"data_files": "data.jsonl"}, "test_split": "train"}, None),
        ({"dataset_kwargs": {"data_files": {"test": ["data.jsonl", "data.jsonl"]}}}, None),
        ({}, b'\xef\xbb\xbf{"question": "a", "answer": "b"}\r\n\r\n{"question": "c", "answer": "d"}\r\n'),
        ({}, b'[{"question": "a", "answer": "b"}]'),
        ({}, b'{"question": "a", "answer": "b"}\n{"question": "c"}'),
        ({}, rows("a", 3, ["b"])),
        (CHOICE, rows(0, 1)),
        ({**CHOICE, "doc_to_choice": "{{['yes', 'no']}}"}, rows("yes", "no")),
        ({"filter_list": [{"name": "a", "filter": [{"function": "lowercase"}]}]}, None),
    ],
)  # fmt: skip
def test_what_lm_eval_loads_is_taken_with_the_same_number_of_samples(
    changes: dict[str, Any], data: bytes | None, folder: Folder, known: Path
) -> None:
    folder.write(changes, data=data)
    assert check(folder, known) == load(folder)


@pytest.mark.parametrize(
    ("changes", "data", "said"),
    [
        (CHOICE, rows(0, 2), "the answer of sample 2, `2`, is not one of its 2 choices"),
        (CHOICE, rows("yes", "maybe"), "the answer of sample 2, `maybe`, is not one of its 2 choices"),
        ({**CHOICE, "doc_to_choice": GONE}, rows(0), "multiple_choice without `doc_to_choice`"),
        (
            {"filter_list": [{"name": "a", "filter": [{"function": "regex", "regex_pattern": "(("}]}]},
            None,
            "`((` is not a regular expression",
        ),
        ({"metadata": {"rung_metric": "f1"}}, None, "unknown metric `f1` in metadata.rung_metric"),
    ],
)
def test_what_lm_eval_loads_and_cannot_mark_is_refused(
    changes: dict[str, Any], data: bytes | None, said: str, folder: Folder, known: Path
) -> None:
    folder.write(changes, data=data)
    with pytest.raises(ConfigurationError) as refused:
        check(folder, known)
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def make(document):\n    return document['question']\n", ""),
        ("def mke(document):\n    return ''\n", "unknown function `make`"),
        ("def make(document:\n", "is not Python"),
        (None, "prompts.py`, which does not exist"),
    ],
)
def test_functions_are_looked_for_and_not_run(
    code: str | None, said: str, folder: Folder, known: Path
) -> None:
    folder.write({"doc_to_text": GONE}, text=FUNCTION)
    if code is not None:
        (folder.root / "tasks/prompts.py").write_text(f"{code}\nopen('ran', 'w').close()\n")
    if not said:
        assert check(folder, known) == 5
        assert not Path("ran").exists()
        return
    with pytest.raises(ConfigurationError) as refused:
        check(folder, known)
    assert said in refused.value.message


def test_groups_and_tags_stand_for_their_tasks(folder: Folder, known: Path) -> None:
    folder.write({"task": "other", "tag": ["marked"]}, name="other.yaml")
    (folder.root / "tasks/both.yaml").write_text("group: both\ntask: [mine, {task: other, num_fewshot: 1}]\n")
    assert check(folder, known, folder.entry("both")) == 10
    assert check(folder, known, folder.entry("marked")) == 5
    (folder.root / "tasks/both.yaml").write_text("group: both\ntask: [mine, othr]\n")
    with pytest.raises(UnknownNameError, match="`othr` in group `both`"):
        check(folder, known, folder.entry("both"))
    (folder.root / "tasks/both.yaml").write_text("group: both\ntask: [both]\n")
    with pytest.raises(ConfigurationError, match="contains itself"):
        check(folder, known, folder.entry("both"))


def test_an_unknown_task_is_named_with_the_nearest(folder: Folder, known: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"task\.own: unknown lm-eval task `mien`") as error:
        check(folder, known, folder.entry("mien"))
    assert "`mine`" in error.value.hint
    with pytest.raises(UnknownNameError) as error:
        check(folder, known, folder.entry("arc_esy", include=None))
    assert "`arc_easy`" in error.value.hint


def test_a_data_set_that_is_not_here_is_refused_offline_and_taken_from_the_cache(
    folder: Folder, known: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    stock = folder.entry("arc_easy", include=None)
    with pytest.raises(
        ConfigurationError, match=r"`allenai/ai2_arc` \(ARC-Easy\), which is not in the cache"
    ):
        check(folder, known, stock)
    (tmp_path / "hub/datasets/allenai___ai2_arc").mkdir(parents=True)
    assert check(folder, known, stock) is None


def test_a_hub_that_does_not_answer_is_said_so(
    folder: Folder, known: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ConfigurationError, match="the Hub cannot be reached"):
        check(folder, known, folder.entry("arc_easy", include=None))


def test_neither_lm_eval_nor_torch_is_imported(folder: Folder, known: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from evals.checks.task_types import check_tasks\nfrom registry.ladder import TaskEntry\n"
        "entry = TaskEntry(floor=(0.5,), tasks=('mine',), include='tasks', chat_template=False)\n"
        f"root, known = Path({str(folder.root)!r}), Path({str(known)!r})\n"
        "check_tasks('own', entry, ladder_directory=root, cache=known)\n"
        "print(sorted({'lm_eval', 'torch', 'datasets', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
