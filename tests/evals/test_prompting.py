"""Every prompt, answer and outcome is that of lm-eval's `hf` backend with the same settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from evals.harness import evaluate, load_tasks
from evals.prompting import Prompting
from evals.samples import LoadedTasks
from evals.session_lm import SessionLM
from registry.errors import ConfigurationError, EvaluationError
from registry.ladder import TaskEntry
from tests.checkpoints import make_checkpoint

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
NO_SYSTEM = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "with-bos": WITH_BOS, "no-system-role": NO_SYSTEM}
CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl, train: shots.jsonl}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: options
doc_to_target: a
metric_list: [{metric: acc}]
"""
GENERATE = """
task: own_generate
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl, train: shots.jsonl}}
test_split: test
fewshot_split: train
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{options[a]}}"
description: "Answer each question with one word.\\n\\n"
generation_kwargs: {until: ["\\n", "e"], do_sample: false, max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""
SYSTEM = {"system_prompt": "Be brief."}
"""A template without a system role refuses it, and so does the harness: see below."""
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"chat_template": False},
    "plain-few-shot": {"chat_template": False, "num_fewshot": 2},
    "chat": {"chat_template": True},
    "chat-system": {"chat_template": True, **SYSTEM},
    "chat-few-shot": {"chat_template": True, "num_fewshot": 2},
    "chat-few-shot-one-message": {
        "chat_template": True,
        "num_fewshot": 3,
        "fewshot_as_multiturn": False,
        **SYSTEM,
    },
}


@pytest.fixture(scope="module", params=TEMPLATES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte checkpoint with a chat template, whose tokenizer adds BOS to plain text."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    directory = make_checkpoint(
        tmp_path_factory.mktemp("chat"), spread=2.0, max_position_embeddings=512, seed=3
    )
    (directory / "chat_template.jinja").write_text(TEMPLATES[request.param])
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    backend.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder's directory with two tasks."""
    directory = tmp_path_factory.mktemp("ladder")
    mine = directory / "mine"
    mine.mkdir()
    options = ["yes", "no", "perhaps"]
    for name, count, step in (("data", 8, 1), ("shots", 5, 7)):
        rows = [
            {"q": f"Is {n * step} less than {n * n % 11}?", "options": options, "a": n % 3}
            for n in range(count)
        ]
        (mine / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (mine / "choice.yaml").write_text(CHOICE)
    (mine / "generate.yaml").write_text(GENERATE)
    return directory


def load(folder: Path, **settings: Any) -> LoadedTasks:
    entry = TaskEntry(floor=(0.0,), tasks=("own_choice", "own_generate"), include="mine", **settings)
    return load_tasks("mine", entry, ladder_dir=folder, cache_dir=folder / "cache")


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_prompt_answer_and_outcome_is_that_of_hf(
    checkpoint: Path, folder: Path, settings: dict[str, Any]
) -> None:
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.models.huggingface import HFLM

    if "no system" in (checkpoint / "chat_template.jinja").read_text():
        settings = {name: value for name, value in settings.items() if name not in SYSTEM}
    chat = settings["chat_template"]
    # `hf` adds BOS to a rendered conversation too, where transformers' own `apply_chat_template` does not.
    hf = HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=4, add_bos_token=not chat)
    stock = load(folder, **settings)
    for task in stock.tasks:
        task.lm_task.set_fewshot_seed(1234)  # as lm-eval's command line does
    theirs = lm_evaluate(
        hf,
        {"tasks": {task.name: task.lm_task for task in stock.tasks}},
        bootstrap_iters=0,
        system_instruction=settings.get("system_prompt"),
        apply_chat_template=chat,
        fewshot_as_multiturn=stock.prompting.fewshot_as_multiturn,
    )["samples"]
    tokenizer = Tokenizer.from_directory(checkpoint, add_bos=True)
    session, tasks = TorchSession(checkpoint), load(folder, **settings)
    taken = evaluate(session, tokenizer, tasks, batch_size=3, order_seed=5, chunk=4)
    outcomes = {(outcome.task, outcome.doc_id): outcome.value for outcome in taken.outcomes}
    model = SessionLM(session, tokenizer, batch_size=3, chat=chat)
    compared = 0
    for task in tasks.tasks:
        metric = {"own_choice": "acc", "own_generate": "exact_match"}[task.name]
        for sample in theirs[task.name]:
            number = sample["doc_id"]
            requests = task.requests(number, chat=model)
            assert [request.arguments for request in requests] == [tuple(a) for a in sample["arguments"]]
            answers = getattr(model, requests[0].kind)(requests_of(requests))
            given = [response[0] for response in sample["resps"]]
            if task.name == "own_generate":
                assert answers == given
            else:
                assert [greedy for _, greedy in answers] == [greedy for _, greedy in given]
                assert [value for value, _ in answers] == pytest.approx([v for v, _ in given], abs=2e-4)
            assert outcomes[task.name, number] == sample[metric]
            compared += 1
    assert compared == len(outcomes) == 16


def requests_of(requests: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request.kind, {}, request.arguments, request.index) for request in requests]


def test_a_conversation_gets_the_tokens_that_transformers_gives_it(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "yes or no?"}]
    reference = AutoTokenizer.from_pretrained(checkpoint)
    wanted = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    tokenizer = Tokenizer.from_directory(checkpoint, add_bos=True)
    model = SessionLM(TorchSession(checkpoint), tokenizer, batch_size=1, chat=True)
    assert model.tok_encode(model.apply_chat_template(messages)) == wanted["input_ids"]


def test_each_choice_of_prompting_has_its_own_digest(folder: Path) -> None:
    digests = {name: load(folder, **settings).digest for name, settings in SETTINGS.items()}
    assert len(set(digests.values())) == len(SETTINGS)


def test_the_evaluation_records_how_its_prompts_were_made(checkpoint: Path, folder: Path) -> None:
    tasks = load(folder, chat_template=True, num_fewshot=1)
    tokenizer = Tokenizer.from_directory(checkpoint, add_bos=True)
    taken = evaluate(
        TorchSession(checkpoint), tokenizer, tasks, batch_size=2, order_seed=0, chunk=2, max_samples=2
    )
    assert taken.prompting == Prompting(chat_template=True, num_fewshot=1, fewshot_as_multiturn=True)
    assert taken.prompting.words == "chat template, 1-shot in turns"


def test_a_template_that_refuses_the_system_prompt_ends_the_evaluation(tmp_path: Path, folder: Path) -> None:
    directory = make_checkpoint(tmp_path)
    (directory / "chat_template.jinja").write_text(NO_SYSTEM)
    tasks = load(folder, chat_template=True, system_prompt="Be brief.")
    with pytest.raises(ConfigurationError, match="no system role"):
        run(directory, tasks)


def test_a_tokenizer_without_a_template_is_not_evaluated_as_plain_text(tmp_path: Path, folder: Path) -> None:
    directory = make_checkpoint(tmp_path)
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(EvaluationError, match="asks for the chat template") as error:
        run(directory, load(folder, chat_template=True))
    assert "chat_template = false" in error.value.hint


def run(directory: Path, tasks: LoadedTasks) -> None:
    tokenizer = Tokenizer.from_directory(directory, add_bos=False)
    evaluate(TorchSession(directory), tokenizer, tasks, batch_size=2, order_seed=0, chunk=2)


def test_a_task_that_says_zero_examples_itself_is_not_given_more(tmp_path: Path, folder: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("data.jsonl", "shots.jsonl"):
        (mine / name).write_bytes((folder / "mine" / name).read_bytes())
    for name, body in (("choice", CHOICE), ("generate", GENERATE)):
        (mine / f"{name}.yaml").write_text(body + "num_fewshot: 0\n")
    assert load(tmp_path, chat_template=False, num_fewshot=0).prompting.num_fewshot == 0
    with pytest.raises(EvaluationError, match="`own_choice` says `num_fewshot: 0` itself, the ladder 2"):
        load(tmp_path, chat_template=False, num_fewshot=2)


def test_a_task_type_that_leaves_the_template_open_is_not_loaded(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not say whether prompts are in the chat template"):
        load(folder)
