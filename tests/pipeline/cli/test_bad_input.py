"""Bad input at the real command line: each has its exit code, names the offender, leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.pipeline.conftest import Place, Ran


def refused(ran: Ran, *, code: int, names: str) -> None:
    """The command ended with this code, named the offender on its first line, and gave a hint."""
    assert ran.code == code, f"exit {ran.code}\n{ran.out}\n{ran.err}"
    assert names in ran.err, ran.err
    assert "hint: " in ran.err
    assert "Traceback" not in ran.err


def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "damaged"
    shutil.copytree(checkpoint, path)
    return path


def add(place: Place, path: Path) -> Ran:
    ran = place.rung("checkpoint", "add", str(path), "--name", "bad", "--family", "tiny")
    listed = json.loads(place.must("checkpoint", "list", "--json").out)
    assert ran.code == 0 or listed == []
    return ran


def test_a_missing_configuration(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(checkpoint, tmp_path)
    (path / "config.json").unlink()
    refused(add(place, path), code=3, names="config.json")


def test_a_configuration_that_is_not_json(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(checkpoint, tmp_path)
    (path / "config.json").write_text("{nope")
    refused(add(place, path), code=3, names="config.json")


def test_truncated_weights(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(checkpoint, tmp_path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(add(place, path), code=3, names="model.safetensors")


def test_weights_with_nan(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(checkpoint, tmp_path)
    with safe_open(path / "model.safetensors", framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    refused(add(place, path), code=3, names="model.norm.weight")


def test_pickled_weights(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(checkpoint, tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    refused(add(place, path), code=3, names="pytorch_model.bin")


@pytest.mark.parametrize(
    ("ladder", "code", "names"),
    [
        ("", 2, "is empty"),
        ("family = ", 2, "is not TOML"),
        ('extends = "ladder.toml"\nfamily = "x"', 2, "cyclic"),
        ("{good}", 3, "tiny-a"),
        ("{target}", 2, "cpu-x86-64-v9"),
        ("{recipe}", 2, "w4g33-gptq"),
        ("{twice}", 2, "cyclic"),
    ],
    ids=[
        "empty",
        "garbage",
        "extends-itself",
        "unknown-checkpoint",
        "unknown-target",
        "unknown-recipe",
        "twice",
    ],
)
def test_ladders(place: Place, ladder: str, code: int, names: str) -> None:
    tier = '[[tier]]\ncheckpoint = "tiny-a"\nrecipes = ["{}"]\n'
    task = "[task.retrieval]\nfloor = [{}]\n"
    head = 'family = "tiny"\ntargets = ["{}"]\n'
    texts = {
        "{good}": head.format("cpu-x86-64-v3") + tier.format("fp32") + task.format("0.0"),
        "{target}": head.format("cpu-x86-64-v9") + tier.format("fp32") + task.format("0.0"),
        "{recipe}": head.format("cpu-x86-64-v3") + tier.format("w4g33-gptq") + task.format("0.0"),
        "{twice}": head.format("cpu-x86-64-v3") + 2 * tier.format("fp32") + task.format("0.0, 0.0"),
    }
    place.write_ladder(texts.get(ladder, ladder))
    refused(place.rung("build", "ladder.toml"), code=code, names=names)


def test_a_missing_ladder(place: Place) -> None:
    refused(place.rung("build", "nope.toml"), code=2, names="nope.toml")


def test_no_workspace(tmp_path: Path, place: Place) -> None:
    elsewhere = type(place)(tmp_path)
    refused(elsewhere.rung("matrix", "show"), code=2, names="workspace")


def test_an_unknown_command(place: Place) -> None:
    refused(place.rung("bulid"), code=2, names="`bulid`")


def test_an_unknown_cell(place: Place) -> None:
    refused(place.rung("matrix", "explain", "nope"), code=3, names="nope")


def test_an_unsupported_architecture_is_a_failed_cell(place: Place, checkpoint: Path, tmp_path: Path) -> None:
    path = damaged(checkpoint, tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLn"]}))
    assert add(place, path).code == 0, "what can be exported is decided at export"
    place.write_ladder(
        'family = "tiny"\ntargets = ["cpu-x86-64-v3"]\n[[tier]]\ncheckpoint = "bad"\nrecipes = ["fp32"]\n'
        "[task.retrieval]\nfloor = [0.0]\n"
    )
    ran = place.rung("build", "ladder.toml")
    refused(ran, code=3, names="LlamaForCausalLn")
    assert "LlamaForCausalLM" in ran.err
    cells = json.loads(place.must("matrix", "show", "--json").out)["cells"]
    assert {cell["state"] for cell in cells} == {"failed"}
    assert "LlamaForCausalLn" in cells[0]["reason"]


def test_a_database_of_a_newer_schema(place: Place) -> None:
    place.must("matrix", "show")
    with sqlite3.connect(place.root / ".rung/rung.db") as connection:
        connection.execute("update rung_schema set version_num = '9999_from_the_future'")
    refused(place.rung("matrix", "show"), code=3, names="9999_from_the_future")


def test_a_database_that_is_none(place: Place) -> None:
    (place.root / ".rung/rung.db").write_bytes(b"garbage, and no database at all" * 100)
    refused(place.rung("matrix", "show"), code=3, names="rung.db")


def test_a_port_in_use(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(place.rung("serve", "--port", str(port)), code=2, names=str(port))


def test_nothing_to_serve(place: Place) -> None:
    refused(place.rung("serve", "--port", "0"), code=3, names="no release")


@pytest.mark.parametrize("region", ["東京", "eu west", "eu\r\nX-Rung-Tier: 1", ""])
def test_a_region_that_no_header_can_hold(place: Place, region: str) -> None:
    refused(place.rung("serve", "--port", "0", "--region", region), code=2, names="the name of a region")
