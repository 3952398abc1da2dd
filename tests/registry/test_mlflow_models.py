"""Logged models: the files of checkpoints in MLflow, their removal, and what killed commands leave."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.catalog import open_catalog
from registry.digest import digest_file
from registry.errors import NotFoundError
from registry.mlflow import Checkpoints
from registry.mlflow_client import open_client
from registry.store import Store
from registry.upkeep import verify
from tests.registry.conftest import logged_models

ROOT = Path(__file__).parents[2]
# MLflow, SQLAlchemy and alembic warn of their own future whenever they are imported or used
pytestmark = pytest.mark.filterwarnings("ignore")

ADD = """
import sys
from pathlib import Path
from registry.mlflow import Checkpoints
from registry.store import Store
checkpoints = Checkpoints(uri=sys.argv[1], store=Store(Path(sys.argv[2])))
print("ready", flush=True)
print(checkpoints.add(Path(sys.argv[3]), name=sys.argv[4], family="demo", alias="prod").ref)
"""


def start_add(checkpoints: Checkpoints, path: Path, *, name: str) -> subprocess.Popen[str]:
    arguments = [checkpoints.uri, str(checkpoints.store.root), str(path), name]
    return subprocess.Popen(
        [sys.executable, "-c", ADD, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )


def test_a_checkpoint_is_on_disk_once_though_the_store_and_mlflow_both_have_it(checkpoints, flagship):
    with open_client(checkpoints.uri) as client:
        source = client.get_model_version("flagship", "1").source.removeprefix("models:/")
        location = Path(client.get_logged_model(source).artifact_location.removeprefix("file://"))
    for file in flagship.files:
        assert (location / file.path).samefile(checkpoints.store.path(file.digest)), file.path


def test_a_checkpoint_is_copied_where_the_file_system_has_no_links(write, tmp_path, monkeypatch):
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    far = Checkpoints(uri=f"sqlite:///{tmp_path}/mlflow.db", store=Store.create(tmp_path / "store"))
    made = far.add(write(tmp_path / "far", seed=21), name="far", family="demo")
    copies = list((tmp_path / "mlflow-artifacts").rglob("model.safetensors"))
    assert len(copies) == 1
    digest = next(file.digest for file in made.files if file.path == "model.safetensors")
    assert digest_file(copies[0]) == digest
    assert not copies[0].samefile(far.store.path(digest))


def test_a_removed_checkpoint_leaves_mlflow_with_its_files_and_can_be_added_again(checkpoints, place, write):
    path = write(place / "gone", seed=31)
    made = checkpoints.add(path, name="gone", family="demo", alias="best")
    copy = checkpoints.local_copy(made)
    assert copy is not None
    assert (copy / "model.safetensors").is_file()
    checkpoints.remove(made)
    assert not copy.exists()
    assert logged_models(checkpoints, "gone") == []
    with pytest.raises(NotFoundError):
        checkpoints.find("gone/1")
    again = checkpoints.add(path, name="gone", family="demo")
    assert (again.ref, again.digest) == ("gone/2", made.digest)
    with open_client(checkpoints.uri) as client:
        assert client.get_registered_model("gone").aliases == {}


def test_a_version_that_others_registered_keeps_everything_but_our_tags(checkpoints, make_checkpoint):
    path = make_checkpoint("adopted", seed=32)
    with open_client(checkpoints.uri) as client:
        client.create_registered_model("adopted")
        client.create_model_version("adopted", source=path.as_uri(), tags={"theirs": "kept"})
    taken = checkpoints.add_uri("models:/adopted/1", family="demo")
    assert checkpoints.local_copy(taken) is None
    checkpoints.remove(taken)
    with open_client(checkpoints.uri) as client:
        assert client.get_model_version("adopted", "1").tags == {"theirs": "kept"}
    assert (path / "model.safetensors").is_file()
    with pytest.raises(NotFoundError, match="was not added to Rung"):
        checkpoints.find("adopted/1")


def test_a_removal_that_was_killed_before_mlflow_knew_is_finished_by_the_next(checkpoints, place, write):
    made = checkpoints.add(write(place / "half", seed=33), name="half", family="demo")
    copy = checkpoints.local_copy(made)
    shutil.rmtree(copy)  # where a kill leaves it
    checkpoints.remove(made)
    assert "half/1" not in [one.ref for one in checkpoints.all()]


def test_the_layout_of_the_transformers_flavour_is_brought_together(checkpoints, make_checkpoint):
    path = make_checkpoint("flavour", seed=6)
    (path / "model").mkdir()
    (path / "components/tokenizer").mkdir(parents=True)
    (path / "MLmodel").write_text("flavors: {}")
    (path / "tokenizer.json").rename(path / "components/tokenizer/tokenizer.json")
    for name in ("config.json", "model.safetensors"):
        (path / name).rename(path / "model" / name)
    with open_client(checkpoints.uri) as client:
        client.create_registered_model("flavour")
        client.create_model_version("flavour", source=path.as_uri())
    taken = checkpoints.add_uri("models:/flavour/1", family="demo")
    assert [file.path for file in taken.files] == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.slow
def test_two_processes_add_the_same_checkpoint_once(checkpoints, flagship, make_checkpoint):
    path = make_checkpoint(seed=7)
    processes = [start_add(checkpoints, path, name="twice") for _ in range(2)]
    answers = [process.communicate()[0].split()[-1] for process in processes]
    assert answers == ["twice/1", "twice/1"]
    assert logged_models(checkpoints, "twice") == ["READY"]


@pytest.mark.slow
def test_an_add_that_was_killed_is_finished_by_the_next(checkpoints, flagship, make_checkpoint):
    path = make_checkpoint(seed=8)
    with start_add(checkpoints, path, name="killed") as process:
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with sqlite3.connect(checkpoints.uri.removeprefix("sqlite:///")) as database:
                count = "SELECT count(*) FROM logged_models WHERE name = 'killed'"
                if database.execute(count).fetchone()[0]:
                    break
        process.send_signal(signal.SIGKILL)
    made = checkpoints.add(path, name="killed", family="demo", alias="prod")
    assert made.ref == "killed/1"
    assert logged_models(checkpoints, "killed") == ["READY"]
    assert [one.version for one in open_catalog(checkpoints.uri).versions("killed")] == [1]


@pytest.mark.parametrize("status", ["PENDING", "READY"])
def test_a_logged_model_left_without_a_version_is_taken_up_or_removed(
    checkpoints, flagship, make_checkpoint, status
):
    name, path = f"left-{status.lower()}", make_checkpoint(seed=30 + len(status))
    step = "finalize_logged_model" if status == "PENDING" else "create_registered_model"
    child = os.fork()
    if child == 0:  # dies amid the steps, as if killed
        import mlflow

        setattr(mlflow.MlflowClient, step, lambda *_, **__: os._exit(9))
        checkpoints.add(path, name=name, family="demo")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert logged_models(checkpoints, name) == [status]
    assert checkpoints.add(path, name=name, family="demo").ref == f"{name}/1"
    assert logged_models(checkpoints, name) == ["READY"]
    assert {problem.kind for problem in verify(checkpoints.store)} <= {"leftover"}
