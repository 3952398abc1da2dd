"""A backend is a folder and one line: `docs/how-to/add-a-backend.md`, carried out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.checkpoints import make_checkpoint
from tests.patches import applied

LADDER = """
family = "tiny"
targets = ["cpu-x86-64-v3"]
toolchains = ["acme", "onnxruntime"]

[[tier]]
checkpoint = "tiny"
recipes = ["fp32", "w4g32-rtn"]

[task.retrieval]
floor = [0.0]
margin_points = 60.0
max_samples = 20
"""


def test_a_backend_is_a_folder_and_a_line_and_its_cells_are_evaluated(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=1)
    with applied("add-a-backend.patch", to=tmp_path / "tree") as (tree, touched):
        assert {path for path in touched if not path.startswith("compilers/acme/")} == {
            "compilers/backends.py"
        }
        tree.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts/test_toolchain.py",
                    "tests/contracts/test_runtime.py", "-k", "acme")  # fmt: skip
        work = tmp_path / "work"
        work.mkdir()
        (work / "ladder.toml").write_text(LADDER, encoding="utf-8")
        rung = ("-m", "pipeline.cli.main")
        tree.python(*rung, "init", ".", at=work)
        names = ("--name", "tiny", "--family", "tiny")
        tree.python(*rung, "checkpoint", "add", str(checkpoint), *names, at=work)
        tree.python(*rung, "build", "ladder.toml", at=work)
        shown = json.loads(tree.python(*rung, "matrix", "show", "--json", at=work))
    cells = {(cell["recipe"], cell["toolchain"]): cell for cell in shown["cells"]}
    assert cells["fp32", "acme"]["state"] == "evaluated"
    assert cells["fp32", "acme"]["parity"]["within"]
    assert cells["w4g32-rtn", "acme"]["state"] == "unsupported"
    assert cells["w4g32-rtn", "onnxruntime"]["state"] == "evaluated"
