from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BANNED = ("sqlmodel", "sqlalchemy", "alembic", "torch", "mlflow", "lm_eval", "onnx", "transformers", "rich")


def test_a_node_resolves_without_database_and_frameworks():
    """With those packages made impossible to import, as on a node that does not have them."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({BANNED}))\n"
        "from matrices.cells import cell, levels, proxy\n"
        "from matrices.releases import files, release, ruling\n"
        "from matrices.resolve import candidate, explain, gates, request\n"
        "from matrices.resolve.gates import GATES\n"
        "print(','.join(name for name, _ in GATES))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "pin,hardware,evidence,quality,approval,capacity"


def test_drawing_a_matrix_needs_no_database():
    program = (
        "import sys\nsys.modules.update(dict.fromkeys(('sqlmodel', 'sqlalchemy', 'alembic')))\n"
        "from pathlib import Path\n"
        "from matrices.releases.release import Release\n"
        "from matrices.views import cell_page, diff, render, table\n"
        "release = Release.parse(Path(sys.argv[1]).read_bytes(), where='it')\n"
        "cells = [one.cell for one in release.cells]\n"
        "render.matrix_table(cells), table.matrix_json(cells)\n"
        "cell_page.explain_cell(cell_page.CellPage(cells[0], history=cells[0].evidence))\n"
        "diff.diff_lines(diff.diff_releases(release, release))\n"
        "print(render.matrix_markdown(cells))\n"
    )
    release = ROOT / "tests/matrices/releases/golden/release-1.json"
    drawn = subprocess.check_output([sys.executable, "-c", program, str(release)], cwd=ROOT, text=True)
    assert "approved" in drawn
