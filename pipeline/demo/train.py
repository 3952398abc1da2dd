"""Trains the demo family: `python -m pipeline.demo.train --out DIR [--only flagship]`.

This script made the checkpoints in `pipeline/demo/family`.
Each first learns to look words up in its context, then the agent tasks; the smaller ones also learn what the
flagship thinks of every answer. One thread, fixed seeds.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import LlamaForCausalLM

from evals.tasks.catalog import TASK_TYPES
from evals.tasks.draw import Draw
from pipeline.demo.card import write_card
from pipeline.demo.corpus import (
    IGNORED,
    TrainingBatch,
    TrainingDocument,
    collate,
    look_up_document,
    task_document,
    wide_look_up_document,
)
from pipeline.demo.muon import Muon
from pipeline.demo.record import TrainingRecord
from pipeline.demo.shape import SHAPES, DemoShape, build_untrained
from pipeline.demo.tokenizer import save_tokenizer

SEED: Final = 0
_TOKENS_PER_BATCH: Final = 2400
_MATRIX_RATE: Final = 0.008
_EMBEDDING_RATE: Final = 0.01
_OTHER_RATE: Final = 0.003
_RISING_STEPS: Final = 20
_FALLING_SHARE: Final = 0.5
"""The last share of the steps, in which the rates fall to their lowest."""
_LOWEST_RATE: Final = 0.02
_LOOK_UP_PAIRS: Final = 20
_LOOK_UP_MASTERED: Final = 0.95
_LOOK_UP_STEPS: Final = 250
"""Each of the two warm-ups ends here even if it is not mastered."""
_KEPT: Final = 0.95
"""The share of a running mean that stays at each step."""
_BASE_LOSS: Final = 0.05
"""Added to a task type's loss when they are drawn by loss, so that none is forgotten."""
_TEACHER_SHARE: Final = 0.7
_REPORT_STEPS: Final = 50


@dataclass(slots=True)
class Trainer:
    """One checkpoint under training."""

    network: LlamaForCausalLM
    shape: DemoShape
    draw: Draw
    matrices: Muon = field(init=False)
    others: torch.optim.AdamW = field(init=False)
    losses: list[float] = field(init=False)
    """Running mean of the loss by task type."""
    teacher: LlamaForCausalLM | None = None
    tokens: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        """Share the parameters out between the optimizers."""
        inside = [weight for weight in self.network.model.layers.parameters() if weight.ndim > 1]
        embedding = self.network.model.embed_tokens.weight
        taken = {id(weight) for weight in (*inside, embedding)}
        rest = [weight for weight in self.network.parameters() if id(weight) not in taken]
        self.matrices = Muon(inside)
        self.others = torch.optim.AdamW(
            [{"params": [embedding], "rate": _EMBEDDING_RATE}, {"params": rest, "rate": _OTHER_RATE}],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self.losses = [1.0] * len(TASK_TYPES)

    def learn_to_look_up(self) -> None:
        """Train on pairs of words until nearly every one is found again."""
        self._master(lambda: look_up_document(self.draw, pairs=_LOOK_UP_PAIRS))
        self._master(lambda: wide_look_up_document(self.draw))

    def _master(self, source: Callable[[], TrainingDocument]) -> None:
        mastered, last_step = 0.0, self.steps + _LOOK_UP_STEPS
        while mastered < _LOOK_UP_MASTERED and self.steps < last_step:
            mastered = self._step(collate(self._fill(source)), rate=1.0)
            self._report(f"look-up {mastered:.2f}")

    def learn_tasks(self, *, teacher: LlamaForCausalLM | None) -> None:
        """Train on the agent tasks, those with the higher loss more often, and from a teacher if given."""
        self.teacher = teacher
        for step in range(self.shape.steps):
            left = (self.shape.steps - step) / (self.shape.steps * _FALLING_SHARE)
            documents = self._fill(lambda: task_document(self.draw, kind=self._draw_kind()))
            self._step(collate(documents), rate=max(_LOWEST_RATE, min(1.0, left)))
            names = zip(TASK_TYPES, self.losses, strict=True)
            self._report(", ".join(f"{name} {loss:.3f}" for name, loss in names))

    def _fill(self, source: Callable[[], TrainingDocument]) -> list[TrainingDocument]:
        documents = [source()]
        while sum(len(document.words) for document in documents) < _TOKENS_PER_BATCH:
            documents.append(source())
        return documents

    def _draw_kind(self) -> int:
        weights = [loss + _BASE_LOSS for loss in self.losses]
        left = self.draw.below(1_000_000) / 1_000_000 * sum(weights)
        for kind, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return kind
        return len(weights) - 1

    def _step(self, batch: TrainingBatch, *, rate: float) -> float:
        """Learn from one batch; return the share of answer words that were right."""
        logits = self.network(batch.inputs, use_cache=False).logits
        learned = batch.targets != IGNORED
        each = cross_entropy(logits.transpose(1, 2), batch.targets, ignore_index=IGNORED, reduction="none")
        loss = each.sum() / learned.sum()
        if self.teacher is not None:
            loss = (1 - _TEACHER_SHARE) * loss + _TEACHER_SHARE * self._divergence(batch, logits, learned)
        self.network.zero_grad()
        loss.backward()
        rate *= min(1.0, (self.steps + 1) / _RISING_STEPS)
        for group in self.others.param_groups:
            group["lr"] = group["rate"] * rate
        self.matrices.step(rate=_MATRIX_RATE * rate)
        self.others.step()
        self.steps += 1
        self.tokens += batch.inputs.numel()
        for kind in range(len(self.losses)):
            rows = batch.kinds == kind
            if rows.any():
                now = float(each.detach()[rows].sum() / learned[rows].sum())
                self.losses[kind] = _KEPT * self.losses[kind] + (1 - _KEPT) * now
        return float((logits.argmax(-1) == batch.targets)[learned].float().mean())

    def _divergence(self, batch: TrainingBatch, logits: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
        """Mean KL divergence from the teacher on the answers."""
        assert self.teacher is not None  # for the type checker: the caller has asked
        with torch.no_grad():
            taught = log_softmax(self.teacher(batch.inputs, use_cache=False).logits[learned], dim=-1)
        return kl_div(log_softmax(logits[learned], dim=-1), taught, log_target=True, reduction="batchmean")

    def _report(self, news: str) -> None:
        if self.steps % _REPORT_STEPS == 0:
            sys.stderr.write(f"step {self.steps}: {news}\n")


def train(name: str, *, out: Path) -> TrainingRecord:
    """Train one checkpoint of the family and write its folder below `out`.

    A distilled one needs its teacher's folder there.
    """
    shape = SHAPES[name]
    started_s = time.process_time()
    network = build_untrained(shape, seed=SEED)
    trainer = Trainer(network, shape, Draw(SEED + 1))
    trainer.learn_to_look_up()
    look_up_steps = trainer.steps
    teacher = None if shape.teacher is None else LlamaForCausalLM.from_pretrained(out / shape.teacher)
    trainer.learn_tasks(teacher=teacher)
    folder = out / name
    network.save_pretrained(folder)
    save_tokenizer(folder)
    return TrainingRecord(
        checkpoint=name,
        teacher=shape.teacher,
        seed=SEED,
        parameters=sum(weight.numel() for weight in network.parameters()),
        look_up_steps=look_up_steps,
        task_steps=shape.steps,
        tokens=trainer.tokens,
        cpu_s=round(time.process_time() - started_s),
        weights_sha256=sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        scores={},
    )


def main() -> None:
    """Train, score and describe the checkpoints that are asked for."""
    parser = ArgumentParser(prog="python -m pipeline.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the family")
    parser.add_argument(
        "--only", choices=tuple(SHAPES), action="append", help="train this one; may be repeated"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from pipeline.demo.score import score_checkpoint  # lm-eval takes seconds to import

    for name in arguments.only or tuple(SHAPES):
        record = train(name, out=arguments.out)
        scored = record.model_copy(update={"scores": score_checkpoint(arguments.out / name)})
        (arguments.out / name / "training.json").write_text(scored.model_dump_json(indent=2) + "\n")
        write_card(scored, folder=arguments.out / name)
        sys.stdout.write(json.dumps(scored.model_dump(mode="json")) + "\n")


if __name__ == "__main__":
    main()
