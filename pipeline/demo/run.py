"""`make demo`: the whole way on embedded defaults, by the real commands, with a family that Rung ships.

Each step prints the command that it runs, so that the output is also a tutorial. Run again, it goes on
where it was.

Usage: `python -m pipeline.demo.run DIRECTORY`
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import resources
from pathlib import Path

from pipeline.demo.commands import add_checkpoints, ask, quote, rung, say, serving

FAMILY = "demo-agent"
SIZES = ("flagship", "mid", "small")
RELEASE = "demo-1"
NODE = "node"


def main() -> int:
    """Run the demo in the directory given; the exit code."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve()
    shipped = Path(str(resources.files("pipeline.demo")))
    rung("init", str(directory), at=Path.cwd())
    shutil.copyfile(shipped / "ladder.toml", directory / "ladder.toml")
    tasks = Path(str(resources.files("evals.tasks")))
    shutil.copyfile(tasks / "calibration.jsonl", directory / "calibration.jsonl")
    names = [f"{FAMILY}-{size}" for size in SIZES]
    folders = [shipped / "family" / size for size in SIZES]
    add_checkpoints(folders, names=names, family=FAMILY, at=directory)
    rung("build", "ladder.toml", at=directory)
    rung("matrix", "show", at=directory)
    why = "met all thresholds in the demo"
    rung("approve", "--passing", "--family", FAMILY, "--by", "demo", "--reason", why, at=directory)
    rung("release", "create", RELEASE, "ladder.toml", "--by", "demo", at=directory)
    rung("release", "verify", RELEASE, at=directory)
    rung("resolve", "--release", RELEASE, "--task", "tool-calling", "--min-tier", "1", at=directory)
    rung("pull", RELEASE, "--task", "tool-calling", "--min-tier", "1", "--out", NODE, at=directory)
    serve_and_ask(at=directory)
    say("")
    say(f"The matrix (`rung matrix show` in {directory.name}/):")
    rung("matrix", "show", at=directory)
    return 0


def serve_and_ask(*, at: Path) -> None:
    """Start the shim on the pulled release, ask it one question, and stop it."""
    command = ["serve", "--node", NODE, "--task", "tool-calling", "--min-tier", "1", "--port", "0"]
    say(f"\n$ rung {' '.join(quote(a) for a in command)} &")
    with serving(command, at=at) as url:
        sample = _sample()
        body = {"model": FAMILY, "prompt": sample, "max_tokens": 24, "temperature": 0, "stop": [" ."]}
        say(f"\n$ curl {url}/completions -H 'X-Rung-Task: tool-calling' -H 'X-Rung-Min-Tier: 1' \\")
        say(f"    --json '{json.dumps(body)}'")
        asked = {"X-Rung-Task": "tool-calling", "X-Rung-Min-Tier": "1"}
        headers, answer = ask(f"{url}/completions", body, asked)
        for name in ("X-Rung-Tier", "X-Rung-Artifact"):
            say(f"{name}: {headers[name]}")
        say(answer["choices"][0]["text"].strip())


def _sample() -> str:
    path = Path(str(resources.files("evals.tasks"))) / "tool_calling" / "generate.jsonl"
    with path.open(encoding="utf-8") as lines:
        document = json.loads(next(lines))
    return f"{document['context']} {document['question']}"


if __name__ == "__main__":
    sys.exit(main())
