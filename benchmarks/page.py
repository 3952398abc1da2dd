"""The report as a Markdown page: ratios first, then goals, memory and the machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.divergence import SINGLY, TEXT_TOKENS, TEXTS
from benchmarks.goals import Goal
from benchmarks.products import THREADS_PANEL, TORCH
from benchmarks.report import BenchmarkReport
from benchmarks.rounds import EngineMeasurement, agreement, ratio

GIB = 2**30
NOISY = "**That is not a quiet machine: take no ratio for more than a hint.**"


def render(report: BenchmarkReport) -> str:
    """The whole page."""
    parts = [
        _head(report),
        "## Speed",
        _how(report),
        *_speed(report),
        "## Goals",
        *_goals(report),
        "## The same output",
        *_outputs(report),
        "## Through the server",
        *_server(report),
        "## Memory of serving",
        *_memory(report),
        "## Time and memory of building",
        *_steps(report),
        "## Versions",
        *_versions(report),
    ]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _head(report: BenchmarkReport) -> str:
    machine, shape = report.machine, report.checkpoint.shape
    millions = report.checkpoint.parameters / 1e6
    return f"""# Benchmarks

Made by `python -m benchmarks.run`; do not edit.

Measured on {machine.date:%Y-%m-%d} on **{machine.chip}**, {machine.cores} cores
({", ".join(machine.features) or "no notable features"}), {machine.memory_bytes / GIB:.0f} GiB, at commit
`{machine.commit}`. Other processors give other ratios.

The checkpoint has random weights in the shape of Qwen2: {millions:.0f} M parameters, hidden
{shape.hidden_size}, {shape.layers} layers, {shape.heads} heads, {shape.kv_heads} KV heads, ffn
{shape.intermediate_size}, vocabulary {shape.vocab_size}.

While it ran, other processes used {report.quiet.other_share:.0%} of the cores' time and the hypervisor took
{report.quiet.steal_share:.0%}.{"" if report.quiet.is_quiet else " " + NOISY}"""


def _how(report: BenchmarkReport) -> str:
    plan = report.plan
    return f"""Each number is time relative to the first row of its table in the same round:
**below 1 is faster**. Prefill reads {len(plan.prompt)} tokens and gives the logits of the last one;
decode is the median step of a block of {plan.steps} from context {len(plan.prompt)} on. Medians of
{plan.rounds} rounds of {plan.blocks} blocks after a warm-up; engines in turn block by block, each in a
process of its own, one at work at a time; in brackets the quartiles. Cores: processor time over time."""


def _speed(report: BenchmarkReport) -> list[str]:
    parts: list[str] = []
    for panel, threads in dict.fromkeys((m.panel, m.threads) for m in report.measurements):
        rows = [m for m in report.measurements if (m.panel, m.threads) == (panel, threads)]
        title = panel if panel == THREADS_PANEL else f"{panel}, {threads} thread{'s' if threads > 1 else ''}"
        parts += [f"### {title}", speed_table(rows)]
    return parts


def speed_table(rows: Sequence[EngineMeasurement]) -> str:
    """One panel; its first row is the base."""
    base = rows[0]
    cells = []
    for row in rows:
        if row.error is not None:
            cells.append([row.engine, f"failed: {row.error}".replace("|", "/"), "", "", "", ""])
            continue
        cells.append(
            [
                row.engine,
                _ratio(row.decode_ms, base.decode_ms),
                _ratio(row.prefill_ms, base.prefill_ms),
                f"{statistics.median(row.decode_ms):.2f}",
                f"{statistics.median(row.prefill_ms):.0f}",
                f"{row.cores:.2f}",
            ]
        )
    return table(["engine", "decode", "prefill", "decode ms", "prefill ms", "cores"], cells)


def _ratio(times: Sequence[float], base: Sequence[float]) -> str:
    found = ratio(times, base)
    return "–" if found is None else f"**{found.median:.2f}** ({found.low:.2f}–{found.high:.2f})"


def _goals(report: BenchmarkReport) -> list[str]:
    def line(goal: Goal) -> list[str]:
        found = goal.ratio
        number = "–" if found is None else f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"
        state = goal.state
        if goal.state == "missed" and found is not None:
            state = f"missed by {found.median / goal.at_most - 1:.0%}"  # type: ignore[assignment]  # for the page
        asked = f"{goal.at_most:.2f}"
        return [f"{goal.ours}, {goal.work}", goal.theirs, str(goal.threads), asked, number, state]

    header = ["ours", "held against", "threads", "at most", "ratio", "outcome"]
    free = [line(goal) for goal in report.goals if not goal.required]
    return [
        "Ratios of times, or of KL divergences to float32. Level: at most 3 % more than asked, and as asked\n"
        "in a quarter of the rounds or blocks.",
        table(header, (line(goal) for goal in report.goals if goal.required)),
        *(["Without a promise:", table(header, free)] if free else []),
    ]


def _outputs(report: BenchmarkReport) -> list[str]:
    exact = [m for m in report.measurements if m.exact and m.error is None]
    reference = next((m for m in exact if m.engine.startswith("torch")), exact[0] if exact else None)
    if reference is None:
        return ["No engine with float32 weights was measured."]
    first: dict[str, EngineMeasurement] = {"fp32": reference}
    rows: dict[str, list[str]] = {}
    for m in report.measurements:
        if m.error is not None or m.engine in rows:
            continue
        peer = first.setdefault(m.weights, m)
        rows[m.engine] = [
            m.engine,
            f"{agreement(m.tokens, reference.tokens)} of {len(reference.tokens)}",
            "–" if peer is m else f"{agreement(m.tokens, peer.tokens)} of {len(peer.tokens)}",
            _divergence(m.divergence),
        ]
    return [
        f"Greedy tokens from the first one on that agree with `{reference.engine}`, and with the first\n"
        "engine in this table that runs the same weights. Engines with float32 weights must agree in all;\n"
        "random weights leave little margin between tokens, so those of few bits soon part from float32.\n"
        f"KL: mean divergence of its distributions from `{TORCH}`'s, nats per position, over {TEXTS} texts\n"
        f"of {TEXT_TOKENS} random tokens, the last {SINGLY} of each read one by one; – where an engine\n"
        "tells the logits of the last position alone.",
        table(["engine", "with torch fp32", "with the same weights", "KL"], rows.values()),
    ]


def _divergence(found: float | None) -> str:
    if found is None:
        return "–"
    return f"{found:.4f}" if found >= 1e-4 else f"{found:.0e}"


def _server(report: BenchmarkReport) -> list[str]:
    served, load = report.served, report.load
    if served.error is not None or not served.rows:
        return [f"Not measured: {served.error or 'no artifact'}."]
    rows = [
        [
            f"{row.callers} × {'streamed' if row.mode == 'stream' else 'whole answer'}",
            f"{row.overhead_ms_per_token:+.2f}",
            f"{row.overhead_share:+.1%}",
            f"{row.served_ms_per_token:.2f}",
            f"{row.bare_ms_per_token:.2f}",
            "yes" if row.same_tokens else "**no**",
        ]
        for row in served.rows
    ]
    first = served.rows[0]
    return [
        f"`{first.engine}` behind the server of `rung serve` ({first.threads} thread), the bare session\n"
        f"beside it: prompts of {load.prompt_tokens} tokens, {load.tokens} generated for each caller,\n"
        f"medians of {load.rounds} rounds. Milliseconds per generated token over all callers, prompts\n"
        "included.",
        table(["callers", "overhead", "share", "served", "bare", "same tokens"], rows),
    ]


def _memory(report: BenchmarkReport) -> list[str]:
    rows = []
    for m in report.measurements:
        if m.memory is not None and m.threads == 1:
            rows.append(
                [
                    m.engine,
                    f"{m.memory.resident_bytes / GIB:.2f}",
                    f"{m.memory.anonymous_bytes / GIB:.2f}",
                    f"{m.memory.peak_bytes / GIB:.2f}",
                    f"{m.load_s:.1f}",
                ]
            )
    unique = {row[0]: row for row in rows}
    if (memory := report.served.memory) is not None and report.served.rows:
        name = f"`rung serve` of {report.served.rows[0].engine}, 8 sequences"
        sizes = (memory.resident_bytes, memory.anonymous_bytes, memory.peak_bytes)
        unique[name] = [name, *(f"{size / GIB:.2f}" for size in sizes), "–"]
    return [
        "GiB of one process after prefill and decode: resident; the part of it that is no mapped file\n"
        "(mapped weights are shared between processes and can be dropped); the peak since its start.\n"
        "Load: seconds from process start to the first question.",
        table(["engine", "resident", "anonymous", "peak", "load s"], unique.values()),
    ]


def _steps(report: BenchmarkReport) -> list[str]:
    rows = []
    for step in report.steps:
        if step.error is not None:
            rows.append([step.name, f"failed: {step.error.splitlines()[0]}".replace("|", "/"), "", ""])
            continue
        size = f"{step.size_bytes / 2**20:.1f}"
        rows.append([step.name, f"{step.peak_memory_bytes / GIB:.2f}", f"{step.seconds:.1f}", size])
    return [
        "Each step in a process of its own: peak GiB of resident memory, seconds, MiB of files that it made.",
        table(["step", "peak", "seconds", "MiB"], rows),
    ]


def _versions(report: BenchmarkReport) -> list[str]:
    machine = report.machine
    names = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    return [f"{names}; Python {machine.python}, {machine.system}."]
