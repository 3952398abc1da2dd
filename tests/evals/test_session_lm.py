"""Every sample is answered and marked as lm-eval's own `hf` backend answers and marks it.

lm-eval loads the shipped tasks by itself here, with its own index and `datasets`: this also holds the loader.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from evals.harness import evaluate, load_tasks
from evals.session_lm import SessionLM
from evals.tasks.catalog import FORMS, TASK_TYPES, TaskType
from registry.ladder import TaskEntry

SAMPLES = 10
ENTRY = TaskEntry(floor=(0.0,), chat_template=False)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def stock_tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Task type → lm-eval's own task dict, its data read by `datasets`."""
    import datasets
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        found = {}
        for task_type in TASK_TYPES.values():
            with inside(task_type.folder):
                manager = TaskManager(include_path=str(task_type.folder), include_defaults=False)
                found[task_type.name] = manager.load([task_type.group])
        return found


@pytest.fixture(scope="module", params=["flagship", "byte"])
def models(request: pytest.FixtureRequest) -> tuple[Any, TorchSession, Tokenizer]:
    """lm-eval's hf model, a session, and a tokenizer of one checkpoint."""
    from lm_eval.models.huggingface import HFLM

    checkpoint: Path = request.getfixturevalue(f"{request.param}_checkpoint")
    add_bos = request.param == "flagship"
    hf = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=8, add_bos_token=add_bos)
    return hf, TorchSession(checkpoint), Tokenizer.from_directory(checkpoint, add_bos=add_bos)


def run(model: Any, tasks: dict[str, Any], samples: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    from lm_eval.evaluator import evaluate as lm_evaluate

    return lm_evaluate(model, tasks, samples=samples, bootstrap_iters=0, log_samples=True)["samples"]


@pytest.mark.parametrize("task_type", TASK_TYPES.values(), ids=lambda task_type: task_type.name)
def test_every_answer_and_outcome_is_that_of_hf(
    task_type: TaskType, models: tuple[Any, TorchSession, Tokenizer], stock_tasks: dict[str, dict[str, Any]]
) -> None:
    hf, session, tokenizer = models
    loaded = load_tasks(task_type.name, ENTRY, ladder_dir=Path())
    taken = evaluate(session, tokenizer, loaded, batch_size=5, order_seed=3, chunk=9, max_samples=2 * SAMPLES)
    ids = {
        task_type.task(form): sorted(o.doc_id for o in taken.outcomes if o.task == task_type.task(form))
        for form in FORMS
    }
    assert {len(chosen) for chosen in ids.values()} == {SAMPLES}
    theirs = run(hf, stock_tasks[task_type.name], ids)
    ours = run(SessionLM(session, tokenizer, batch_size=5), stock_tasks[task_type.name], ids)
    outcomes = {(o.task, o.doc_hash): o.value for o in taken.outcomes}
    for form in FORMS:
        name, metric = task_type.task(form), {"choice": "acc", "generate": "exact_match"}[form]
        for their, our in zip(theirs[name], ours[name], strict=True):
            assert their["doc_hash"] == our["doc_hash"]
            same_answers(their["filtered_resps"], our["filtered_resps"])
            assert outcomes[name, their["doc_hash"]] == their[metric] == our[metric]


def same_answers(theirs: list[Any], ours: list[Any]) -> None:
    if isinstance(theirs[0], str):
        assert ours == theirs
        return
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=2e-5, rel=2e-6)


@pytest.mark.parametrize("until", [["<pad>"], ["<pad>", "e"], ["<pad>a", "zz"], ["x<pad>"]], ids=str)
def test_a_stop_that_holds_a_special_token_ends_a_generation_as_with_hf(
    tmp_path: Path, until: list[str]
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from safetensors.torch import load_file, save_file

    from tests.checkpoints import make_checkpoint

    checkpoint = make_checkpoint(tmp_path, spread=2.0, seed=1)
    weights = load_file(checkpoint / "model.safetensors")
    weights["lm_head.weight"][2] *= 3  # <pad> comes often
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    # One row at a time: in a batch `hf` goes on behind such a stop until every row has ended.
    hf = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=1, add_bos_token=False)
    ours = SessionLM(
        TorchSession(checkpoint), Tokenizer.from_directory(checkpoint, add_bos=False), batch_size=4
    )
    settings = {"until": until, "max_gen_toks": 24, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (f"number {n}:", dict(settings)), 0, metadata=("t", n, 1))
        for n in range(12)
    ]
    found = ours.generate_until(requests)
    assert found == hf.generate_until(requests, disable_tqdm=True)
    free = ours.generate_until(
        [Instance("generate_until", {}, (r.args[0], {**settings, "until": []}), 0) for r in requests]
    )
    if "<pad>" in until:
        assert any(len(short) < len(whole) for short, whole in zip(found, free, strict=True))
