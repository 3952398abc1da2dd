from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.catalog import ClientCatalog, RestCatalog, SqliteCatalog, open_catalog
from registry.errors import CheckpointError, ConfigurationError, CorruptError, NotFoundError, RegistryError
from registry.mlflow import Checkpoints
from registry.mlflow_client import download, open_client
from registry.sqlite_url import sqlite_url
from registry.store import Store
from registry.upkeep import verify
from tests.registry.conftest import logged_models

ROOT = Path(__file__).parents[2]
# MLflow, SQLAlchemy and alembic warn of their own future whenever they are imported or used
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("folder", ["a?b", "a%20b", "a#b c", "名前?uri=true"])
def test_a_registry_may_be_in_a_folder_of_any_name(tmp_path, write, folder):
    place = tmp_path / "work" / folder
    place.mkdir(parents=True)
    checkpoints = Checkpoints(uri=sqlite_url(place / "mlflow.db"), store=Store.create(place / "store"))
    made = checkpoints.add(write(place / "m"), name="m", family="demo")
    assert checkpoints.find("m") == made
    assert ClientCatalog(checkpoints.uri).versions("m") == open_catalog(checkpoints.uri).versions("m")
    elsewhere = Checkpoints(uri=checkpoints.uri, store=Store.create(tmp_path / "other"))
    elsewhere.materialise(made, out=tmp_path / "out")
    assert (place / "mlflow.db").is_file()
    assert [one.name for one in place.parent.iterdir()] == [folder]


def test_a_checkpoint_is_found_by_name_alias_version_and_uri(checkpoints, flagship):
    assert flagship.ref == "flagship/1"
    assert flagship.family == "demo"
    for ref in ("flagship", "flagship@prod", "flagship/1", "models:/flagship/1", "models:/flagship@prod"):
        assert checkpoints.find(ref) == flagship
    assert flagship in checkpoints.all()
    assert checkpoints.aliases("flagship") == {"prod": "flagship/1"}
    assert verify(checkpoints.store) == []


def test_the_same_content_again_is_the_same_version(checkpoints, flagship, place):
    again = checkpoints.add(place / "flagship", name="flagship", family="demo")
    assert again == flagship
    assert logged_models(checkpoints, "flagship") == ["READY"]


def test_the_same_content_with_other_statements_is_refused(checkpoints, flagship, place):
    for options in (
        {"family": "other"},
        {"family": "demo", "licence": "MIT"},
        {"family": "demo", "add_bos": True},
    ):
        with pytest.raises(ConfigurationError, match="holds the same files with"):
            checkpoints.add(place / "flagship", name="flagship", **options)


def test_other_content_is_the_next_version_with_its_parent(checkpoints, flagship, place, write):
    path = write(place / "second", seed=2)
    second = checkpoints.add(
        path, name="line", family="demo", licence="MIT", parent="flagship@prod", add_bos=True
    )
    third = checkpoints.add(write(place / "third", seed=3), name="line", family="demo", alias="prod")
    assert (second.ref, third.ref) == ("line/1", "line/2")
    assert (second.parent, second.licence, second.add_bos) == ("flagship/1", "MIT", True)
    assert checkpoints.find("line") == third
    with open_client(checkpoints.uri) as client:
        version = client.get_model_version("line", "1")
        model = client.get_logged_model(version.source.removeprefix("models:/"))
        run = client.get_run(model.source_run_id)
        parent = client.get_model_version("flagship", "1").source.removeprefix("models:/")
    assert [one.model_id for one in run.inputs.model_inputs] == [parent]
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
    assert run.info.status == "FINISHED"


def test_any_mlflow_user_finds_the_whole_checkpoint(checkpoints, flagship, tmp_path, place):
    download(checkpoints.uri, name="flagship", version=1, out=tmp_path / "out")
    for file in (place / "flagship").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert json.loads((tmp_path / "out/rung.json").read_text())["digest"] == flagship.digest


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("flagshp", "did you mean `flagship`"),
        ("flagship@prd", "did you mean `flagship@prod`"),
        ("flagship/7", "`flagship/1`"),
        ("no such/thing", "write `name`"),
        ("it's", "known checkpoints"),
    ],
)
def test_what_is_not_there_gets_a_suggestion(checkpoints, flagship, ref, hint):
    with pytest.raises(NotFoundError) as caught:
        checkpoints.find(ref)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_without_any_checkpoint_the_hint_says_add_and_no_database_is_made(tmp_path):
    empty = Checkpoints(uri=f"sqlite:///{tmp_path}/mlflow.db", store=Store.create(tmp_path / "store"))
    with pytest.raises(NotFoundError) as caught:
        empty.find("flagship")
    assert "rung checkpoint add" in caught.value.hint
    assert empty.all() == []
    assert not (tmp_path / "mlflow.db").exists()


def test_a_checkpoint_that_cannot_be_taken_in_leaves_nothing_in_mlflow(checkpoints, make_checkpoint):
    path = make_checkpoint()
    os.truncate(path / "model.safetensors", 200)
    with pytest.raises(CheckpointError):
        checkpoints.add(path, name="broken", family="demo")
    assert "broken" not in open_catalog(checkpoints.uri).names()


def test_an_unknown_parent_leaves_nothing_in_mlflow(checkpoints, make_checkpoint):
    with pytest.raises(NotFoundError, match="unknown checkpoint `nobody`"):
        checkpoints.add(make_checkpoint(), name="orphan", family="demo", parent="nobody")
    assert "orphan" not in open_catalog(checkpoints.uri).names()


def test_what_the_store_lost_is_fetched_from_mlflow(checkpoints, flagship, tmp_path, place):
    elsewhere = Checkpoints(uri=checkpoints.uri, store=Store.create(tmp_path / "store"))
    assert elsewhere.find("flagship@prod") == flagship
    elsewhere.materialise(flagship, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        file.path for file in flagship.files
    ]
    blob = elsewhere.store.path(flagship.files[1].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"evil")
    elsewhere.materialise(flagship, out=tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        place / "flagship/model.safetensors"
    ).read_bytes()
    assert not list((tmp_path / "store/ingest").iterdir())


def test_files_changed_in_mlflow_are_not_taken_for_the_registered_ones(checkpoints, place, tmp_path, write):
    made = checkpoints.add(write(place / "changed", seed=9), name="changed", family="demo")
    with open_client(checkpoints.uri) as client:
        source = client.get_model_version("changed", "1").source.removeprefix("models:/")
        location = Path(client.get_logged_model(source).artifact_location.removeprefix("file://"))
    changed = (location / "config.json").read_text() + " "
    (location / "config.json").unlink()  # a link to the store's file, which other versions have as well
    (location / "config.json").write_text(changed)
    elsewhere = Checkpoints(uri=checkpoints.uri, store=Store.create(tmp_path / "store"))
    with pytest.raises(CorruptError, match=r"the files of `changed/1`"):
        elsewhere.materialise(made, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_versions_of_others_are_taken_in_without_a_new_version(checkpoints, flagship, make_checkpoint):
    path = make_checkpoint("theirs", seed=5)
    with open_client(checkpoints.uri) as client:
        client.create_registered_model("theirs")
        client.create_model_version("theirs", source=path.as_uri())
        client.set_registered_model_alias("theirs", "best", "1")
    with pytest.raises(NotFoundError, match="was not added to Rung") as caught:
        checkpoints.find("theirs")
    assert "rung checkpoint add models:/theirs/1" in caught.value.hint
    taken = checkpoints.add_uri("models:/theirs@best", family="demo", parent="flagship", alias="prod")
    assert taken.ref == "theirs/1"
    assert taken.parent == "flagship/1"
    assert checkpoints.add_uri("models:/theirs/1", family="demo") == taken
    assert checkpoints.find("theirs@prod") == taken
    with pytest.raises(ConfigurationError, match=r"rung\.family"):
        checkpoints.add_uri("models:/theirs/1", family="other")
    assert [one.version for one in open_catalog(checkpoints.uri).versions("theirs")] == [1]


def test_a_check_of_the_caller_refuses_before_anything_is_registered(checkpoints, make_checkpoint):
    def refuse(path):
        raise CheckpointError(f"not {path.name}", hint="another")

    with pytest.raises(CheckpointError, match="not refused"):
        checkpoints.add(make_checkpoint("refused", seed=10), name="refused", family="demo", check=refuse)
    assert open_catalog(checkpoints.uri).versions("refused") == []


def test_a_version_that_is_no_checkpoint_is_refused_and_not_tagged(checkpoints, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/model.pkl").write_bytes(b"x")
    with open_client(checkpoints.uri) as client:
        client.create_registered_model("sklearn")
        client.create_model_version("sklearn", source=(tmp_path / "a").as_uri())
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        checkpoints.add_uri("models:/sklearn/1", family="demo")
    assert open_catalog(checkpoints.uri).versions("sklearn")[0].tags == {}


@pytest.mark.slow
def test_a_killed_migration_leaves_no_database_that_cannot_be_opened(tmp_path):
    code = "import sys; from registry.mlflow_client import _prepare_sqlite; from pathlib import Path; "
    code += "print('ready', flush=True); _prepare_sqlite(Path(sys.argv[1]))"
    target = tmp_path / "state/mlflow.db"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("content/mlflow.db")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    with open_client(f"sqlite:///{target}") as client:
        assert client.search_registered_models() == []
    assert [path.name for path in target.parent.iterdir()] == ["mlflow.db"]


def test_a_damaged_database_is_said(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    with pytest.raises(RegistryError, match=r"mlflow\.db"):
        Checkpoints(uri=f"sqlite:///{tmp_path}/mlflow.db", store=Store.create(tmp_path / "s")).find("x")


def test_a_server_that_is_not_there_is_said(store):
    with pytest.raises(RegistryError, match="cannot reach MLflow at") as caught:
        Checkpoints(uri="http://127.0.0.1:9", store=store).find("x")
    assert caught.value.hint


def test_the_environment_is_left_as_it_was(checkpoints, flagship, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:1")
    with open_client(checkpoints.uri):
        pass
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine:1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with open_client(checkpoints.uri), open_client(checkpoints.uri) as client:
        assert client.get_experiment_by_name("rung")
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_finding_a_checkpoint_does_not_import_mlflow(checkpoints, flagship):
    code = (
        "import sys; from pathlib import Path; from registry.mlflow import Checkpoints; "
        "from registry.store import Store; "
        "c = Checkpoints(uri=sys.argv[1], store=Store(Path(sys.argv[2]))); "
        "print(c.find('flagship@prod').ref, 'mlflow' in sys.modules)"
    )
    arguments = [checkpoints.uri, str(checkpoints.store.root)]
    answer = subprocess.check_output([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True)
    assert answer.split() == ["flagship/1", "False"]


@pytest.mark.slow
def test_a_real_server_over_http_gives_the_same(place, checkpoints, flagship, write, tmp_path):
    """One server: artifacts through its proxy; all three catalogues read the same, deletions included."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
        "--backend-store-uri", checkpoints.uri, "--artifacts-destination", str(tmp_path / "served"),
    ]  # fmt: skip
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for(url, server)
        with open_client(url) as client:
            client.rename_experiment(client.get_experiment_by_name("rung").experiment_id, "rung-local")
        remote = Checkpoints(uri=url, store=Store.create(tmp_path / "store"))
        path = write(tmp_path / "remote", seed=11)
        made = remote.add(path, name="remote", family="demo", alias="prod", parent="flagship")
        assert remote.add(path, name="remote", family="demo") == made
        assert remote.find("remote@prod") == made
        assert any((tmp_path / "served").rglob("model.safetensors"))
        other = Checkpoints(uri=url, store=Store.create(tmp_path / "other"))
        other.materialise(other.find("remote"), out=tmp_path / "out")
        assert (tmp_path / "out/config.json").read_bytes() == (path / "config.json").read_bytes()
        with open_client(url) as client:
            client.create_model_version("remote", source="models:/flagship/1")
            client.delete_model_version("remote", "2")
        with pytest.raises(NotFoundError, match="unknown checkpoint `nothing`"):
            remote.find("nothing")
        _check_same_answers(checkpoints.uri, url)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _check_same_answers(database: str, url: str) -> None:
    direct = open_catalog(database)
    rest = open_catalog(url)
    assert isinstance(direct, SqliteCatalog)
    assert isinstance(rest, RestCatalog)
    client = ClientCatalog(database)
    assert direct.names() == rest.names() == client.names()
    for name in (*direct.names(), "none"):
        assert direct.aliases(name) == rest.aliases(name) == client.aliases(name)
        assert direct.versions(name) == rest.versions(name) == client.versions(name)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    import urllib.request

    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the MLflow server did not start")
