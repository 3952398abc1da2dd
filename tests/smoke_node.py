"""The smoke of a serving node: against an installed wheel, without the build machine's part.

Usage: `python tests/smoke_node.py --demo DIR`, with the environment's own Python. DIR is what
`make demo` made; its release is pulled to a new directory, resolved, loaded and asked over HTTP.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

FORBIDDEN = ("torch", "mlflow", "lm_eval", "sqlmodel", "transformers", "onnx", "alembic")
TASK = "tool-calling"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--demo", type=Path, required=True)
    arguments = parser.parse_args()
    present = [name for name in FORBIDDEN if importlib.util.find_spec(name)]
    if present:
        sys.exit(f"a serving node must do without {present}")
    import registry

    if "site-packages" not in str(registry.__file__):
        sys.exit(f"the packages come from {registry.__file__}, not from the wheel")
    demo = arguments.demo.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        node = Path(scratch) / "node"
        rung(
            "pull",
            "demo-1",
            "--from",
            str(demo / ".rung"),
            "--key",
            str(demo / ".rung/keys/rung.pub"),
            "--task",
            TASK,
            "--min-tier",
            "1",
            "--out",
            str(node),
            at=Path(scratch),
        )
        ask(node, at=Path(scratch))
    print("1 passed, 0 failed")  # noqa: T201  # the closing line that a runner reads
    return 0


def rung(*arguments: str, at: Path) -> None:
    subprocess.run([str(Path(sys.executable).with_name("rung")), *arguments], cwd=at, check=True)


def ask(node: Path, *, at: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("rung")),
        "serve",
        "--node",
        str(node),
        "--task",
        TASK,
        "--min-tier",
        "1",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, cwd=at, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = next(
            (line.split("ready: ", 1)[1].strip() for line in process.stderr if "ready: " in line), None
        )
        if url is None:
            sys.exit("the server did not start")
        body = {"model": "demo-agent", "prompt": "user : please", "max_tokens": 4, "temperature": 0}
        request = urllib.request.Request(
            f"{url}/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Rung-Min-Tier": "1", "X-Rung-Task": TASK},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["X-Rung-Tier"] == "1", dict(answer.headers)
            assert answer.headers["X-Rung-Artifact"].startswith("sha256:")
            assert json.loads(answer.read())["choices"]
    finally:
        process.terminate()
        process.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
