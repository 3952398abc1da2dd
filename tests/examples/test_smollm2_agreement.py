"""The comparison at the end of `make real`, on a small checkpoint: it sees agreement, and what breaks it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from compilers.check.bounds import FLOAT_BOUND
from compilers.check.float_error import float_figures
from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from evals.agreement import ChatAnswer, compare_answer, forced_logits
from evals.harness import evaluate, load_tasks, scorecard
from evals.scorecard import Scorecard
from registry.digest import digest_bytes
from registry.ladder import TaskEntry
from tests.checkpoints import make_checkpoint

SCRIPT = Path(__file__).parents[2] / "examples/smollm2/agreement.py"
CONVERSATIONS = [
    [{"role": "user", "content": "one"}],
    [{"role": "user", "content": "Is it two?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "three"}],
]
HEAD = """
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
doc_to_text: "{{q}}"
"""
CHOICE = """
task: own_choice
output_type: multiple_choice
doc_to_choice: options
doc_to_target: a
metric_list: [{metric: acc}]
"""
GENERATE = """
task: own_generate
output_type: generate_until
doc_to_target: "{{q}}"
generation_kwargs: {until: ["e"], do_sample: false, max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("agreement_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("right"), spread=2.0, seed=4)


@pytest.fixture(scope="module")
def wrong(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint with two rows of one key projection swapped."""
    directory = make_checkpoint(tmp_path_factory.mktemp("wrong"), spread=2.0, seed=4)
    weights = load_file(directory / "model.safetensors")
    keys = weights["model.layers.0.self_attn.k_proj.weight"]
    keys[[0, 1]] = keys[[1, 0]].clone()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_the_reference_s_prompts_and_answers_are_those_of_one_conversation_alone(
    script: ModuleType, checkpoint: Path
) -> None:
    reference = script.Reference(checkpoint)
    prompts = [reference.encode(messages) for messages in CONVERSATIONS]
    found = reference.generate(prompts, new_tokens=9)
    for messages, prompt, tokens in zip(CONVERSATIONS, prompts, found, strict=True):
        alone = reference.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        out = reference.session.model.generate(**alone, do_sample=False, max_new_tokens=9, pad_token_id=1)
        assert alone["input_ids"][0].tolist() == prompt
        assert out[0, len(prompt) :].tolist() == tokens


def test_a_session_of_the_same_weights_agrees_and_one_of_others_does_not(
    script: ModuleType, checkpoint: Path, wrong: Path
) -> None:
    reference = script.Reference(checkpoint)
    prompts = [reference.encode(messages) for messages in CONVERSATIONS]
    tokens = reference.generate(prompts, new_tokens=9)
    forced = reference.force(prompts, tokens)
    answers = reference.answers(tokens, forced, factor=1.0)
    for directory, agrees in ((checkpoint, True), (wrong, False)):
        session = TorchSession(directory)
        run = forced_logits(session, prompts=prompts, answers=tokens)
        figures = float_figures(run, exact=forced.exact, error=forced.error)
        assert figures.within(FLOAT_BOUND) == agrees
    theirs = answers[0]
    assert compare_answer("1", ours=theirs.answer, reference=theirs) is None
    other = compare_answer("1", ours=ChatAnswer("#" + theirs.answer.text, ended=False), reference=theirs)
    assert other is not None
    assert not other.choice.is_tie


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tasks")
    rows = [{"q": f"Is {n} odd?", "options": ["yes", "no", "who"], "a": n % 2} for n in range(10)]
    (directory / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "choice.yaml").write_text(HEAD + CHOICE)
    (directory / "generate.yaml").write_text(HEAD + GENERATE)
    return directory


def entry(folder: Path) -> TaskEntry:
    names = ("own_choice", "own_generate")
    return TaskEntry(floor=(0.0,), tasks=names, include=str(folder), chat_template=True)


def card_of(directory: Path, folder: Path) -> Scorecard:
    tasks = load_tasks("mine", entry(folder), ladder_dir=folder, cache_dir=folder / "cache")
    tokenizer = Tokenizer.from_directory(directory, add_bos=False)
    run = evaluate(
        TorchSession(directory), tokenizer, tasks, batch_size=3, order_seed=5, chunk=4, max_samples=14
    )
    subject = digest_bytes(b"artifact")
    return scorecard(run, subject=subject, runtime="torch", runtime_version="2", chip="here")


def test_stored_samples_agree_with_lm_eval_s_hf_backend_and_changed_ones_do_not(
    script: ModuleType, checkpoint: Path, folder: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=4, add_bos_token=False)
    card, reference = card_of(checkpoint, folder), script.Reference(checkpoint)
    samples = script.hf_samples(model, entry(folder), [card])
    for name in ("own_choice", "own_generate"):
        found = compare(script, card, name, samples=samples, reference=reference)
        assert found.holds
        assert (found.compared, found.differences) == (7, ())
        changed = card.model_copy(
            update={
                "outcomes": tuple(
                    one.model_copy(update={"value": 1 - one.value}) if one.task == name else one
                    for one in card.outcomes
                )
            }
        )
        found = compare(script, changed, name, samples=samples, reference=reference)
        assert len(found.contradictions) == found.compared == 7
        assert not found.holds


def compare(script: ModuleType, card: Scorecard, name: str, *, samples: Any, reference: Any) -> Any:
    return script.compare_task(card, name, samples[name], reference=reference, factor=1.0)


def test_the_table_names_what_differs(script: ModuleType) -> None:
    from evals.agreement import Comparison, Difference, GreedyChoice

    cell = script.Cell(id="m/1:fp32:cpu:tvm", artifact="sha256:0", toolchain="tvm", cards=())
    tie = Difference("conversation 7, 'x'", "'a'", "'b'", GreedyChoice(0.0001, 0.001))
    column = script.Column(
        chats=Comparison(50, (tie,)),
        figures=FLOAT_BOUND.times(0.5),
        limit=FLOAT_BOUND,
        samples={"own": Comparison(3, ())},
    )
    shown = script.table({cell: column})
    assert column.holds
    assert "49 of 50 equal, 1 tie" in shown
    assert "conversation 7, 'x': 'a', the reference 'b'; a tie" in shown


def test_there_are_fifty_different_conversations_that_end_with_a_question(script: ModuleType) -> None:
    lines = script.PROMPTS.read_text(encoding="utf-8").splitlines()
    conversations = [json.loads(line)["messages"] for line in lines]
    assert len(conversations) == len(set(lines)) == 50
    assert {messages[-1]["role"] for messages in conversations} == {"user"}
