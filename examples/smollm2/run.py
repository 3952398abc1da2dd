"""`make real`: a real instruct model from PyPI, built, judged, approved, released, served and compared.

Each step prints the command that it runs. Run again, it goes on where it was. It ends with exit 1 if the
float32 artifacts answer otherwise than transformers and lm-eval's `hf` backend do (`agreement.py`).

Usage: `python examples/smollm2/run.py DIRECTORY`
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from pipeline.demo.commands import add_checkpoints, ask, quote, run_python, rung, say, serving

HERE: Final = Path(__file__).parent
FAMILY: Final = "smollm2"
SOURCES: Final = "checkpoints"
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
    os.environ["TQDM_DISABLE"] = "1"  # bars of transformers and lm-eval, which a log keeps line by line
    run_script("checkpoints.py", SOURCES, at=directory)
    folders = [directory / SOURCES / name for name in CHECKPOINTS]
    add_checkpoints(folders, names=CHECKPOINTS, family=FAMILY, at=directory)
    rung("build", "ladder.toml", at=directory)
    why = "cleared its bars"
    rung("approve", "--passing", "--family", FAMILY, "--by", "demo", "--reason", why, at=directory)
    rung("release", "create", RELEASE, "ladder.toml", "--by", "demo", at=directory)
    rung("pull", RELEASE, "--task", TASK, "--min-tier", "1", "--out", NODE, at=directory)
    serve_and_ask(at=directory)
    best = f"{SOURCES}/{CHECKPOINTS[0]}"
    run_script("agreement.py", "--checkpoint", best, "--release", RELEASE, at=directory)
    say("")
    say(f"The matrix (`rung matrix show` in {directory.name}/):")
    rung("matrix", "show", at=directory)
    return 0


def run_script(name: str, *arguments: str, at: Path) -> None:
    """Run a script of this folder."""
    shown = " ".join(["python", f"examples/smollm2/{name}", *arguments])
    run_python(shown, str(HERE / name), *arguments, at=at)


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
