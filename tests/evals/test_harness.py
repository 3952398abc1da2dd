"""The harness: what is taken, in which order, when it stops, and how a sample is marked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compilers.model.tokenizer import Tokenizer
from evals.harness import evaluate, load_tasks, scorecard
from evals.judge import SequentialJudge, judge
from evals.samples import LoadedTasks
from evals.task_code import find_code
from evals.verdict import Bar
from registry.digest import digest_bytes
from registry.errors import EvaluationError
from registry.ladder import TaskEntry
from tests.evals.torch_session import RecomputingSession

HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: data.jsonl}}}}
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_target: a
"""
CHOICE = "output_type: multiple_choice\ndoc_to_choice: options\n"
GENERATE = "output_type: generate_until\n"
GREEDY = "generation_kwargs: {until: ['\\n'], do_sample: false, max_gen_toks: 4}\n"


class NoChat:
    """For tasks whose prompts are plain text."""

    tokenizer_name = "none"

    def apply_chat_template(self, chat_history: object, add_generation_prompt: bool = True) -> str:
        raise AssertionError("plain text is not rendered")


def write_task(directory: Path, body: str, *, name: str = "own") -> None:
    folder = directory / "mine"
    folder.mkdir(exist_ok=True)
    rows = [
        {"q": f"is {n} odd ?", "options": ["no", "yes", "who"], "a": n % 2, "s": f"{n}"} for n in range(9)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(HEAD.format(name=name) + body)


def load(directory: Path, *names: str) -> LoadedTasks:
    entry = TaskEntry(floor=(0.0,), tasks=names or ("own",), include="mine", chat_template=False)
    found = find_code(directory / "mine")
    return load_tasks(
        "mine",
        entry,
        ladder_dir=directory,
        cache_dir=directory / "cache",
        code=None if found is None else found.digest,
    )


@pytest.fixture
def retrieval() -> LoadedTasks:
    return load_tasks(
        "retrieval", TaskEntry(floor=(0.0,), max_samples=24, chat_template=False), ladder_dir=Path()
    )


def test_outcomes_depend_neither_on_the_batch_nor_on_the_chunk(
    word_session: RecomputingSession, word_tokenizer: Tokenizer, retrieval: LoadedTasks
) -> None:
    runs = [
        evaluate(word_session, word_tokenizer, retrieval, batch_size=batch, order_seed=1, chunk=chunk)
        for batch, chunk in ((1, 24), (4, 7), (16, 50))
    ]
    assert runs[0].outcomes == runs[1].outcomes == runs[2].outcomes
    assert len({run.tokens for run in runs}) == 1
    assert runs[0].tokens > 24
    assert {outcome.value for outcome in runs[0].outcomes} <= {0.0, 1.0}


def test_a_run_stops_at_the_chunk_after_which_until_says_so(
    word_session: RecomputingSession, word_tokenizer: Tokenizer, retrieval: LoadedTasks
) -> None:
    looks: list[int] = []
    steps: list[tuple[int, int]] = []

    def enough(outcomes: object) -> bool:
        looks.append(len(outcomes))  # type: ignore[arg-type]  # a list of outcomes
        return len(looks) == 2

    whole = evaluate(word_session, word_tokenizer, retrieval, batch_size=4, order_seed=1, chunk=8)
    early = evaluate(
        word_session,
        word_tokenizer,
        retrieval,
        batch_size=4,
        order_seed=1,
        chunk=8,
        until=enough,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert looks == [8, 16]
    assert steps == [(8, 24), (16, 24)]
    assert early.outcomes == whole.outcomes[:16]
    assert (early.available, whole.available) == (24, 24)
    assert early.tasks_digest == whole.tasks_digest


def test_the_seed_is_part_of_the_tasks_digest(
    word_session: RecomputingSession, word_tokenizer: Tokenizer, retrieval: LoadedTasks
) -> None:
    digests = {
        evaluate(
            word_session, word_tokenizer, retrieval, batch_size=4, order_seed=seed, chunk=4, max_samples=2
        ).tasks_digest
        for seed in (0, 1)
    }
    assert len(digests) == 2


def test_a_scorecard_of_a_run_is_judged_against_itself(
    word_session: RecomputingSession, word_tokenizer: Tokenizer, retrieval: LoadedTasks
) -> None:
    subject = digest_bytes(b"checkpoint")
    run = evaluate(word_session, word_tokenizer, retrieval, batch_size=8, order_seed=0, chunk=8)
    card = scorecard(run, subject=subject, runtime="torch", runtime_version="2", chip="here")
    assert card.model_validate_json(card.model_dump_json()) == card
    bar = Bar(tier=1, floor=0.0, margin_points=2)
    assert judge(card, reference=card, bar=bar).status == "pass"
    until = SequentialJudge(
        references={1: card},
        bars=[Bar(tier=1, floor=0.0, margin_points=60)],
        tasks_digest=card.tasks_digest,
    )
    early = evaluate(
        word_session, word_tokenizer, retrieval, batch_size=8, order_seed=0, chunk=2, until=until
    )
    assert len(early.outcomes) < len(run.outcomes)


@pytest.mark.parametrize("name", ["batch_size", "chunk", "max_samples"])
def test_sizes_below_one_are_refused(
    word_session: RecomputingSession, word_tokenizer: Tokenizer, retrieval: LoadedTasks, name: str
) -> None:
    sizes = {"batch_size": 4, "chunk": 4, "max_samples": 4} | {name: 0}
    with pytest.raises(EvaluationError, match=f"{name} is 0"):
        evaluate(word_session, word_tokenizer, retrieval, order_seed=0, **sizes)


@pytest.mark.parametrize(
    ("body", "metadata", "expected"),
    [
        ("metric_list: [{metric: acc_norm}, {metric: acc}]\n", "", "acc"),
        ("metric_list: [{metric: acc_norm}]\n", "", "acc_norm"),
        (
            "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
            "metadata: {rung_metric: acc_norm}\n",
            "acc_norm",
        ),
    ],
)
def test_the_outcome_is_the_documented_metric(
    tmp_path: Path,
    body: str,
    metadata: str,
    expected: str,
) -> None:
    write_task(tmp_path, CHOICE + body + metadata)
    task = load(tmp_path).tasks[0]
    # The likeliest choice is `no`; per letter it is `yes`. Sample 1's answer is `yes`.
    answers = [(-2.0, False), (-2.1, False), (-9.0, False)]
    assert task.mark({1: answers}, chat=NoChat())[0].value == {"acc": 0.0, "acc_norm": 1.0}[expected]
    assert task.mark({0: answers}, chat=NoChat())[0].value == {"acc": 1.0, "acc_norm": 0.0}[expected]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (CHOICE + "metric_list: [{metric: acc}]\nmetadata: {rung_metric: taste}\n", "no metric `taste`"),
        (CHOICE + "metric_list: [{metric: brier_score}]\n", "no single outcome per sample"),
        (GENERATE + GREEDY.replace("false", "true"), "asks for sampling"),
        (GENERATE + GREEDY.replace("do_sample: false", "temperature: 0.7"), "asks for sampling"),
        (GENERATE + GREEDY.replace("do_sample: false", "num_beams: 4"), "num_beams"),
        (GENERATE + GREEDY.replace("max_gen_toks: 4", "max_gen_toks: 128"), "max_gen_toks is 128"),
        (GENERATE + GREEDY.replace("max_gen_toks: 4", "max_gen_toks: 0"), "max_gen_toks is 0"),
    ],
)
def test_what_cannot_be_asked_or_marked_is_refused_with_its_reason(
    tmp_path: Path, byte_session: RecomputingSession, byte_tokenizer: Tokenizer, body: str, said: str
) -> None:
    write_task(tmp_path, body)
    with pytest.raises(EvaluationError, match=said) as error:
        evaluate(byte_session, byte_tokenizer, load(tmp_path), batch_size=2, order_seed=0, chunk=3)
    assert error.value.hint


def test_a_task_whose_own_code_fails_is_named(
    tmp_path: Path, byte_session: RecomputingSession, byte_tokenizer: Tokenizer
) -> None:
    write_task(tmp_path, CHOICE + "process_results: !function marks.mark\nmetric_list: [{metric: acc}]\n")
    (tmp_path / "mine/marks.py").write_text("def mark(doc, results):\n    raise RuntimeError('no ink')\n")
    with pytest.raises(
        EvaluationError, match=r"task `own`: sample .* cannot be marked: RuntimeError: no ink"
    ):
        evaluate(byte_session, byte_tokenizer, load(tmp_path), batch_size=2, order_seed=0, chunk=3)


def test_a_task_whose_own_code_cannot_ask_is_named(
    tmp_path: Path, byte_session: RecomputingSession, byte_tokenizer: Tokenizer
) -> None:
    write_task(tmp_path, CHOICE + "metric_list: [{metric: acc}]\n")
    yaml = tmp_path / "mine/own.yaml"
    yaml.write_text(yaml.read_text().replace('doc_to_text: "{{q}}"', "doc_to_text: !function marks.text"))
    (tmp_path / "mine/marks.py").write_text(
        "def text(doc):\n    if doc['s'] == '7':\n        raise RuntimeError('no paper')\n"
        "    return doc['q']\n"
    )
    with pytest.raises(
        EvaluationError, match=r"task `own`: sample 7 cannot be asked: RuntimeError: no paper"
    ):
        evaluate(byte_session, byte_tokenizer, load(tmp_path), batch_size=2, order_seed=0, chunk=3)


def test_rolling_likelihoods_are_scored_in_windows_as_hf_does(
    byte_checkpoint: Path, byte_session: RecomputingSession, byte_tokenizer: Tokenizer
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from evals.session_lm import SessionLM

    texts = ["short", "a longer text " * 25, "x" * 128, "y" * 129]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    hf = HFLM(
        pretrained=str(byte_checkpoint), device="cpu", dtype="float32", batch_size=2, add_bos_token=False
    )
    ours = SessionLM(byte_session, byte_tokenizer, batch_size=3)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(hf.loglikelihood_rolling(requests), rel=1e-5)


def test_empty_contexts_and_trailing_spaces_are_split_as_hf_does(
    byte_checkpoint: Path, byte_session: RecomputingSession, byte_tokenizer: Tokenizer
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from evals.session_lm import SessionLM

    pairs = [
        ("", "alone"),
        ("", "<bos>led"),
        ("ends in spaces  ", "here"),
        ("<bos>given", " once"),
        ("a", "b"),
    ]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    for add_bos in (False, True):
        hf = HFLM(
            pretrained=str(byte_checkpoint),
            device="cpu",
            dtype="float32",
            batch_size=2,
            add_bos_token=add_bos,
        )
        tokenizer = Tokenizer.from_directory(byte_checkpoint, add_bos=add_bos)
        ours = SessionLM(byte_session, tokenizer, batch_size=3).loglikelihood(requests)
        theirs = hf.loglikelihood(requests, disable_tqdm=True)
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
        assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=1e-5)


def test_few_shot_prompts_are_those_of_a_stock_run(
    tmp_path: Path, byte_session: RecomputingSession, byte_tokenizer: Tokenizer
) -> None:
    from lm_eval.evaluator import evaluate as lm_evaluate

    from evals.session_lm import SessionLM

    shots = "num_fewshot: 2\nfewshot_split: test\nmetric_list: [{metric: acc}]\n"
    write_task(tmp_path, CHOICE + shots)
    task = load(tmp_path).tasks[0]
    stock = load(tmp_path).tasks[0]._task
    stock.set_fewshot_seed(1234)  # as lm-eval's command line does
    model = SessionLM(byte_session, byte_tokenizer, batch_size=4)
    theirs = lm_evaluate(model, {"tasks": {"own": stock}}, bootstrap_iters=0)["samples"]["own"]
    for sample in theirs:
        ours = [request.arguments for request in task.requests(sample["doc_id"], chat=model)]
        assert ours == [tuple(arguments) for arguments in sample["arguments"]]
        assert task.document_hash(sample["doc_id"]) == sample["doc_hash"]
