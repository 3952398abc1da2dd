"""The read facade: what can be approved, one cell with everything known about it, names and patterns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from matrices.cells.cell import Cell
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from matrices.releases.ruling import Ruling
from matrices.views.board import Board
from registry.errors import ConfigurationError, NotFoundError

Make = Callable[..., Cell]


@pytest.fixture
def board(database: Database) -> Board:
    return Board(database)


def test_a_cell_can_be_approved_if_its_evidence_suffices(
    board: Board, ledger: Ledger, new_cell: Make
) -> None:
    good = ledger.put_cell(new_cell())
    ledger.put_cell(new_cell("demo-small/1", tier=3, earned={"tool-calling": None}))
    ledger.put_cell(new_cell("demo-flagship/1", state="built", tier=1))
    assert [cell.id for cell in board.approvable("demo")] == [good.id]


def test_the_task_types_of_one_family_are_not_asked_of_another(
    board: Board, ledger: Ledger, new_cell: Make
) -> None:
    ledger.put_cell(new_cell())
    other = ledger.put_cell(new_cell("other/1", family="other", tier=1, earned={"retrieval": 1}))
    assert board.family_tasks("other") == ("retrieval",)
    assert other.id in [cell.id for cell in board.approvable(None)]


def test_a_matrix_without_a_cell_to_approve_says_so(board: Board, ledger: Ledger, new_cell: Make) -> None:
    ledger.put_cell(new_cell(state="built"))
    with pytest.raises(NotFoundError, match="enough evidence"):
        board.approvable("demo")


def test_approving_twice_finds_nothing_left(board: Board, full_ledger: Ledger) -> None:
    assert board.approvable("demo") == []


def test_a_cell_page_joins_history_tasks_and_releases(board: Board, full_ledger: Ledger) -> None:
    page = board.cell_page("mid:w4:onnx")
    assert page.cell.state == "approved"
    assert page.releases == ("r1",)
    assert page.tasks == ("extraction", "reasoning", "tool-calling")
    assert isinstance(page.history[-1], Ruling)


def test_a_matrix_page_has_the_rulings_of_its_cells(board: Board, full_ledger: Ledger) -> None:
    page = board.matrix(family="demo", state="approved")
    assert set(page.rulings) == {cell.id for cell in page.cells}


def test_patterns_and_names_choose_each_cell_once(board: Board, ledger: Ledger, new_cell: Make) -> None:
    for toolchain in ("onnxruntime", "tvm"):
        ledger.put_cell(new_cell(toolchain=toolchain))
    assert len(board.cells_named(["demo-mid/*", "mid:w4:tvm"])) == 2
    with pytest.raises(NotFoundError, match="no cell matches"):
        board.cells_named(["nothing*"])
    with pytest.raises(ConfigurationError):
        board.cells_named(["mid"])


def test_a_release_is_not_compared_with_a_checkpoint(board: Board, full_ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="not of the same kind"):
        board.compare("r1", "demo-mid/1")
    assert board.compare("r1", "r1").cells is not None
