"""Page of one cell, as text or JSON: evidence, parity, verdicts, rulings, and what it lacks for approval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compilers.check.speed import Speed
from matrices.cells.cell import Cell, Evidence, TaskResult
from matrices.cells.levels import (
    earned_tiers,
    evaluated_on,
    evidence_level,
    rehearsed_by,
    state_in_words,
)
from matrices.cells.measurement import Measurement, Via
from matrices.cells.missing import missing_evidence
from matrices.cells.next_steps import next_steps
from matrices.cells.proxy import Proxy
from matrices.chips.throughput import Throughput
from matrices.releases.ruling import Ruling
from matrices.views.inputs import inputs_in_words
from matrices.views.table import MARKS, evidence_json, one_line, size
from registry.digest import short

Entry = Evidence | Ruling
_WHERE: Mapping[Via, str] = {"chip": "", "emulator": "in emulation by ", "proxy": "by proxy on "}


@dataclass(frozen=True, slots=True)
class CellPage:
    """Everything known about one cell at one time."""

    cell: Cell
    history: tuple[Entry, ...] = ()
    """All evidence and rulings that were recorded, oldest first."""
    tasks: tuple[str, ...] = ()
    """Task types on which the family was evaluated."""
    releases: tuple[str, ...] = ()
    """Names of the releases that hold the cell."""
    proxy: Proxy | None = None
    """Results of the same weights on another target."""
    throughput: Throughput | None = None
    """Its throughput against its chip's roofline."""


def float_in_words(names: tuple[str, ...]) -> str:
    """The matrices that a recipe leaves in float: their number, kinds and one of them."""
    kinds = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in names})
    return f"{len(names)} matrices are left in float: {', '.join(kinds)}, such as `{names[0]}`"


def explain_cell(page: CellPage) -> list[str]:
    """The cell in lines for a person."""
    cell, history, proxy = page.cell, page.history, page.proxy
    lines = [cell.id, f"  state      {MARKS[cell.state]} {state_in_words(cell)}"]
    if cell.reason:
        lines.append(f"  reason     {one_line(cell.reason)}")
    ruling = _latest_ruling(cell, history)
    if ruling and ruling.waiver and cell.state == "approved":
        lines.append(f"  WAIVER     {one_line(ruling.waiver)} ({ruling.who})")
        lines += [f"             waived: {one_line(one)}" for one in ruling.missing]
    if level := evidence_level(cell):
        lines.append(f"  evidence   {level}" + _obtained_on(cell))
    lines += _facts(cell)
    if cell.variant is not None and cell.variant.left_in_float:
        lines.append(f"  in float   {float_in_words(cell.variant.left_in_float)}")
    if (inputs := inputs_in_words(cell)) is not None:
        lines.append(f"  inputs     {inputs}")
    if page.releases:
        lines.append(f"  releases   {', '.join(page.releases)}")
    if cell.parity:
        lines += _parity(cell)
    lines += _rehearsal(cell)
    for result in cell.tasks:
        lines += _task(result)
    if proxy is not None and not cell.tasks:
        lines.append(f"  {proxy.words}; it earns no tier here")
        lines += [f"  {line}" for result in proxy.tasks for line in _task(result)[:1]]
    if cell.speed is not None:
        lines += _speed(cell.speed, page.throughput)
    lines += ["  history", *(f"    {_entry(entry)}" for entry in history)]
    if cell.state != "approved":
        missing = missing_evidence(cell, tasks=page.tasks)
        lines.append("  missing for approval" if missing else "  nothing is missing for approval")
        lines += [f"    - {one_line(one)}" for one in missing]
    if steps := next_steps(cell):
        lines += ["  try next", *(f"    - {one_line(step)}" for step in steps)]
    return lines


def cell_json(page: CellPage) -> dict[str, Any]:  # Any: JSON
    """The cell as plain data; see `explain_cell`."""
    cell, history, proxy, throughput = page.cell, page.history, page.proxy, page.throughput
    ruling = _latest_ruling(cell, history)
    return cell.model_dump(mode="json") | {
        "earned": earned_tiers(cell),
        "missing": missing_evidence(cell, tasks=page.tasks),
        "next": next_steps(cell),
        "level": evidence_level(cell),
        "evidence": [evidence_json(entry) for entry in cell.evidence],
        "proxy": proxy.model_dump(mode="json") if proxy else None,
        "throughput": throughput.model_dump(mode="json") if throughput else None,
        "ruling": ruling.model_dump(mode="json") if ruling else None,
        "releases": list(page.releases),
        "history": [
            {"kind": type(entry).__name__.lower()}
            | (evidence_json(entry) if isinstance(entry, Evidence) else entry.model_dump(mode="json"))
            for entry in history
        ],
    }


def _latest_ruling(cell: Cell, history: Sequence[Entry]) -> Ruling | None:
    rulings = [entry for entry in history if isinstance(entry, Ruling) and entry.artifact == cell.artifact]
    return rulings[-1] if rulings else None


def _facts(cell: Cell) -> list[str]:
    lines = [
        f"  checkpoint {cell.checkpoint} ({short(cell.checkpoint_digest)}), tier {cell.tier} of the ladder"
    ]
    if cell.artifact:
        lines.append(f"  artifact   {cell.artifact} ({size(cell.size_bytes)})")
    if cell.build_key:
        lines.append(f"  build key  {cell.build_key}")
    if cell.log:
        lines.append(f"  log        {cell.log}")
    return lines


def _parity(cell: Cell) -> list[str]:
    if cell.parity is None:
        return []
    parity = cell.parity
    bound = "within the bound" if parity.within else "OUTSIDE THE BOUND"
    agreement = f"{parity.greedy_agreement:.2%} of {parity.positions} positions"
    return [
        f"  parity     {bound}: {one_line(parity.reason)}",
        f"    logits     max {parity.max_abs:.2e}, rms {parity.rms:.2e} against the variant's weights",
        f"    KL         {parity.kl:.2e} nats to the checkpoint, {parity.kl_variant:.2e} to the variant",
        f"    greedy     {agreement} agree with the checkpoint",
    ]


def _rehearsal(cell: Cell) -> list[str]:
    entry = rehearsed_by(cell)
    if entry is None or cell.rehearsal is None:
        return []
    bound = "within the bound" if cell.rehearsal.within else "OUTSIDE THE BOUND"
    return [f"  emulation  {bound} by {entry.chip}: {one_line(cell.rehearsal.reason)}"]


def _obtained_on(cell: Cell) -> str:
    entry = evaluated_on(cell)
    if entry is None or entry.chip is None:
        return ""
    driver = f", driver {entry.driver}" if entry.driver else ""
    return f" on {entry.chip}, {entry.runtime} {entry.runtime_version}{driver}"


def _speed(speed: Speed, throughput: Throughput | None) -> list[str]:
    lines = [
        f"  speed      decode {speed.decode_tokens_per_s:,.1f} tokens/s at context {speed.context}, "
        f"prefill {speed.prefill_tokens_per_s:,.1f} tokens/s of {speed.prompt_tokens}; "
        f"{speed.threads} threads, median of {speed.repeats}"
    ]
    return lines + ([f"    roofline {throughput.words}"] if throughput else [])


def _task(result: TaskResult) -> list[str]:
    tier = f"tier {result.tier}" if result.tier else "no tier"
    measured = f"accuracy {result.accuracy:.3f} on {result.samples} of {result.available} samples"
    how = one_line(result.prompting.words)
    lines = [f"  {result.task_type}: {tier}, {measured}, {how}, batch size {result.batch_size}"]
    for verdict in sorted(result.verdicts, key=lambda verdict: verdict.tier):
        numbers = (
            f"{verdict.difference_points:+.1f} points to the reference's {verdict.reference_accuracy:.3f}, "
            f"at least {verdict.lower_bound_points:+.1f}; floor {verdict.floor:.2f}, "
            f"margin {verdict.margin_points:g}"
        )
        lines.append(f"    tier {verdict.tier} {verdict.status:<4} {one_line(verdict.reason)}")
        lines.append(f"                {numbers}")
    return lines


def _entry(entry: Entry) -> str:
    at = entry.at.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(entry, Ruling):
        waiver = f"; waiver: {one_line(entry.waiver)}" if entry.waiver else ""
        return f"{at}  ruling: {entry.verb} by {entry.who}: {one_line(entry.why)}{waiver}"
    details = [f"[{short(entry.digest)}]" if entry.digest else ""]
    details += _measured_on(entry.measurement) if entry.measurement else []
    details.append(one_line(entry.detail))
    return f"{at}  {entry.state:<11} " + ", ".join(detail for detail in details if detail)


def _measured_on(measurement: Measurement) -> list[str]:
    on = " ".join(part for part in (measurement.runtime, measurement.runtime_version) if part)
    return [
        f"on {on}" if on else "",
        _WHERE[measurement.via] + measurement.chip if measurement.chip else "",
        f"driver {measurement.driver}" if measurement.driver else "",
    ]
