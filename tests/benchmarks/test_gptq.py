"""GPTQ in two checkouts: both run with their own code, and the page has their ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.child import ROOT
from benchmarks.gptq import Taken, main, page
from tests.benchmarks.tiny import Built


def test_two_checkouts_quantize_in_turns_and_the_same_code_gives_the_same_divergence(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(json.dumps({"text": f"call {n} of the tool, {n * n}"}) + "\n" for n in range(12))
    )
    assert main([str(ROOT), str(built.checkpoint), str(texts), "--rounds", "1", "--threads", "1"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| KL")]
    before, after = row.split("|")[2:4]
    assert before == after
    assert float(after) > 0


def test_the_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    rounds = [(Taken(8, 9, 0.5), Taken(2, 3, 0.4)), (Taken(20, 9), Taken(2, 3)), (Taken(2, 9), Taken(1, 3))]
    lines = page(rounds, machine="m", quiet="q").splitlines()
    assert "| wall clock, s | 8.0 | 2.0 | 4.00 |" in lines
    assert "| processor time, s | 9.0 | 3.0 | 3.00 |" in lines
    assert "| KL to float, nats | 0.5000 | 0.4000 | |" in lines
