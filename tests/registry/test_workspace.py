from __future__ import annotations

import pytest

from registry.errors import ConfigurationError, RegistryError
from registry.upkeep import verify
from registry.workspace import SETTINGS_NAME, Settings, find_workspace, init_workspace

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("RUNG_WORKSPACE", "RUNG_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_a_new_workspace_has_settings_store_and_keys(tmp_path):
    made = init_workspace(tmp_path / "team")
    assert made.root == tmp_path / "team"
    assert verify(made.store) == []
    assert made.private_key.stat().st_mode & 0o077 == 0
    assert made.database_url == f"sqlite:///{tmp_path}/team/.rung/rung.db"
    assert made.mlflow_uri == f"sqlite:///{tmp_path}/team/.rung/mlflow.db"
    assert (made.state / ".gitignore").read_text().endswith("*\n")
    assert find_workspace(tmp_path / "team") == made


def test_making_it_again_changes_nothing(tmp_path):
    made = init_workspace(tmp_path)
    with (tmp_path / SETTINGS_NAME).open("a") as stream:
        stream.write("# mine\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert init_workspace(tmp_path) == made
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_template_holds_the_defaults(tmp_path):
    import tomllib

    init_workspace(tmp_path)
    assert Settings.model_validate(tomllib.loads((tmp_path / SETTINGS_NAME).read_text())) == Settings()


def test_the_nearest_workspace_above_is_found(tmp_path, monkeypatch):
    made = init_workspace(tmp_path)
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_workspace() == made


def test_without_a_workspace_the_hint_says_init(tmp_path):
    with pytest.raises(ConfigurationError, match="no workspace at") as caught:
        find_workspace(tmp_path)
    assert "rung init" in caught.value.hint
    assert caught.value.exit_code == 2


def test_the_environment_goes_before_the_settings(tmp_path, monkeypatch):
    init_workspace(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNG_WORKSPACE", str(tmp_path / "a"))
    monkeypatch.setenv("RUNG_DATABASE_URL", "postgresql+psycopg://db/rung")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    found = find_workspace()
    assert (found.root, found.database_url) == (tmp_path / "a", "postgresql+psycopg://db/rung")
    assert found.mlflow_uri == "http://mlflow:5000"
    monkeypatch.setenv("RUNG_WORKSPACE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="RUNG_WORKSPACE names"):
        find_workspace()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store = ", "not TOML"),
        ("store = " + "9" * 5000, "not TOML"),
        ("store = 3", "store: Input should be a valid string"),
        ('sotre = "x"', "sotre: Extra inputs are not permitted"),
        ('mlflow_uri = ""', "mlflow_uri: String should have at least 1 character"),
        (b"\xff\xfe", "not TOML"),
    ],
)
def test_bad_settings_are_named(tmp_path, text, said):
    (tmp_path / SETTINGS_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    for use in (find_workspace, init_workspace):
        with pytest.raises(ConfigurationError, match=said):
            use(tmp_path)


def test_a_file_in_the_place_of_the_directory_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot write"):
        init_workspace(tmp_path / "file")
