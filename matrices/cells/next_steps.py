"""What to try next for a cell that does not hold its checkpoint's tier, computed from its own evidence.

Each suggestion has the number that it comes from: how many samples would decide a verdict at the difference
that was measured, which margin the samples at hand can prove, which recipe rounds less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from evals.verdict import Verdict
from matrices.cells.cell import Cell
from registry.recipe import parse_recipe
from registry.weight_form import CodedWeights


def next_steps(cell: Cell) -> list[str]:
    """What to try next, one sentence each; empty where nothing is missing or nothing is known."""
    found = list(_about_the_artifact(cell))
    for result in cell.tasks:
        verdict = next((one for one in result.verdicts if one.tier == cell.tier), None)
        if verdict is not None and verdict.status != "pass":
            found += _about_a_verdict(cell, verdict)
    return list(dict.fromkeys(found))


def _about_the_artifact(cell: Cell) -> Iterator[str]:
    if cell.state in ("failed", "unsupported") and cell.parity is None:
        yield f"another toolchain than `{cell.toolchain}` for `{cell.recipe}` on `{cell.target}`"
    if cell.parity is not None and not cell.parity.within:
        yield f"another toolchain than `{cell.toolchain}`: its logits are not those of its weights"


def _about_a_verdict(cell: Cell, verdict: Verdict) -> Iterator[str]:
    task = f"`{verdict.task_type}`"
    if verdict.reference_accuracy < verdict.floor:
        yield (
            f"{task}: no recipe clears the floor {verdict.floor:.2f}, because the checkpoint itself has "
            f"{verdict.reference_accuracy:.3f}: lower the floor, or take a better checkpoint"
        )
    elif verdict.accuracy < verdict.floor:
        yield f"{task}: a floor of {math.floor(1000 * verdict.accuracy) / 1000:.3f} is what it clears"
    difference, margin = verdict.difference_points, verdict.margin_points
    width = difference - verdict.lower_bound_points
    if verdict.lower_bound_points > -margin or width <= 0:
        return
    if difference > -margin:
        # A bound narrows with the square root of the samples.
        needed = math.ceil(verdict.samples * (width / (difference + margin)) ** 2)
        yield (
            f"{task}: about {needed:,} samples instead of {verdict.samples:,} would decide it, "
            f"if the difference stays {difference:+.1f} points"
        )
    carried = math.floor(-10 * verdict.lower_bound_points + 1) / 10
    if carried <= 100:
        yield f"{task}: `margin_points = {carried:g}` is what these {verdict.samples:,} samples prove"
    if (finer := _finer(cell.recipe)) is not None:
        yield f"{task}: recipe {finer} rounds less than `{cell.recipe}`"


def _finer(name: str) -> str | None:
    """A recipe that keeps more of the weights; None for float ones."""
    recipe = parse_recipe(name)
    form = recipe.forms[0]
    if not isinstance(form, CodedWeights):
        return None
    if form.group_size is None or form.bits == 4:
        better = f"`w4g{form.group_size}-gptq` or " if form.group_size and recipe.method == "rtn" else ""
        return f"{better}`w8g64-rtn`"
    return "`fp32`"
