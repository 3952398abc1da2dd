"""The matrix as CSV: a row for each cell, and nothing that a spreadsheet would evaluate."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrices.releases.ruling import Ruling
from matrices.views.spreadsheet import matrix_csv, plain

FORMULAS = (
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "\x00=1",
    '=HYPERLINK("http://x","y")', "\x1b[31m=1",
)  # fmt: skip


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_cell_is_a_row_with_what_was_measured(new_cell):
    good, bad = new_cell(), new_cell("demo/2", state="failed", reason="segfault, twice")
    ruling = Ruling(
        cell=good.id, verb="approve", who="Ada", why="good", at=datetime(2026, 11, 23, tzinfo=UTC),
        artifact=good.artifact,
    )  # fmt: skip
    approved = good.model_copy(update={"state": "approved"})
    first, second = rows(matrix_csv([approved, bad], rulings={good.id: ruling}))
    assert (first["cell"], first["approved_by"], first["approved_why"]) == (good.id, "Ada", "good")
    assert float(first["kl_nats"]) == good.parity.kl
    assert int(first["size_bytes"]) == good.size_bytes
    assert first["chip"] == "a chip"
    for result in good.tasks:
        assert float(first[f"{result.task_type} accuracy"]) == result.accuracy
        assert first[f"{result.task_type} tier"] == ("" if result.tier is None else str(result.tier))
    assert (second["state"], second["reason"], second["approved_by"]) == ("failed", "segfault, twice", "")
    assert second["decode_tokens_per_s"] == ""


def test_an_empty_matrix_has_a_head_and_no_row():
    assert rows(matrix_csv([])) == []


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_begins_like_a_formula_is_shown_and_not_evaluated(new_cell, text):
    cell = new_cell("demo/2", state="failed", reason=text or "x")
    (row,) = rows(matrix_csv([cell]))
    assert row["reason"].startswith("'")
    assert row["reason"].endswith(text[-1])


@given(text=st.text())
def test_no_field_begins_like_a_formula_or_breaks_its_row(text):
    shown = plain(text)
    assert isinstance(shown, str)
    assert not shown.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "\n" not in shown


def test_negative_numbers_stay_numbers():
    assert plain(-1.5) == -1.5
