"""`make real`: a real instruct model from PyPI, built, judged, approved, released and served.

Each step prints the command that it runs. Run again, it goes on where it was.

Usage: `python examples/smollm2/run.py DIRECTORY`
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Final

from pipeline.demo.commands import add_checkpoints, ask, quote, run_python, rung, say, serving

HERE: Final = Path(__file__).parent
FAMILY: Final = "smollm2"
CHECKPOINTS: Final = ("smollm2-135m", "smollm2-120m")
RELEASE: Final = "smollm2-1"
NODE: Final = "node"
TASK: Final = "contact-extraction"
QUESTION: Final = "What is the capital of Japan?"


def main() -> int:
    """Run in the directory given; the exit code."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "real").resolve()
    rung("init", str(directory), at=Path.cwd())
    for name in ("ladder.toml", "texts.jsonl"):
        shutil.copyfile(HERE / name, directory / name)
    shutil.copytree(HERE / "tasks", directory / "tasks", dirs_exist_ok=True)
    sources = directory / "checkpoints"
    script = HERE / "checkpoints.py"
    run_python(
        f"python examples/smollm2/{script.name} {sources.name}", str(script), str(sources), at=directory
    )
    folders = [sources / name for name in CHECKPOINTS]
    add_checkpoints(folders, names=CHECKPOINTS, family=FAMILY, at=directory)
    rung("build", "ladder.toml", at=directory)
    why = "cleared its bars"
    rung("approve", "--passing", "--family", FAMILY, "--by", "demo", "--reason", why, at=directory)
    rung("release", "create", RELEASE, "ladder.toml", "--by", "demo", at=directory)
    rung("pull", RELEASE, "--task", TASK, "--min-tier", "1", "--out", NODE, at=directory)
    serve_and_ask(at=directory)
    say("")
    say(f"The matrix (`rung matrix show` in {directory.name}/):")
    rung("matrix", "show", at=directory)
    return 0


def serve_and_ask(*, at: Path) -> None:
    """Serve the pulled release, ask it one question as a chat client does, and stop it."""
    command = ["serve", "--node", NODE, "--task", TASK, "--min-tier", "1", "--port", "0"]
    say(f"\n$ rung {' '.join(quote(a) for a in command)} &")
    with serving(command, at=at) as url:
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": FAMILY, "messages": messages, "max_tokens": 24, "temperature": 0}
        say(f"\n$ curl {url}/chat/completions --json '{json.dumps(body)}'")
        headers, answer = ask(f"{url}/chat/completions", body, {})
        say(f"X-Rung-Tier: {headers['X-Rung-Tier']}")
        say(answer["choices"][0]["message"]["content"])


if __name__ == "__main__":
    sys.exit(main())
