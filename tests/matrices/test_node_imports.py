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
        "from matrices.views import cell_page, diff, render, table"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
