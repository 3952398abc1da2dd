"""`python -m benchmarks.run`: build, measure, compare with the goals, write the report.

Exit code 0: everything was measured and all engines with float32 weights gave the same output; 1 otherwise. A
missed goal is a finding, not a failure: speed depends on the machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.build import StepRecord, build_all, forget_steps, lock_cache, step_directory
from benchmarks.checkpoint import FULL, QUICK, BenchmarkShape, make_checkpoint, prompt_tokens
from benchmarks.divergence import Reference
from benchmarks.goals import judge_goals
from benchmarks.machine import Watch, this_machine
from benchmarks.overhead import OverheadLoad, Served, measure_overhead
from benchmarks.page import render, speed_table
from benchmarks.products import (
    BASE_TARGET,
    INT4_PANEL,
    RECIPES,
    THREADS_PANEL,
    all_panels,
    all_steps,
    artifact_spec,
    reference_spec,
    threads_panel,
)
from benchmarks.report import BenchmarkReport
from benchmarks.rounds import EngineMeasurement, RoundsPlan, agreement, measure_panel
from benchmarks.steps import Lower
from registry.errors import RungError
from serving.node.host import this_host

CACHE = Path(__file__).parent / ".cache"
SERVED = Lower(toolchain="onnxruntime", recipe="w4g32-rtn", target=BASE_TARGET)
"""The artifact behind the server: the fastest, so that the server's own time shows most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    options = _parser().parse_args(arguments)
    shape = QUICK if options.quick else FULL
    cache = (options.cache / shape.name).resolve()
    try:
        with lock_cache(cache):
            if options.fresh:
                forget_steps(cache)
            report = measure(
                shape, cache=cache, threads=options.threads, rounds=options.rounds, only=options.panel
            )
    except RungError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    page = render(report)
    print(page)
    out = options.out or cache / "results.json"
    out.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    print(f"numbers: {out}", file=sys.stderr)
    if options.page is not None:
        options.page.write_text(page, encoding="utf-8")
        print(f"page: {options.page}", file=sys.stderr)
    problems = problems_of(report)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def measure(
    shape: BenchmarkShape, *, cache: Path, threads: Sequence[int], rounds: int, only: str | None = None
) -> BenchmarkReport:
    """Everything, for one shape; of one panel alone, without the server, if one is named."""
    began, host = time.monotonic(), this_host()
    names = (only,) if only else tuple(RECIPES)
    checkpoint = cache / "checkpoint"
    facts = make_checkpoint(checkpoint, shape=shape)
    records = build_all(all_steps(host, panels=names), checkpoint=checkpoint, facts=facts, cache=cache)
    panels = all_panels(host, checkpoint=checkpoint, cache=cache, records=records, panels=names)
    plan = RoundsPlan(prompt=tuple(prompt_tokens(shape, count=128)), rounds=rounds)
    watch = Watch.start()
    reference = Reference(reference_spec(checkpoint), shape=shape)
    measurements: list[EngineMeasurement] = []
    asked = {*names, THREADS_PANEL} if INT4_PANEL in names else set(names)
    for count in threads:
        for panel in panels:
            # What an engine computes does not depend on threads.
            held = reference if count == min(threads) else None
            found = measure_panel(panel, plan, threads=count, reference=held)
            print(f"\n{panel.name}, {count} thread(s)\n{speed_table(found)}\n", file=sys.stderr)
            measurements += found
    if set(threads) >= {1, 2} and INT4_PANEL in names:
        measurements += measure_panel(threads_panel(host, cache=cache), plan, threads=2)
    load = OverheadLoad(shape=shape, rounds=rounds)
    served = Served(rows=()) if only else _measure_server(load, cache=cache, records=records)
    quiet = watch.stop()
    return BenchmarkReport(
        machine=this_machine(),
        quiet=quiet,
        seconds=time.monotonic() - began,
        checkpoint=facts,
        plan=plan,
        steps=tuple(records.values()),
        measurements=tuple(measurements),
        load=load,
        served=served,
        goals=tuple(g for g in judge_goals(measurements, host=host, threads=threads) if g.panel in asked),
    )


def problems_of(report: BenchmarkReport) -> list[str]:
    """Reasons why a run's numbers are incomplete or not comparable."""
    problems = [f"{step.name}: {step.error}" for step in report.steps if step.error]
    problems += [f"{m.engine}, {m.threads} thread(s): {m.error}" for m in report.measurements if m.error]
    if report.served.error:
        problems.append(f"server: {report.served.error}")
    problems += [
        f"server, {row.callers} caller(s), {row.mode}: other tokens than the bare session"
        for row in report.served.rows
        if not row.same_tokens
    ]
    exact = [m for m in report.measurements if m.exact and m.tokens]
    for m in exact[1:]:
        if (common := agreement(m.tokens, exact[0].tokens)) < len(exact[0].tokens):
            problems.append(
                f"{m.engine}, {m.threads} thread(s): agrees with {exact[0].engine} in the first {common} "
                f"of {len(exact[0].tokens)} tokens only"
            )
    return problems


def _measure_server(load: OverheadLoad, *, cache: Path, records: dict[str, StepRecord]) -> Served:
    record = records[SERVED.name]
    if record.error is not None:
        return Served(error=record.error)
    return measure_overhead(artifact_spec(SERVED, step_directory(cache, SERVED)), load, threads=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="4 layers instead of 24: for development")
    parser.add_argument(
        "--threads", type=_counts, default=(1, 2), help="numbers of threads, with commas (1,2)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="build everything anew, so that all build times are of one run"
    )
    parser.add_argument("--panel", choices=RECIPES, help="measure this table alone, and not the server")
    parser.add_argument("--rounds", type=_count, default=5, help="counted rounds (5)")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON (beside the cache)")
    parser.add_argument(
        "--page", type=Path, help="where the page goes; `benchmarks/RESULTS.md` is the committed one"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoint and artifacts are kept")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 1 on")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({_count(part) for part in text.split(",")}))


if __name__ == "__main__":
    sys.exit(main())
