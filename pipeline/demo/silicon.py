"""`make silicon`: one checkpoint for every silicon, from one ladder, on a machine that has one of them.

Each step prints the command that it runs. Run again, it goes on where it was.

Usage: `python -m pipeline.demo.silicon DIRECTORY`
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from pipeline.demo.commands import rung, say
from pipeline.demo.run import FAMILY

NAME = f"{FAMILY}-small"
LADDER = "silicon.toml"


def main() -> int:
    """Run in the directory given; the exit code."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "silicon").resolve()
    shipped = Path(str(resources.files("pipeline.demo")))
    rung("init", str(directory), at=Path.cwd())
    shutil.copyfile(shipped / LADDER, directory / LADDER)
    tasks = Path(str(resources.files("evals.tasks")))
    shutil.copyfile(tasks / "calibration.jsonl", directory / "calibration.jsonl")
    checkpoint = str(shipped / "family" / "small")
    rung("checkpoint", "add", checkpoint, "--name", NAME, "--family", FAMILY, at=directory)
    rung("build", LADDER, at=directory)
    say("\nWhat each artifact holds, as standard tools read it:")
    for line in proofs(directory):
        say(f"  {line}")
    rung("matrix", "show", at=directory)
    return 0


def proofs(directory: Path) -> list[str]:
    """One line for each artifact: its cell, and what its binaries are."""
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "matrix", "show", "--json"],
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        f"{cell['id']}: {entry['detail'].removeprefix('opened: ')}"
        for cell in json.loads(shown.stdout)["cells"]
        for entry in cell["evidence"]
        if entry["detail"].startswith("opened: ") and entry["digest"] == cell["artifact"]
    ]


if __name__ == "__main__":
    sys.exit(main())
