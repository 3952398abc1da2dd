"""Loading of tasks: shipped ones leave no trace, one's own are found, and what cannot be loaded says why."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.loading import load_tasks
from evals.prompting import Prompting
from evals.samples import LoadedTask, LoadedTasks
from evals.task_code import find_code
from evals.tasks.catalog import TASK_TYPES
from registry.digest import digest_bytes
from registry.errors import ConfigurationError, EvaluationError, UnknownNameError
from registry.ladder import TaskEntry

SHIPPED = TaskEntry(floor=(0.5,), chat_template=False)
DOCUMENTS = [{"q": f"what is {n} ?", "options": ["one", "two"], "gold": n % 2} for n in range(12)]
CHOICE = """
task: my_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: data.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: options
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A ladder's directory with a folder `mine` of one task."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "choice.yaml").write_text(CHOICE)
    (folder / "data.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return tmp_path


def load_own(directory: Path, *names: str, **entry: Any) -> LoadedTasks:
    return load_tasks(
        "mine",
        TaskEntry(
            floor=(0.5,), tasks=names or ("my_choice",), include="mine", **{"chat_template": False, **entry}
        ),
        ladder_dir=directory,
        cache_dir=directory / "cache",
        code=code.digest if (code := find_code(directory / "mine")) else None,
    )


def test_shipped_tasks_load_without_network_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def no_network(*_: object) -> None:
        raise AssertionError("a shipped task opened a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for name, task_type in TASK_TYPES.items():
        loaded = load_tasks(name, SHIPPED, ladder_dir=tmp_path)
        assert [task.name for task in loaded.tasks] == [task_type.task("choice"), task_type.task("generate")]
        assert loaded.available == 2000
    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    here = load_tasks("retrieval", SHIPPED, ladder_dir=tmp_path).digest
    script = (
        "from pathlib import Path\nfrom evals.loading import load_tasks\n"
        "from registry.ladder import TaskEntry\n"
        "entry = TaskEntry(floor=(0.5,), chat_template=False)\n"
        "print(load_tasks('retrieval', entry, ladder_dir=Path('/')).digest)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=environment)
    assert there.stdout.decode().strip() == here


def test_digests_of_task_types_differ(tmp_path: Path) -> None:
    digests = [load_tasks(name, SHIPPED, ladder_dir=tmp_path).digest for name in TASK_TYPES]
    assert len(set(digests)) == len(TASK_TYPES)


def test_ones_own_data_is_found_beside_its_yaml_and_cached_where_asked(own: Path) -> None:
    loaded = load_own(own)
    assert [dict(document) for document in loaded.tasks[0].documents] == DOCUMENTS
    assert any((own / "cache").iterdir())


def test_data_is_found_beside_a_yaml_in_a_folder_further_down(own: Path) -> None:
    (own / "mine/below").mkdir()
    for name in ("choice.yaml", "data.jsonl"):
        (own / "mine" / name).rename(own / "mine/below" / name)
    assert load_own(own).available == len(DOCUMENTS)


def test_a_digest_covers_data_definition_and_code_but_not_the_place(own: Path, tmp_path: Path) -> None:
    digests = [load_own(own).digest]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("choice.yaml", "data.jsonl"):
        (moved / "mine").mkdir(exist_ok=True)
        (moved / "mine" / name).write_bytes((own / "mine" / name).read_bytes())
    assert load_own(moved).digest == digests[0]
    (own / "mine/choice.yaml").write_text(CHOICE.replace("{{q}}", "Q: {{q}}"))
    digests.append(load_own(own).digest)
    (own / "mine/data.jsonl").write_text(json.dumps(DOCUMENTS[0] | {"gold": 1}) + "\n")
    digests.append(load_own(own).digest)
    (own / "mine/marks.py").write_text("def mark(doc, results):\n    return {'acc': 1}\n")
    digests.append(load_own(own).digest)
    assert len(set(digests)) == 4


def test_max_samples_limits_what_is_available_and_not_the_digest(own: Path) -> None:
    assert load_own(own).available == 12
    assert load_own(own, max_samples=5).available == 5
    assert load_own(own, max_samples=5).digest == load_own(own).digest


def test_an_unknown_task_type_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown task type `retreival`") as error:
        load_tasks("retreival", SHIPPED, ladder_dir=tmp_path)
    assert "`retrieval`" in error.value.hint


def test_an_unknown_task_of_ones_own_is_named_with_the_nearest(own: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown lm-eval task `my_chioce` in `.*/mine`") as error:
        load_own(own, "my_chioce")
    assert "`my_choice`" in error.value.hint


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"task\.mine\.include is .*which is not a folder"):
        load_own(tmp_path)


def test_a_broken_yaml_is_named_instead_of_left_out(own: Path) -> None:
    (own / "mine/choice.yaml").write_text("task: my_choice\n  doc_to_text: [")
    with pytest.raises(EvaluationError, match=r"choice\.yaml") as error:
        load_own(own)
    assert "correct" in error.value.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("data.jsonl", "gone.jsonl", "gone.jsonl"),
        ("output_type: multiple_choice", "output_type: telepathy", "telepathy"),
        ("{{q}}", "{{nothing}}", "nothing"),
        ('doc_to_text: "{{q}}"', "doc_to_text: !function gone.text", "gone"),
    ],
)
def test_a_task_that_cannot_be_loaded_says_why(own: Path, old: str, new: str, said: str) -> None:
    (own / "mine/choice.yaml").write_text(CHOICE.replace(old, new))
    with pytest.raises(EvaluationError, match=said) as error:
        load_own(own)
    assert error.value.hint


def test_an_unknown_metric_is_refused_instead_of_left_out(own: Path) -> None:
    (own / "mine/choice.yaml").write_text(CHOICE.replace("metric: acc", "metric: exact_mach"))
    with pytest.raises(
        UnknownNameError, match="unknown lm-eval metric `exact_mach` in task `my_choice`"
    ) as error:
        load_own(own)
    assert "`exact_match`" in error.value.hint


def test_damaged_data_is_refused(own: Path) -> None:
    (own / "mine/data.jsonl").write_text('{"q": "a"\n{{{')
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        load_own(own)


def test_a_task_that_needs_the_network_says_so_when_there_is_none(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = CHOICE.replace("dataset_path: json", "dataset_path: somebody/some-data").replace(
        "dataset_kwargs:\n  data_files:\n    test: data.jsonl\n", ""
    )
    (own / "mine/choice.yaml").write_text(text)
    with pytest.raises(EvaluationError, match="cannot be loaded") as error:
        load_own(own)
    assert "network" in error.value.hint


def test_a_task_that_runs_the_models_code_is_refused(own: Path) -> None:
    (own / "mine/choice.yaml").write_text(CHOICE + "unsafe_code: true\n")
    with pytest.raises(EvaluationError, match="runs code that the model writes"):
        load_own(own)


class SizedTask(LoadedTask):
    """Documents without an lm-eval task: enough for an order."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.documents = [{}] * size


def sized(sizes: list[int], *, available: int | None = None) -> LoadedTasks:
    tasks = tuple(SizedTask(f"t{place}", size) for place, size in enumerate(sizes))
    taken = sum(sizes) if available is None else available
    return LoadedTasks("any", tasks, taken, digest_bytes(b""), Prompting())


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 5), data=st.data())
def test_any_beginning_of_the_order_holds_each_tasks_share(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    tasks = sized(sizes)
    order = tasks.order(seed=seed)
    assert sorted((task.name, number) for task, number in order) == sorted(
        (task.name, number) for task in tasks.tasks for number in range(len(task.documents))
    )
    taken = data.draw(st.integers(0, len(order)))
    for task in tasks.tasks:
        share = taken * len(task.documents) / len(order)
        assert abs(sum(one is task for one, _ in order[:taken]) - share) <= len(sizes)
    short = sized(sizes, available=taken).order(seed=seed)
    assert [(t.name, n) for t, n in short] == [(t.name, n) for t, n in order[:taken]]


def test_the_order_depends_on_the_seed_alone() -> None:
    orders = [[n for _, n in sized([50]).order(seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
