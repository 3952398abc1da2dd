"""The matrix in MLflow, with MLflow's own client and database: complete, idempotent, and never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matrices.ledger.db import Database, open_database
from matrices.ledger.ledger import Ledger
from pipeline.cli import context
from pipeline.workspace.track import experiment_of, track
from registry.errors import RegistryError
from registry.mlflow import Checkpoints
from registry.mlflow_client import open_client
from registry.workspace import Workspace, init_workspace
from tests.checkpoints import make_checkpoint
from tests.matrices import conftest as matrices

# MLflow, SQLAlchemy and alembic warn of their own future whenever they are imported or used
pytestmark = pytest.mark.filterwarnings("ignore")
new_cell = matrices.new_cell


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path)


@pytest.fixture
def database(workspace: Workspace) -> Database:
    return open_database(workspace.database_url)


def runs(workspace: Workspace, where: str = "") -> dict[str, Any]:
    """Cell id and the artifact's first digits → run."""
    with open_client(workspace.mlflow_uri) as client:
        experiment = client.get_experiment_by_name(experiment_of("demo")).experiment_id
        found = client.search_runs([experiment], filter_string=where)
    return {f"{run.data.tags['rung.cell']} {run.data.tags['rung.artifact'][7:15]}": run for run in found}


def name(cell) -> str:
    return f"{cell.id} {cell.artifact[7:15]}"


def test_cells_are_found_in_mlflow_by_their_scores_sizes_and_places(workspace, database, new_cell):
    good = Ledger(database).put_cell(new_cell(accuracy=0.9))
    Ledger(database).put_cell(new_cell("demo-small/1", toolchain="tvm", accuracy=0.4, memory_bytes=1_000_000))
    assert track(workspace, database=database).runs == 2
    found = runs(workspace, "metrics.`score/extraction` > 0.8 and metrics.size_bytes > 1000000")
    assert list(found) == [name(good)]
    run = found[name(good)]
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "checkpoint": good.checkpoint, "recipe": good.recipe, "target": good.target,
        "toolchain": good.toolchain,
    }  # fmt: skip
    assert run.data.tags["rung.state"] == "evaluated"
    assert list(runs(workspace, "tags.`rung.toolchain` = 'tvm'")) != list(found)


def test_the_same_matrix_again_writes_nothing_even_if_the_memory_is_lost(workspace, database, new_cell):
    Ledger(database).put_cell(new_cell())
    assert track(workspace, database=database).runs == 1
    assert track(workspace, database=database).runs == 0
    (workspace.state / "mlflow-runs.json").write_text("not JSON")
    assert track(workspace, database=database).runs == 0
    assert len(runs(workspace)) == 1


def test_a_ruling_updates_the_run_and_a_new_artifact_is_another_run(workspace, database, new_cell):
    ledger = Ledger(database)
    first = ledger.put_cell(new_cell())
    track(workspace, database=database)
    ledger.approve(first.id, who="Ada", why="good")
    track(workspace, database=database)
    (run,) = runs(workspace).values()
    assert (run.data.tags["rung.state"], run.data.tags["rung.approved_by"]) == ("approved", "Ada")
    second = ledger.put_cell(new_cell(build="b", accuracy=0.7))
    track(workspace, database=database)
    found = runs(workspace)
    assert set(found) == {name(first), name(second)}
    assert found[name(first)].data.tags["rung.current"] == "false"
    assert found[name(second)].data.tags["rung.current"] == "true"
    assert found[name(first)].data.metrics["score/extraction"] == 0.85
    assert found[name(second)].data.metrics["score/extraction"] == 0.7


def test_a_run_has_its_checkpoint_as_input_and_names_its_parent(workspace, database, new_cell, tmp_path):
    checkpoints = Checkpoints(uri=workspace.mlflow_uri, store=workspace.store)
    checkpoints.add(make_checkpoint(tmp_path / "one", seed=1), name="demo-flagship", family="demo")
    made = checkpoints.add(
        make_checkpoint(tmp_path / "two", seed=2), name="demo-mid", family="demo", parent="demo-flagship"
    )
    cell = Ledger(database).put_cell(new_cell(made.ref))
    track(workspace, database=database)
    run = runs(workspace)[name(cell)]
    with open_client(workspace.mlflow_uri) as client:
        source = client.get_model_version("demo-mid", "1").source
        inputs = client.get_run(run.info.run_id).inputs.model_inputs
    assert [f"models:/{one.model_id}" for one in inputs] == [source]
    assert run.data.tags["rung.parent"] == "demo-flagship/1"


def test_an_mlflow_that_cannot_be_reached_keeps_no_build_from_ending(
    workspace, database, new_cell, monkeypatch, capsys
):
    Ledger(database).put_cell(new_cell())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    away = init_workspace(workspace.root)
    with pytest.raises(RegistryError):
        track(away, database=database)
    context.track(away, database)
    said = capsys.readouterr().err
    assert "MLflow does not show this yet" in said
    assert "rung matrix track" in said
    assert "secret" not in said


def test_runs_can_be_turned_off(workspace, database, new_cell, monkeypatch):
    Ledger(database).put_cell(new_cell())
    monkeypatch.setenv("RUNG_MLFLOW_RUNS", "off")
    context.track(workspace, database)
    assert not Path(workspace.mlflow_uri.removeprefix("sqlite:///")).exists()
