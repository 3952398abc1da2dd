"""`python -m benchmarks.checkouts OTHER`: two checkouts of Rung side by side in one run.

Each checkout builds the artifacts of one panel with its own code and runs them in its own worker process; the
workers take turns as in every other benchmark (`rounds.py`). The other checkout is the base of the ratios, so
a value above 1 says that this one has become slower.

Exit code 0: everything was measured and both checkouts gave the same tokens; 1 otherwise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoint import FULL, QUICK, BenchmarkShape, prompt_tokens
from benchmarks.child import ROOT, child_environment
from benchmarks.engines.interface import EngineSpec
from benchmarks.machine import Watch, this_machine
from benchmarks.products import INT4_PANEL, RECIPES
from benchmarks.rounds import EngineMeasurement, Panel, RoundsPlan, agreement, measure_panel, ratio

BUILD = """
import sys
from pathlib import Path
from benchmarks import checkpoint
from benchmarks.build import build_all, lock_cache, step_directory
from benchmarks.products import artifact_spec, artifacts
from benchmarks.steps import Export, Quantize
from serving.node.host import this_host

shape = next(s for s in (checkpoint.FULL, checkpoint.QUICK) if s.name == sys.argv[2])
cache = Path(sys.argv[1]) / shape.name
lower = artifacts(sys.argv[3], host=this_host())
recipes = dict.fromkeys(step.recipe for step in lower)
steps = [Export(), *(Quantize(recipe=recipe) for recipe in recipes), *lower]
with lock_cache(cache):
    facts = checkpoint.make_checkpoint(cache / "checkpoint", shape=shape)
    records = build_all(steps, checkpoint=cache / "checkpoint", facts=facts, cache=cache)
for step in lower:
    if records[step.name].error is None:
        print(artifact_spec(step, step_directory(cache, step)).model_dump_json(exclude_none=True))
"""
"""Run in each checkout: builds a panel's artifacts and prints their engines."""
MOVED = {"from serving.node.host": "from serving.host"}
"""Imports as checkouts from before the move of `serving/host.py` have them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    options = _parser().parse_args(arguments)
    shape = QUICK if options.quick else FULL
    other = options.other.resolve()
    pairs = _pairs(
        _built(other, shape, cache=options.cache / "other", panel=options.panel),
        _built(ROOT, shape, cache=options.cache / "this", panel=options.panel),
    )
    plan = RoundsPlan(prompt=tuple(prompt_tokens(shape, count=128)), rounds=options.rounds)
    watch = Watch.start()
    lines, sound = [], bool(pairs)
    for threads in options.threads:
        for panel in pairs:
            base, ours = measure_panel(panel, plan, threads=threads)
            lines.append(_row(base, ours))
            sound &= (
                base.error is None
                and ours.error is None
                and agreement(base.tokens, ours.tokens) == len(base.tokens)
            )
    quiet = watch.stop()
    print(_page(lines, machine=this_machine().model_dump_json(), quiet=quiet.model_dump_json()))
    return 0 if sound else 1


def _built(root: Path, shape: BenchmarkShape, *, cache: Path, panel: str) -> list[EngineSpec]:
    code = BUILD
    for new, old in MOVED.items():
        if not (root / "serving" / "node").is_dir():
            code = code.replace(new, old)
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache.resolve()), shape.name, panel],
        cwd=root,
        env=child_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    specs = [EngineSpec.model_validate_json(line) for line in done.stdout.splitlines()]
    return [spec.model_copy(update={"checkout": root}) for spec in specs]


def _pairs(other: Sequence[EngineSpec], ours: Sequence[EngineSpec]) -> list[Panel]:
    by_name = {spec.name: spec for spec in other}
    return [
        Panel(
            name=spec.name,
            engines=(
                by_name[spec.name].model_copy(update={"name": f"{spec.name}, other checkout"}),
                spec,
            ),
        )
        for spec in ours
        if spec.name in by_name
    ]


def _row(base: EngineMeasurement, ours: EngineMeasurement) -> str:
    if base.error or ours.error:
        return f"| {ours.engine} | {ours.threads} | {base.error or ours.error} | | |"
    cells = []
    for times, against in ((ours.decode_ms, base.decode_ms), (ours.prefill_ms, base.prefill_ms)):
        found = ratio(times, against)
        cells.append("–" if found is None else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})")
    common = agreement(base.tokens, ours.tokens)
    return f"| {ours.engine} | {ours.threads} | {cells[0]} | {cells[1]} | {common} of {len(base.tokens)} |"


def _page(lines: Sequence[str], *, machine: str, quiet: str) -> str:
    head = [
        "| Artifact | Threads | Decode | Prefill | Same tokens |",
        "|---|---|---|---|---|",
    ]
    note = "Time of this checkout over the other's in the same round: median (quartiles); above 1 is slower."
    return "\n".join([note, "", *head, *lines, "", f"Machine: `{machine}`; other work: `{quiet}`"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkouts", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("other", type=Path, help="root of the other checkout, such as a `git worktree`")
    parser.add_argument(
        "--panel", choices=RECIPES, default=INT4_PANEL, help="whose artifacts (4-bit weights)"
    )
    parser.add_argument("--quick", action="store_true", help="4 layers instead of 24")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / "benchmarks" / ".cache" / "checkouts",
        help="where builds are kept",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
