"""`kill -9` of commands at random moments: the same command again succeeds, and nothing is left damaged."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNG = [sys.executable, "-m", "pipeline.cli.main"]
CELL = "demo-agent-mid/1:fp32:cpu-x86-64-v3:tvm"


def kill_verbs(demo: Path, *, count: int, seed: int) -> dict[str, Any]:
    """Kill commands in a copy of the demo's workspace; what came of it."""
    dice = random.Random(seed)
    problems: list[str] = []
    killed = 0
    with tempfile.TemporaryDirectory(prefix="rung-kills-") as scratch:
        work = Path(scratch) / "demo"
        shutil.copytree(demo, work, symlinks=True)
        durations: dict[str, float] = {}
        for number in range(count):
            command = _commands(number)[number % 5]
            verb = command[0]
            process = _start(command, work)
            try:
                process.communicate(timeout=dice.uniform(0.1, durations.get(verb, 4.0)))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                killed += 1
                began = time.monotonic()
                again = _start(command, work)
                said, _ = again.communicate(timeout=300)
                durations[verb] = time.monotonic() - began
                # What was done before the kill may be refused the second time, with its documented code.
                if again.returncode not in (0, 2, 3, 8) or b"Traceback" in said:
                    problems.append(f"{command} after a kill: exit {again.returncode}: {said[-300:]!r}")
            problems += _damaged(work)
        checked = _start(["doctor", "--json"], work)
        said, _ = checked.communicate(timeout=300)
        if b"Traceback" in said:
            problems.append(f"doctor: {said[-300:]!r}")
    return {"commands": count, "killed": killed, "problems": problems}


def _commands(number: int) -> list[list[str]]:
    return [
        ["pull", "demo-1", "--task", "tool-calling", "--out", f"node-{number}"],
        ["release", "create", f"r-{number}", "ladder.toml", "--by", "soak"],
        ["withdraw", CELL, "--by", "soak", "--reason", "soak"],
        ["approve", CELL, "--by", "soak", "--reason", "soak", "--waive", "soak"],
        ["init", f"fresh-{number}"],
    ]


def _start(command: list[str], work: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*RUNG, *command],
        cwd=work,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _damaged(work: Path) -> list[str]:
    """Blobs that are not their digests, and indexes that name missing ones, found without Rung's code."""
    found = []
    for index in (*work.glob("*/store/index.json"), work / ".rung/store/index.json"):
        blobs = index.parent / "blobs/sha256"
        found += [
            f"{blob} is not its digest"
            for blob in blobs.iterdir()
            if hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name
        ]
        found += [
            f"{index} names {entry['digest']}, which is missing"
            for entry in json.loads(index.read_bytes())["manifests"]
            if not (blobs / entry["digest"].removeprefix("sha256:")).is_file()
        ]
    return found
