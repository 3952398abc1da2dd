"""Rulings and the revocation list that follows them."""

import pytest

from matrices.ledger.db import open_database
from matrices.releases.revocations import read_revocations
from pipeline.cli import context
from pipeline.workspace.rulings import ruling_ledger
from registry.errors import RefusedError
from registry.workspace import find_workspace
from tests.matrices.conftest import new_cell  # noqa: F401  a fixture


@pytest.fixture
def workspace(place, monkeypatch):
    monkeypatch.chdir(place.root)
    return find_workspace(place.root)


def revoked(workspace):
    return set(read_revocations(workspace.revocations, public_key=workspace.public_key).reasons)


def test_a_ruling_is_on_the_list_even_if_the_next_one_is_refused(place, workspace, new_cell):  # noqa: F811
    ledger = ruling_ledger(workspace, open_database(workspace.database_url))
    approved, not_approved = (ledger.put_cell(new_cell(recipe=recipe)) for recipe in ("fp32", "w8a8-dynamic"))
    ledger.approve(approved.id, who="Ada", why="good")
    ran = place.rung("withdraw", approved.id, not_approved.id, "--by", "Bob", "--reason", "it crashes")
    assert ran.code == 8
    assert revoked(workspace) == {approved.artifact}


def test_the_next_try_completes_a_withdrawal_that_was_killed(workspace, new_cell):  # noqa: F811
    database = open_database(workspace.database_url)
    ledger = ruling_ledger(workspace, database)
    cell = ledger.put_cell(new_cell())
    ledger.approve(cell.id, who="Ada", why="good")
    ledger.withdraw(cell.id, who="Bob", why="it crashes")
    with pytest.raises(RefusedError), context.publishing_rulings(database):
        ledger.withdraw(cell.id, who="Bob", why="it crashes")
    assert revoked(workspace) == {cell.artifact}
