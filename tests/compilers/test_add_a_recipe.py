"""A recipe costs at most seven files: `docs/how-to/add-a-recipe.md`, carried out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.patches import applied

RECIPE = "w4g32-rtn-head8"


def test_a_recipe_of_known_forms_is_two_files_and_builds_with_both_toolchains(tmp_path: Path) -> None:
    with applied("add-a-recipe.patch", to=tmp_path / "tree") as (tree, touched):
        assert touched == {"registry/recipe.py", "tests/registry/test_recipe.py"}
        arguments = (RECIPE, str(tmp_path), "onnxruntime", "tvm")
        printed = tree.python("-m", "tests.compilers.recipe_parity", *arguments)
        found = json.loads(printed.splitlines()[-1])
        assert set(found) == {"onnxruntime", "tvm"}
        for parity in found.values():
            assert parity["within"], parity["reason"]
            assert parity["error"] < 1e-4  # the output matrix in 4 bits has 7e-3
