"""`python -m benchmarks.gptq OTHER CHECKPOINT TEXTS`: GPTQ in two checkouts of Rung, side by side in one run.

Each checkout quantizes the checkpoint with its own code in a process of its own; the two take turns. Printed
are medians of wall-clock and processor time and their ratios (above 1: this checkout is faster), and the mean
KL divergence of each result from the float checkpoint, in nats per position of texts unseen by GPTQ.

Exit code 0: both quantized in every round; 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import ROOT, child_environment
from benchmarks.machine import Watch, this_machine

CHILD = """
import inspect, json, sys, time
from pathlib import Path

import numpy as np
from compilers.model.architecture import read_architecture
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.quantize.variant import quantize
from compilers.runtime import Segment
from registry.recipe import parse_recipe

checkpoint, texts, recipe, out, threads, measure = *map(Path, sys.argv[1:3]), sys.argv[3], *sys.argv[4:7]
recipe, out = parse_recipe(recipe), Path(out)
tokens = json.loads(texts.read_text())
known = {"threads": int(threads), "progress": lambda text: None}
options = {name: value for name, value in known.items() if name in inspect.signature(quantize).parameters}
architecture = read_architecture(json.loads((checkpoint / "config.json").read_text()), where="config.json")
wall, cpu = time.perf_counter(), time.process_time()
quantize(checkpoint, recipe, architecture=architecture, out=out, calibration=tokens["seen"], **options)
found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
if measure == "yes":
    def log_softmax(session):
        logits = []
        for text in tokens["unseen"]:
            cache = session.new_cache(rows=1, capacity=len(text))
            logits += session.forward(cache, [Segment(0, text, "all")])
        logits = np.concatenate(logits).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    want = log_softmax(TorchSession(checkpoint))
    weights = dequantized_state(out / "weights.safetensors", recipe)
    made = log_softmax(TorchSession(checkpoint, weights=weights))
    found["kl"] = float((np.exp(want) * (want - made)).sum(-1).mean())
print(json.dumps(found))
"""
"""Run in each checkout: quantizes once and prints what it took; GPTQ need not have threads there."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one quantization took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of processor time, of all threads together."""
    kl: float | None = None
    """Nats per position; measured in the first round."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    options = _parser().parse_args(arguments)
    watch = Watch.start()
    rounds: list[tuple[Taken, Taken]] = []
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.json"
        texts.write_text(json.dumps(_tokens(options.checkpoint, options.texts)), encoding="utf-8")
        for number in range(options.rounds):
            taken = []
            for root in (options.other.resolve(), ROOT):
                with tempfile.TemporaryDirectory(dir=scratch) as out:
                    given = [options.checkpoint.resolve(), texts, options.recipe, out, options.threads]
                    given.append("no" if number else "yes")
                    done = subprocess.run(
                        [sys.executable, "-c", CHILD, *map(str, given)],
                        cwd=root,
                        env=child_environment(),
                        stdout=subprocess.PIPE,
                        check=False,
                    )
                    if done.returncode != 0:
                        print(f"error: `{root}` did not quantize the checkpoint", file=sys.stderr)
                        return 1
                    taken.append(Taken(**json.loads(done.stdout.splitlines()[-1])))
            rounds.append((taken[0], taken[1]))
    quiet = watch.stop()
    print(page(rounds, machine=this_machine().model_dump_json(), quiet=quiet.model_dump_json()))
    return 0


def page(rounds: Sequence[tuple[Taken, Taken]], *, machine: str, quiet: str) -> str:
    """The result in Markdown.

    Args:
        rounds: What the other checkout and this one took, per round; KL in the first.
        machine: Where it was measured.
        quiet: What else ran.
    """
    before, after = rounds[0]
    lines = [
        "| | Other checkout | This checkout | Ratio |",
        "|---|---|---|---|",
        _row("wall clock, s", [(b.wall, a.wall) for b, a in rounds]),
        _row("processor time, s", [(b.cpu, a.cpu) for b, a in rounds]),
        f"| KL to float, nats | {before.kl:.4f} | {after.kl:.4f} | |",
    ]
    note = f"Medians of {len(rounds)} rounds; the ratio is the median of the rounds' ratios."
    return "\n".join([note, "", *lines, "", f"Machine: `{machine}`; other work: `{quiet}`"])


def _row(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    before, after = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for b, a in pairs)
    return f"| {name} | {before:.1f} | {after:.1f} | {ratio:.2f} |"


def _tokens(checkpoint: Path, texts: Path) -> dict[str, list[list[int]]]:
    """Token ids of the texts: every sixth is kept from GPTQ."""
    from compilers.model.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_directory(checkpoint, add_bos=False, eos_token_ids=())
    lines = texts.read_text(encoding="utf-8").splitlines()
    found = [[int(token) for token in tokenizer.encode(json.loads(line)["text"])] for line in lines]
    return {"seen": [t for i, t in enumerate(found) if i % 6], "unseen": found[::6]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.gptq"
    )
    parser.add_argument("other", type=Path, help="a checkout of Rung, the base of the ratios")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("texts", type=Path, help='JSON Lines with "text"')
    parser.add_argument("--recipe", default="w4g32-gptq")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
