"""lm-eval's own client gets from `rung serve`, sample by sample, the scores that the matrix holds."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.scorecard import Scorecard
from evals.tasks.catalog import FORMS, TASK_TYPES
from registry.store import Store
from tests.pipeline.conftest import Place

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # lm-eval's own dependencies
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # aiohttp's connector in lm-eval's client
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # the same
]
TASK = TASK_TYPES["retrieval"]


@pytest.fixture(params=["onnxruntime", "tvm"])
def served(request: pytest.FixtureRequest, released: Place) -> Iterator[tuple[str, Scorecard, str]]:
    """URL of a served cell, its scorecard, and its digest."""
    cells = json.loads(
        released.must("matrix", "show", "--json", "--toolchain", request.param, "--recipe", "fp32").out
    )
    cell = cells["cells"][0]
    node = f"node-{request.param}"
    released.must("pull", "r1", "--out", node, "--artifact", cell["id"])
    process = released.start(
        "serve", "--node", node, "--port", "0", "--task", "retrieval", "--artifact", cell["artifact"]
    )
    try:
        url = next(line.split("ready: ")[1].strip() for line in process.stderr if "ready: " in line)
        store = Store(released.root / ".rung/store")
        card = Scorecard.model_validate_json(store.read_bytes(cell["tasks"][0]["scorecard"]))
        yield url, card, cell["artifact"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def test_local_completions_scores_what_the_matrix_holds(
    served: tuple[str, Scorecard, str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets
    from lm_eval.evaluator import evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager

    url, card, _ = served
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(TASK.folder)
    tasks = TaskManager(include_path=str(TASK.folder), include_defaults=False).load([TASK.group])
    client = LocalCompletionsAPI(
        base_url=f"{url}/completions",
        model="tiny",
        tokenizer=str(checkpoint),
        tokenizer_backend="huggingface",
        add_bos_token=True,
        max_length=128,
        batch_size=4,
        num_concurrent=2,
    )
    ids = {
        TASK.task(form): sorted(o.doc_id for o in card.outcomes if o.task == TASK.task(form))
        for form in FORMS
    }
    found = evaluate(client, tasks, samples=ids, bootstrap_iters=0, log_samples=True)["samples"]
    for form in FORMS:
        metric = {"choice": "acc", "generate": "exact_match"}[form]
        theirs = {sample["doc_hash"]: sample[metric] for sample in found[TASK.task(form)]}
        ours = {o.doc_hash: o.value for o in card.outcomes if o.task == TASK.task(form)}
        assert theirs == ours


def test_the_openai_client_completes_chats_and_streams(served: tuple[str, Scorecard, str]) -> None:
    from openai import OpenAI

    url, _, digest = served
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    headers = {"X-Rung-Task": "retrieval", "X-Rung-Min-Tier": "1"}
    raw = client.completions.with_raw_response.create(
        model="tiny", prompt="ab", max_tokens=5, temperature=0, extra_headers=headers
    )
    assert raw.headers["X-Rung-Tier"] == "1"
    assert raw.headers["X-Rung-Artifact"] == digest
    whole = raw.parse().choices[0].text
    pieces = client.completions.create(model="tiny", prompt="ab", max_tokens=5, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole
    messages: Any = [{"role": "user", "content": "hello"}]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=5, temperature=0)
    streamed = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=5, temperature=0, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in streamed if piece.choices)
    assert text == chat.choices[0].message.content
