"""Names of checkpoints: which ones Rung gives, and which ones it takes in from MLflow."""

from __future__ import annotations

import pytest

from registry.catalog import ClientCatalog, SqliteCatalog
from registry.errors import ConfigurationError
from registry.mlflow_client import open_client
from registry.sqlite_url import sqlite_path

# MLflow, SQLAlchemy and alembic warn of their own future whenever they are imported or used
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a/b"},
        {"name": ""},
        {"name": "a:b"},
        {"name": "x", "family": "a b"},
        {"name": "x", "alias": "latest"},
    ],
)
def test_names_that_mlflow_or_cells_cannot_hold_are_refused(checkpoints, place, flagship, options):
    with pytest.raises(ConfigurationError, match="cannot be a"):
        checkpoints.add(place / "flagship", **{"family": "demo", **options})


@pytest.mark.parametrize(
    "name", ["My Agent (7B)", "a+b", "modèle", "catalog.schema.model", "a b?c#d%20", "it's", 'a"b', ".x"]
)
def test_names_that_mlflow_allows_are_taken_in_as_they_are(checkpoints, make_checkpoint, name):
    path = make_checkpoint("named", seed=8)
    with open_client(checkpoints.uri) as client:
        client.create_registered_model(name)
        client.create_model_version(name, source=path.as_uri())
    taken = checkpoints.add_uri(f"models:/{name}/1", family="demo")
    assert taken.name == name
    assert checkpoints.find(f"{name}/1") == taken
    assert taken in checkpoints.all()
    versions = SqliteCatalog(sqlite_path(checkpoints.uri)).versions(name)
    assert ClientCatalog(checkpoints.uri).versions(name) == versions != []


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("models:/a\tb/1", r"character '\\t'"),
        ('models:/it\'s "it"/1', "quotes of both kinds"),
    ],
)
def test_names_that_cannot_be_taken_say_what_is_in_the_way(checkpoints, ref, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        checkpoints.add_uri(ref, family="demo")
    assert "rename" in caught.value.hint


def test_a_name_of_ours_that_is_not_allowed_says_which_characters(checkpoints, make_checkpoint):
    path = make_checkpoint("ours", seed=9)
    with pytest.raises(ConfigurationError, match=r"it has ' ', '\(', '\)'") as caught:
        checkpoints.add(path, name="My Agent (7B)", family="demo")
    assert "--name" in caught.value.hint
    with pytest.raises(ConfigurationError, match="cannot be a family") as caught:
        checkpoints.add(path, name="ours", family="a b")
    assert "--family" in caught.value.hint
