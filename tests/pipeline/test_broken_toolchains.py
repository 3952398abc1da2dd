"""A toolchain of a wrong version, or that crashes, hangs or takes all memory, fails its own cells only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import LADDER, Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CRASH = "import os, signal\nprint('half way', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
HANG = "import time\ntime.sleep(3600)\n"
GREEDY = "import time\nheld = bytearray(3 << 30)\ntime.sleep(3600)\n"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Place:
    """A workspace whose checkpoint is quantized and lowered by `onnxruntime`; `tvm` is still to come."""
    place = Place(tmp_path_factory.mktemp("quantized"))
    place.must("init", ".")
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder(LADDER.replace(', "w4g32-rtn"', ""))
    place.must("build", "ladder.toml", "--until", "built", "--toolchain", "onnxruntime")
    return place


def shadow(directory: Path, name: str, text: str) -> str:
    """A folder that hides a package behind another of its name; for PYTHONPATH."""
    package = directory / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text, encoding="utf-8")
    return str(directory)


def cells(place: Place) -> dict[str, dict[str, Any]]:
    shown = json.loads(place.must("matrix", "show", "--json").out)["cells"]
    return {cell["toolchain"]: cell for cell in shown}


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (CRASH, (), "SIGSEGV"),
        (HANG, ("--timeout", "12"), "stopped after its time limit of 12 s"),
        (GREEDY, ("--memory", "2"), "out of memory"),
    ],
    ids=["crash", "hang", "memory"],
)
def test_a_compiler_that_breaks_fails_its_cell_with_its_log_and_the_rest_is_built(
    quantized: Place, tmp_path: Path, text: str, options: tuple[str, ...], said: str
) -> None:
    path = shadow(tmp_path, "tvm", text)
    ran = quantized.rung("build", "ladder.toml", "--until", "built", *options, PYTHONPATH=path)
    assert ran.code == 4, ran.err
    found = cells(quantized)
    assert found["tvm"]["state"] == "failed"
    assert said in found["tvm"]["reason"]
    assert found["onnxruntime"]["state"] == "built"
    if text == CRASH:
        assert "half way" in found["tvm"]["reason"]
        assert found["tvm"]["log"]


def test_a_compiler_of_a_wrong_version_fails_its_cell_and_the_rest_is_built(
    quantized: Place, tmp_path: Path
) -> None:
    facts = tmp_path / "apache_tvm-0.11.dist-info"
    facts.mkdir()
    text = "Metadata-Version: 2.1\nName: apache-tvm\nVersion: 0.11\n"
    (facts / "METADATA").write_text(text, encoding="utf-8")
    ran = quantized.rung("build", "ladder.toml", "--until", "built", PYTHONPATH=str(tmp_path))
    assert ran.code == 5, ran.err
    found = cells(quantized)
    assert found["tvm"]["state"] == "failed"
    assert "`apache-tvm` 0.11 is installed, what works is ==0.27.*" in found["tvm"]["reason"]
    assert "rung[" in found["tvm"]["reason"]
    assert found["onnxruntime"]["state"] == "built"
