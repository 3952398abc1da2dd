"""Throughput against the roofline: how much of its chip's speed a cell reaches, compared with NVIDIA.

Pure functions. The roofline of one sequence (Williams, Waterman, Patterson, CACM 52 (2009) 65-76):

- decoding a token reads every weight and the KV cache of the context: bandwidth ÷ bytes read;
- prefill multiplies every weight once per token: peak arithmetic ÷ (2 × parameters). The products
  of attention itself are left out; at these contexts they are a few percent.

The bytes are those of the variant's canonical weights file, however a runtime stores them: one that unpacks
4-bit weights to 32 reads more than it has to, and its share shows it. Peak arithmetic is that of the number
format in which the recipe multiplies. A processor's bandwidth and arithmetic (float32) are measured with the
evidence, on the same number of threads; an accelerator's come from its data sheet. A processor that
multiplies integers can therefore exceed a share of 1.

A target's penalty is how far its share of the roofline falls short of the reference's, an NVIDIA target with
the same weights: 1 − share ÷ reference share, taking the best cell of each and the median over variants. It
is negative where the target uses its chip better. Whatever was not measured on both sides is unknown, never
assumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Final, Literal

from compilers.check.speed import Speed
from matrices.cells.cell import Cell, VariantFacts
from matrices.cells.levels import own_steps
from matrices.cells.measurement import Measurement
from matrices.chips.chip import NumberFormat, find_chip
from registry.recipe import Recipe, parse_recipe
from registry.target import targets
from registry.value import Value

REFERENCE_VENDOR: Final = "nvidia"
Basis = Literal["data sheet", "measured"]


class Roofline(Value):
    """The best throughput that a chip allows for one variant."""

    decode_tokens_per_s: float | None
    """None: the bandwidth is not known."""
    prefill_tokens_per_s: float | None
    """None: the peak in that number format is not known."""
    basis: Basis


class Throughput(Value):
    """A cell's throughput, and its share of the roofline."""

    cell: str
    target: str
    weights: str | None
    """Digest of the variant's weights; None: not known, so it cannot be compared."""
    chip: str | None
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    roofline: Roofline | None = None
    decode_share: float | None = None
    """Share of the roofline; None: unknown."""
    prefill_share: float | None = None
    why: str = ""
    """Why a share is unknown."""

    @property
    def words(self) -> str:
        """The shares in words."""
        known = [
            f"{name} {share:.0%}"
            for name, share in (("decode", self.decode_share), ("prefill", self.prefill_share))
            if share is not None
        ]
        if not known or self.roofline is None:
            return self.why
        shares = f"{', '.join(known)} of the roofline ({self.roofline.basis})"
        return f"{shares}; {self.why}" if self.why else shares


class Penalty(Value):
    """How much less of its chip a target uses than the reference does."""

    target: str
    status: Literal["measured", "reference", "unknown"]
    decode: float | None = None
    """1 − share ÷ reference share; None: unknown."""
    prefill: float | None = None
    variants: int = 0
    """Number of variants that it was computed from."""
    why: str = ""
    """Why it is unknown, or what it was measured against."""


def throughputs(cells: Iterable[Cell]) -> list[Throughput]:
    """The throughput of every cell that was timed on its chip."""
    return [found for cell in cells if (found := cell_throughput(cell)) is not None]


def cell_throughput(cell: Cell) -> Throughput | None:
    """The throughput of a cell against its chip's roofline; None if never timed, or its evidence expired."""
    timed_on = _timed_on(cell)
    if cell.speed is None or timed_on is None or cell.state == "expired":
        return None
    made = Throughput(
        cell=cell.id,
        target=cell.target,
        weights=None if cell.variant is None else cell.variant.weights,
        chip=timed_on.chip,
        decode_tokens_per_s=cell.speed.decode_tokens_per_s,
        prefill_tokens_per_s=cell.speed.prefill_tokens_per_s,
    )
    if cell.variant is None:
        return made.model_copy(update={"why": "the size of its weights is not on record; build it again"})
    roofline = _roofline(
        cell.variant, cell.speed, recipe=parse_recipe(cell.recipe), cell=cell, chip=timed_on.chip
    )
    if roofline is None:
        return made.model_copy(
            update={"why": f"`{timed_on.chip}` is not in chips.toml, and was not measured"}
        )
    lacking = [
        what
        for what, bound in (
            ("bandwidth", roofline.decode_tokens_per_s),
            ("peak arithmetic", roofline.prefill_tokens_per_s),
        )
        if bound is None
    ]
    return made.model_copy(
        update={
            "roofline": roofline,
            "decode_share": _ratio(cell.speed.decode_tokens_per_s, roofline.decode_tokens_per_s),
            "prefill_share": _ratio(cell.speed.prefill_tokens_per_s, roofline.prefill_tokens_per_s),
            "why": f"the {' and '.join(lacking)} of `{timed_on.chip}` is not known" if lacking else "",
        }
    )


def penalties(cells: Iterable[Cell]) -> list[Penalty]:
    """The penalty of every target that has cells, sorted by target."""
    listed = list(cells)
    measured: dict[str, list[Throughput]] = defaultdict(list)
    for throughput in throughputs(listed):
        measured[throughput.target].append(throughput)
    vendors = {name: target.vendor for name, target in targets().items()}
    references = [
        throughput
        for name, found in measured.items()
        if vendors.get(name) == REFERENCE_VENDOR
        for throughput in found
    ]
    names = sorted({cell.target for cell in listed})
    return [_penalty(name, measured.get(name, []), references, vendor=vendors.get(name)) for name in names]


def throughput_json(cells: Iterable[Cell]) -> dict[str, object]:
    """Throughputs and penalties as plain data."""
    listed = list(cells)
    return {
        "throughput": [one.model_dump(mode="json") for one in throughputs(listed)],
        "penalties": [one.model_dump(mode="json") for one in penalties(listed)],
    }


def _timed_on(cell: Cell) -> Measurement | None:
    """What the latest timing of the cell's artifact ran on."""
    timed = [entry for entry in own_steps(cell) if entry.state == "benchmarked"]
    return timed[-1].measurement if timed else None


def _roofline(
    variant: VariantFacts, speed: Speed, *, recipe: Recipe, cell: Cell, chip: str | None
) -> Roofline | None:
    bandwidth, peak, basis = _machine(speed, recipe=recipe, cell=cell, chip=chip)
    if bandwidth is None and peak is None:
        return None
    read_bytes = variant.weights_bytes + speed.context * variant.kv_bytes_per_token
    return Roofline(
        decode_tokens_per_s=None if bandwidth is None else bandwidth * 1e9 / read_bytes,
        prefill_tokens_per_s=None if peak is None else peak / (2 * variant.parameters),
        basis=basis,
    )


def _machine(
    speed: Speed, *, recipe: Recipe, cell: Cell, chip: str | None
) -> tuple[float | None, float | None, Basis]:
    """Bandwidth in GB/s, peak in operations per second, and where the two come from."""
    if speed.machine is not None:
        return speed.machine.memory_bandwidth_gb_per_s, speed.machine.flops_per_s, "measured"
    found = find_chip(chip, target=cell.target)
    if found is None:
        return None, None, "data sheet"
    kind = targets()[cell.target].kind if cell.target in targets() else "cpu"
    tera = found.peak_tflops.get(_number_format(recipe, is_processor=kind == "cpu"))
    return found.bandwidth_gb_per_s, None if tera is None else tera * 1e12, "data sheet"


def _number_format(recipe: Recipe, *, is_processor: bool) -> NumberFormat:
    """The number format in which a recipe multiplies: weight-only quantization multiplies floats."""
    if recipe.activations == "int8-dynamic":
        return "int8"
    return "fp32" if recipe.weights == "float32" or is_processor else "fp16"


def _ratio(value: float, bound: float | None) -> float | None:
    return None if bound is None else value / bound


def _penalty(
    target: str, measured: list[Throughput], references: list[Throughput], *, vendor: str | None
) -> Penalty:
    if not measured:
        why = "no cell of it was timed on its chip (`rung evidence run`)"
        return Penalty(target=target, status="unknown", why=why)
    if vendor == REFERENCE_VENDOR:
        return Penalty(target=target, status="reference", variants=len(_best(measured, "decode_share")))
    if not references:
        return Penalty(
            target=target, status="unknown", why="no NVIDIA target was timed: there is no reference"
        )
    decode, prefill = (
        _shortfalls(measured, references, share) for share in ("decode_share", "prefill_share")
    )
    if not decode and not prefill:
        why = "no variant was timed both here and on an NVIDIA target with known rooflines"
        return Penalty(target=target, status="unknown", why=why)
    return Penalty(
        target=target,
        status="measured",
        decode=median(decode.values()) if decode else None,
        prefill=median(prefill.values()) if prefill else None,
        variants=len({*decode, *prefill}),
        why="against " + ", ".join(sorted({one.target for one in references})),
    )


def _shortfalls(measured: list[Throughput], references: list[Throughput], share: str) -> dict[str, float]:
    """Variant → 1 − share ÷ reference share."""
    here, there = _best(measured, share), _best(references, share)
    return {weights: 1 - here[weights] / there[weights] for weights in here if weights in there}


def _best(found: Iterable[Throughput], share: str) -> Mapping[str, float]:
    """Variant → the best share that any of its cells reached."""
    best: dict[str, float] = {}
    for one in found:
        value = getattr(one, share)
        if one.weights is not None and value is not None:
            best[one.weights] = max(value, best.get(one.weights, 0.0))
    return best
