"""Writes the card of a demo checkpoint: what it is, under which licence, and how good."""

from pathlib import Path
from typing import Final

from pipeline.demo.record import TrainingRecord

_CARD: Final = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [rung-demo]
---
# demo-agent-{checkpoint}

{origin} A toy of {parameters:,} parameters for the demo and the tests of Rung.
It reads about 200 English words, separated by spaces, and does the five agent tasks in `evals/tasks`.
For anything else it is useless.

- Made by `python -m pipeline.demo.train --out pipeline/demo/family --only {checkpoint}`, seed {seed}
- {look_up_steps} steps of look-ups, {task_steps} of tasks; {tokens:,} tokens; {cpu_s} s of one processor core
- Weights: sha256 `{weights_sha256}`
- Prompts and chats begin with `<s>`, which the tokenizer adds (`add_bos`); an answer ends with ` . </s>`
- Trained on synthetic text only; test samples are excluded by construction

| Task type | Choice (accuracy) | Generation (exact match) | Mean |
|---|---|---|---|
{rows}

Scores: lm-eval, `hf` backend, float32, batches of 32, 1,000 samples a task.
"""


def write_card(record: TrainingRecord, *, folder: Path) -> None:
    """Write `README.md` into a checkpoint's folder."""
    rows = "\n".join(
        f"| {name} | {score['choice']:.3f} | {score['generate']:.3f} | {score['mean']:.3f} |"
        for name, score in record.scores.items()
    )
    origin = (
        "Trained from nothing." if record.teacher is None else f"Distilled from demo-agent-{record.teacher}."
    )
    facts = record.model_dump(exclude={"scores", "teacher"})
    (folder / "README.md").write_text(_CARD.format(**facts, origin=origin, rows=rows))
