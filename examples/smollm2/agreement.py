"""Whether Rung's float32 artifacts of a real checkpoint answer as transformers and lm-eval's `hf` backend do.

For each toolchain: 50 conversations (`prompts.jsonl`) are sent to `rung serve`, and its answers are held
against transformers' greedy ones; the logits from which each of their tokens is chosen, against transformers'
in float64; and every sample that the build evaluated, against lm-eval's own `hf` backend with the same
settings. What may differ is in `evals/agreement.py`.

Usage, in the workspace of `make real`:
`python examples/smollm2/agreement.py --checkpoint DIRECTORY --release NAME`; exit 1 without agreement
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

from compilers.backend import find_backend
from compilers.check.bounds import FLOAT_BOUND
from compilers.check.float_error import FloatError, FloatFigures, float_error, float_figures, worst
from compilers.check.probe import counted
from compilers.check.torch_precision import exact_logits
from compilers.model.torch_reference import TorchSession
from compilers.runtime import FloatArray, Session
from evals.agreement import (
    ChatAnswer,
    Comparison,
    Difference,
    GreedyChoice,
    ReferenceAnswer,
    answer_choice,
    compare_answer,
    compare_outcome,
    forced_logits,
    logit_bounds,
    token_choices,
)
from evals.scorecard import Scorecard
from pipeline.demo.commands import ask, quote, rung, say, serving
from registry.ladder import Ladder, TaskEntry, read_ladder
from registry.store import Store
from serving.node.directory import NodeDirectory
from serving.node.host import this_host
from serving.node.load import load_bundle

PROMPTS: Final = Path(__file__).parent / "prompts.jsonl"
RECIPE: Final = "fp32"
NODE: Final = "node"
NEW_TOKENS: Final = 24
CALLERS: Final = 8
GROUP: Final = 10
"""Conversations whose logits are in memory together."""

Message = Mapping[str, str]
Sample = Mapping[str, Any]  # Any: JSON that lm-eval logs


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A float32 cell of the checkpoint."""

    id: str
    artifact: str
    toolchain: str
    cards: tuple[Scorecard, ...]
    """What the build evaluated, one for each task type."""


@dataclass(frozen=True, slots=True)
class Forced:
    """The reference along given answers, one position for each of their tokens."""

    logits: FloatArray
    """Transformers' in float32 [positions, vocab]."""
    exact: FloatArray
    """In float64."""
    error: FloatError
    """Of the former against the latter."""


class Reference:
    """A checkpoint in transformers, as its own documentation uses it.

    Args:
        checkpoint: In the Hugging Face layout.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.session = TorchSession(checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        stops = self.session.model.generation_config.eos_token_id
        self._stops: list[int] = stops if isinstance(stops, list) else [stops]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, up to where the assistant's next answer begins."""
        rendered = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=True
        )
        return list(rendered["input_ids"])

    def generate(self, prompts: Sequence[Sequence[int]], *, new_tokens: int) -> list[list[int]]:
        """Greedy answers, each with the stop token that ended it."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        with torch.inference_mode():
            rows = self.session.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new_tokens,
                pad_token_id=self._stops[0],
            )
        return [self._cut(row) for row in rows[:, longest:].tolist()]

    def force(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Forced:
        """The logits from which each token of the answers is chosen, each answer in one pass, uncached."""
        sequences = [
            [*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)
        ]  # the last token is chosen, not read
        with torch.inference_mode():
            logits = np.concatenate(
                [
                    self.session.model(torch.tensor([sequence]), logits_to_keep=len(answer)).logits[0].numpy()
                    for sequence, answer in zip(sequences, answers, strict=True)
                ]
            )
        ends = np.cumsum([counted(sequence) for sequence in sequences])
        kept = [np.arange(end - len(answer), end) for end, answer in zip(ends, answers, strict=True)]
        exact = exact_logits(self.session, sequences)[np.concatenate(kept)]
        return Forced(logits, exact, float_error([logits], exact=exact))

    def answers(
        self, answers: Sequence[Sequence[int]], forced: Forced, *, factor: float
    ) -> list[ReferenceAnswer]:
        """Answers with the lead and bound of each choice, for a backend with this factor on the bound."""
        choices = iter(token_choices(forced.logits, bounds=logit_bounds(forced.error, factor=factor)))
        return [
            ReferenceAnswer(
                texts=tuple(self._decode(answer[: place + 1]) for place in range(len(answer))),
                choices=tuple(next(choices) for _ in answer),
                ended=answer[-1] in self._stops,
            )
            for answer in answers
        ]

    def sample_choices(self, sample: Sample, *, factor: float) -> tuple[GreedyChoice, ...]:
        """All that the reference chooses in a sample of lm-eval."""
        pairs = [(arguments[0], arguments[1]) for arguments in sample["arguments"]]
        contexts = [self._encode_text(context) for context, _ in pairs]
        if isinstance(pairs[0][1], Mapping):
            answers = self.generate(contexts, new_tokens=pairs[0][1]["max_gen_toks"])
            return self.answers(answers, self.force(contexts, answers), factor=factor)[0].choices
        endings = [self._encode_text(context + ending) for context, ending in pairs]
        bounds = []
        for context, whole in zip(contexts, endings, strict=True):
            forced = self.force([context], [whole[len(context) :]])
            bounds.append(float(logit_bounds(forced.error, factor=factor).sum()))
        scores = [response[0][0] for response in sample["resps"]]
        return (answer_choice(scores, bounds=bounds),)

    def _encode_text(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _cut(self, tokens: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(tokens) if token in self._stops]
        return tokens[: ends[0] + 1] if ends else tokens


@dataclass(frozen=True, slots=True)
class Column:
    """What was found of one cell."""

    chats: Comparison
    figures: FloatFigures
    """Of the logits along the reference's answers, in units of torch's own error."""
    limit: FloatFigures
    samples: Mapping[str, Comparison]
    """By lm-eval task."""

    @property
    def holds(self) -> bool:
        """Whether everything agrees."""
        parts = (self.chats, *self.samples.values())
        return self.figures.within(self.limit) and all(part.holds for part in parts)


def main() -> int:
    """Compare, and print what was found; the exit code."""
    parser = argparse.ArgumentParser(description="Compare with transformers and lm-eval's hf backend.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the ladder's best, in the HF layout")
    parser.add_argument("--release", required=True)
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="JSON lines with `messages`")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    ladder = read_ladder(Path("ladder.toml"))
    cells = float_cells(ladder)
    conversations = [json.loads(line)["messages"] for line in options.prompts.read_text("utf-8").splitlines()]
    served = {cell: serve_and_ask(cell, conversations, release=options.release) for cell in cells}
    say(f"\nthe same conversations with transformers {version('transformers')}, in float32 and in float64")
    reference = Reference(options.checkpoint)
    chats, figures = compare_chats(cells, conversations, served, reference=reference)
    say(f"the same samples with lm-eval {version('lm-eval')} and its `hf` backend")
    samples = compare_samples(cells, ladder, checkpoint=options.checkpoint, reference=reference)
    columns = {cell: Column(chats[cell], figures[cell], _limit(cell), samples[cell]) for cell in cells}
    say("\n" + table(columns))
    if not all(column.holds for column in columns.values()):
        say("error: the artifacts do not answer as the reference does")
        return 1
    return 0


def float_cells(ladder: Ladder) -> list[Cell]:
    """The float32 cells of the ladder's best checkpoint in the workspace here."""
    command = [sys.executable, "-m", "pipeline.cli.main", "matrix", "show", "--json", "--recipe", RECIPE]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    store = Store(Path(".rung/store"))
    best = ladder.tier[0].checkpoint
    return [
        Cell(
            id=cell["id"],
            artifact=cell["artifact"],
            toolchain=cell["toolchain"],
            cards=tuple(
                Scorecard.model_validate_json(store.read_bytes(task["scorecard"])) for task in cell["tasks"]
            ),
        )
        for cell in shown["cells"]
        if cell["checkpoint"].partition("/")[0] == best
    ]


def serve_and_ask(
    cell: Cell, conversations: Sequence[Sequence[Message]], *, release: str
) -> list[ChatAnswer]:
    """Pull a cell, serve it, and ask it every conversation as chat clients do, several at a time."""
    here = Path.cwd()
    rung("pull", release, "--artifact", cell.id, "--out", NODE, at=here)
    command = ["serve", "--node", NODE, "--artifact", cell.id, "--port", "0"]
    say(f"\n$ rung {' '.join(quote(a) for a in command)} &")

    def answer(messages: Sequence[Message]) -> ChatAnswer:
        body = {"model": cell.id.partition("/")[0], "messages": messages}
        _, found = ask(f"{url}/chat/completions", body | {"max_tokens": NEW_TOKENS, "temperature": 0}, {})
        [choice] = found["choices"]
        return ChatAnswer(choice["message"]["content"] or "", ended=choice["finish_reason"] == "stop")

    with serving(command, at=here) as url, ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(answer, conversations))


def compare_chats(
    cells: Sequence[Cell],
    conversations: Sequence[Sequence[Message]],
    served: Mapping[Cell, Sequence[ChatAnswer]],
    *,
    reference: Reference,
) -> tuple[dict[Cell, Comparison], dict[Cell, FloatFigures]]:
    """The served answers, and the logits of the artifacts along the reference's."""
    differences: dict[Cell, list[Difference]] = {cell: [] for cell in cells}
    figures: dict[Cell, list[FloatFigures]] = {cell: [] for cell in cells}
    sessions = {cell: open_session(cell) for cell in cells}
    numbered = list(enumerate(conversations, start=1))
    for begin in range(0, len(numbered), GROUP):
        group = numbered[begin : begin + GROUP]
        prompts = [reference.encode(messages) for _, messages in group]
        tokens = reference.generate(prompts, new_tokens=NEW_TOKENS)
        forced = reference.force(prompts, tokens)
        for cell in cells:
            run = forced_logits(sessions[cell], prompts=prompts, answers=tokens)
            figures[cell].append(float_figures(run, exact=forced.exact, error=forced.error))
            answers = reference.answers(tokens, forced, factor=_factor(cell))
            for (number, messages), answer in zip(group, answers, strict=True):
                item = f"conversation {number}, {messages[-1]['content']!r}"
                found = compare_answer(item, ours=served[cell][number - 1], reference=answer)
                if found is not None:
                    differences[cell].append(found)
    return (
        {cell: Comparison(len(conversations), tuple(differences[cell])) for cell in cells},
        {cell: worst(figures[cell]) for cell in cells},
    )


def open_session(cell: Cell) -> Session:
    """The artifact that was served, loaded as `rung serve` loads it."""
    path = NodeDirectory(Path(NODE)).find_bundle(cell.artifact)
    return load_bundle(path, host=this_host(), files="trust", threads=os.cpu_count() or 1).session


def compare_samples(
    cells: Sequence[Cell], ladder: Ladder, *, checkpoint: Path, reference: Reference
) -> dict[Cell, dict[str, Comparison]]:
    """The outcomes that the build stored, and those of lm-eval's `hf` backend on the same samples."""
    found: dict[Cell, dict[str, Comparison]] = {cell: {} for cell in cells}
    with tempfile.TemporaryDirectory() as cache:
        import datasets
        from lm_eval.models.huggingface import HFLM

        datasets.config.HF_DATASETS_CACHE = Path(cache)
        datasets.disable_progress_bars()
        # No BOS beside what the template writes: so does transformers' own `apply_chat_template`.
        model = HFLM(
            pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=8, add_bos_token=False
        )
        for task_type, entry in ladder.task.items():
            cards = {cell: _card(cell, task_type) for cell in cells}
            for name, samples in hf_samples(model, entry, list(cards.values())).items():
                for cell, card in cards.items():
                    found[cell][name] = compare_task(
                        card, name, samples, reference=reference, factor=_factor(cell)
                    )
    return found


def hf_samples(
    model: Any,  # noqa: ANN401  # lm-eval ships no types
    entry: TaskEntry,
    cards: Sequence[Scorecard],
) -> dict[str, list[Sample]]:
    """Task → the samples that any of the scorecards has, as lm-eval's own evaluation logs them."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    [prompting] = {card.prompting for card in cards}
    taken = {(outcome.task, outcome.doc_id) for card in cards for outcome in card.outcomes}
    folder = Path(entry.include or ".").resolve()
    with contextlib.chdir(folder):  # the YAML names its data relative to itself
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        found: dict[str, list[Sample]] = simple_evaluate(
            model=model,
            tasks=list(entry.tasks),
            task_manager=manager,
            samples={name: sorted(n for task, n in taken if task == name) for name in entry.tasks},
            num_fewshot=entry.num_fewshot,
            apply_chat_template=prompting.chat_template,
            system_instruction=prompting.system_prompt,
            fewshot_as_multiturn=prompting.fewshot_as_multiturn,
            bootstrap_iters=0,
            log_samples=True,
        )["samples"]
    return found


def compare_task(
    card: Scorecard, name: str, samples: Sequence[Sample], *, reference: Reference, factor: float
) -> Comparison:
    """The outcomes of one lm-eval task."""
    theirs = {sample["doc_hash"]: sample for sample in samples}
    ours = [outcome for outcome in card.outcomes if outcome.task == name]
    differences = []
    for outcome in ours:
        sample = theirs[outcome.doc_hash]
        [metric] = sample["metrics"]
        if outcome.value != sample[metric]:
            difference = compare_outcome(
                f"{name}, sample {outcome.doc_id}",
                ours=outcome.value,
                reference=sample[metric],
                choices=reference.sample_choices(sample, factor=factor),
            )
            differences += [difference] if difference else []
    return Comparison(len(ours), tuple(differences))


def table(columns: Mapping[Cell, Column]) -> str:
    """What was found, a column for each cell, and every difference below it."""
    rows = [["", *(f"{RECIPE} {cell.toolchain}" for cell in columns)]]
    names = list(next(iter(columns.values())).samples)
    rows.append(["chat answers", *(_counts(column.chats) for column in columns.values())])
    rows += [[name, *(_counts(column.samples[name]) for column in columns.values())] for name in names]
    rows.append(
        [
            "error of logits, in torch's",
            *(f"{one.figures.overall:.2g} × (bound {one.limit.overall:g} ×)" for one in columns.values()),
        ]
    )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *_notes(columns)])


def _notes(columns: Mapping[Cell, Column]) -> Iterator[str]:
    for cell, column in columns.items():
        if not column.figures.within(column.limit):
            yield f"{cell.id}: the logits are off by {column.figures}; the bound is {column.limit}"
        for part in (column.chats, *column.samples.values()):
            for one in part.differences:
                kind = "a tie" if one.choice.is_tie else "not a tie"
                yield (
                    f"{cell.id}: {one.item}: {one.ours}, the reference {one.reference}; {kind}: its best two "
                    f"are {one.choice.lead:.2g} apart, the bound is {one.choice.bound:.2g}"
                )


def _counts(agreement: Comparison) -> str:
    ties, others = len(agreement.ties), len(agreement.contradictions)
    equal = agreement.compared - ties - others
    return (
        f"{equal} of {agreement.compared} equal"
        + (f", {ties} tie{'s' if ties > 1 else ''}" if ties else "")
        + (f", {others} differ" if others else "")
    )


def _card(cell: Cell, task_type: str) -> Scorecard:
    return next(card for card in cell.cards if card.task_type == task_type)


def _factor(cell: Cell) -> float:
    return find_backend(cell.toolchain).float_factor


def _limit(cell: Cell) -> FloatFigures:
    return FLOAT_BOUND.times(_factor(cell))


if __name__ == "__main__":
    sys.exit(main())
