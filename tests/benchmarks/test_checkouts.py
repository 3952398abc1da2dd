"""Two checkouts in one run: which artifacts are compared, and what a row says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.checkouts import _pairs, _row
from benchmarks.engines.interface import EngineSpec
from benchmarks.rounds import EngineMeasurement


def spec(name: str, *, checkout: str) -> EngineSpec:
    return EngineSpec(
        name=name, kind="rung", path=Path("artifact"), weights="w4", exact=False, checkout=Path(checkout)
    )


def measured(engine: str, *, decode: tuple[float, ...], tokens: tuple[int, ...]) -> EngineMeasurement:
    return EngineMeasurement(
        panel="p", engine=engine, weights="w4", exact=False, threads=1,
        prefill_ms=(10.0, 10.0), decode_ms=decode, tokens=tokens,
    )  # fmt: skip


def test_only_artifacts_that_both_checkouts_have_are_compared_and_the_other_is_the_base() -> None:
    (panel,) = _pairs(
        [spec("a", checkout="old"), spec("gone", checkout="old")],
        [spec("a", checkout="new"), spec("b", checkout="new")],
    )
    base, ours = panel.engines
    assert (base.name, base.checkout) == ("a, other checkout", Path("old"))
    assert (ours.name, ours.checkout) == ("a", Path("new"))


def test_a_row_holds_the_ratio_to_the_other_checkout_and_the_common_tokens() -> None:
    base = measured("a, other checkout", decode=(2.0, 2.0), tokens=(1, 2, 3))
    ours = measured("a", decode=(3.0, 3.0), tokens=(1, 2, 4))
    assert _row(base, ours) == "| a | 1 | 1.50 (1.50 to 1.50) | 1.00 (1.00 to 1.00) | 2 of 3 |"
