"""`kill -9` of every command before its durable operations: run again, it ends as if nothing had happened.

After a kill nothing may be damaged; after the same command again the workspace's state equals that of a run
that was not broken. The commands with the fewest operations are killed at every one of them; the others at as
many as there are kills for, spread over all. Kills beyond that are in pairs.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaigns.commands import Commands, Ended

FAMILY = Path(__file__).parents[2] / "pipeline/demo/family"
TARGET = "cpu-x86-64-v3"
CELL = f"demo-agent-mid/1:fp32:{TARGET}:onnxruntime"
SMALL = f"demo-agent-small/1:fp32:{TARGET}:onnxruntime"
LADDER = f"""
family = "demo-agent"
targets = ["{TARGET}"]
toolchains = ["onnxruntime"]

[[tier]]
checkpoint = "demo-agent-small"
recipes = ["fp32"]

[task.tool-calling]
floor = [0.0]
margin_points = 30.0
max_samples = 200
chat_template = false

[evaluation]
batch_size = 32
seed = 0
"""
SLOW = {"build": 0.04, "evidence run": 0.04}
"""The part of all kills that a command gets of which every run takes long."""


@dataclass(frozen=True, slots=True)
class Case:
    """A command, and the workspace in which it is run."""

    name: str
    arguments: list[str]
    base: str
    leaves: str | None = None
    """The base that its unbroken run is."""


ON_TARGET = ["--target", TARGET]
MEASURE = ["evidence", "run", *ON_TARGET]
EXPORT = ["evidence", "export", "small.toml", *ON_TARGET]
RELEASE = ["release", "create", "r-2", "ladder.toml", "--by", "a"]
ADD = ["checkpoint", "add", str(FAMILY / "small"), "--name", "demo-agent-small", "--family", "demo-agent"]
REMOVE = ["--by", "a", "--reason", "b", "--force"]
CASES = [
    Case("init", ["init", "."], "empty", leaves="fresh"),
    Case("checkpoint add, the first", ADD, "fresh", leaves="registered"),
    Case("checkpoint add", [*ADD, "--name", "demo-agent-small-too"], "registered"),
    Case("build", ["build", "small.toml", "--jobs", "1"], "registered", leaves="built"),
    Case("matrix export", ["matrix", "export", "matrix.json"], "demo"),
    Case("approve", ["approve", CELL, "--by", "a", "--reason", "b", "--waive", "c"], "demo"),
    Case("reject", ["reject", CELL, "--by", "a", "--reason", "b"], "demo"),
    Case("withdraw", ["withdraw", CELL, "--by", "a", "--reason", "b"], "demo"),
    Case("release create", RELEASE, "demo", leaves="released"),
    Case("pull", ["pull", "demo-1", "--all", "--out", "new"], "demo"),
    Case("pull of a newer release", ["pull", "r-2", "--out", "node"], "released"),
    Case("evidence export", [*EXPORT, "--all", "--out", "kit"], "built", leaves="exported"),
    Case(
        "evidence run",
        [*MEASURE, "--kit", "kit", "--out", "ev.json", "--only", "parity", "--cell", SMALL],
        "exported",
        leaves="measured",
    ),
    Case("evidence trust", ["evidence", "trust", "node/trusted.pem", "--name", "n"], "demo"),
    Case("evidence import", ["evidence", "import", "ev.json"], "measured"),
    Case("evidence refresh", ["evidence", "refresh", "--runtime", "onnxruntime=0.0.1"], "demo"),
    Case("doctor --repair", ["doctor", "--repair"], "demo"),
    Case("serve", ["serve", "--node", "node", "--port", "0", "--task", "tool-calling"], "demo"),
    Case("resolve", ["resolve", "--task", "tool-calling", "--min-tier", "3"], "demo"),
    Case("release verify", ["release", "verify", "demo-1"], "demo"),
    Case("matrix show", ["matrix", "show"], "demo"),
    Case("gc", ["gc", "ladder.toml", "--grace", "0"], "demo"),
    Case("release remove", ["release", "remove", "demo-1", *REMOVE], "demo"),
    Case("checkpoint remove", ["checkpoint", "remove", "demo-agent-small", *REMOVE], "registered"),
    Case("matrix track", ["matrix", "track"], "demo"),
]  # fmt: skip
DONE_BEFORE = (0, 2, 3, 8)
"""Exit codes of a command run again: what it did before it was killed may be refused the second time."""


@dataclass(frozen=True, slots=True)
class _Unbroken:
    """A run of a command that nothing broke."""

    case: Case
    operations: int
    state: State


def kill_verbs(demo: Path, *, count: int, seed: int) -> dict[str, Any]:
    """Kill commands in copies of the demo's workspace; what came of it."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rung-kills-") as scratch:
        campaign = _Campaign(Path(scratch), demo, dice=random.Random(seed))
        try:
            runs = [run for case in CASES if (run := campaign.unbroken(case)) is not None]
            kills = _shares(runs, count=count)
            for run in runs:
                killed = campaign.kill(run, kills=kills[run.case.name])
                found[f"rung {run.case.name}"] = f"{killed} kills, {run.operations} durable operations"
        finally:
            campaign.commands.close()
    return {
        "kills": campaign.killed.total(),
        "kills by operation": dict(sorted(campaign.killed.items())),
        **found,
        "problems": campaign.problems,
    }


def _shares(runs: list[_Unbroken], *, count: int) -> dict[str, int]:
    """How often each command is killed: the same for all, and what some have no use for is for the others."""
    shares = {run.case.name: max(1, round(count * SLOW.get(run.case.name, 0))) for run in runs}
    left = count - sum(shares[name] for name in SLOW if name in shares)
    others = sorted((run for run in runs if run.case.name not in SLOW), key=lambda run: run.operations)
    for number, run in enumerate(others):
        share = max(1, left // (len(others) - number))
        if number < len(others) - 1:  # what is left when all are through is the last one's, in pairs
            share = min(share, run.operations)
        shares[run.case.name] = share
        left -= share
    return shares


class _Campaign:
    def __init__(self, scratch: Path, demo: Path, *, dice: random.Random) -> None:
        self.commands = Commands(scratch)
        self.killed: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self._dice = dice
        self._bases = scratch / "bases"
        # Workspaces have absolute paths in MLflow's database: every run is at the same place.
        self._work = scratch / "work"
        (self._bases / "empty").mkdir(parents=True)
        shutil.copytree(demo, self._bases / "demo", symlinks=True)

    def unbroken(self, case: Case) -> _Unbroken | None:
        """Run a command to its end; None where it fails."""
        if not (self._bases / case.base).exists():
            self.problems.append(f"{case.name}: what it needs could not be made")
            return None
        self._restore(case)
        ended = self.commands.run(case.arguments, at=self._work)
        if ended.code != 0:
            self.problems.append(f"{case.name}: exit {ended.code} unbroken: {ended.said[-600:]}")
            return None
        found = state(self._work)
        if case.leaves is not None:
            (self._work / "small.toml").write_text(LADDER)
            _copy(self._work, self._bases / case.leaves)
        return _Unbroken(case, ended.operations, found)

    def kill(self, run: _Unbroken, *, kills: int) -> int:
        """Kill a command; how often."""
        before = self.killed.total()
        if run.operations:
            how = self._chains if run.case.name == "build" else self._points
            how(run.case, run.operations, run.state, kills=kills)
        return self.killed.total() - before

    def _points(self, case: Case, operations: int, expected: State, *, kills: int) -> None:
        for points in _plan(operations, kills, self._dice):
            self._restore(case)
            for point in points:
                self._kill(case, point)
            self._again(case, expected, after=f"killed at {points} of {operations}")

    def _chains(self, case: Case, operations: int, expected: State, *, kills: int) -> None:
        """Kill what goes on where it was killed, again and again, to the end."""
        self._restore(case)
        points: list[int] = []
        for number in range(kills):
            points.append(self._dice.randint(1, max(2, operations // 3)))
            ended = self._kill(case, points[-1])
            if ended.code != -9 or number == kills - 1:
                self._again(case, expected, after=f"killed one after the other at {points}")
                self._restore(case)
                points = []

    def _kill(self, case: Case, point: int) -> Ended:
        ended = self.commands.run(case.arguments, at=self._work, kill=point)
        if ended.code == -9:
            self.killed[ended.kind] += 1
        elif ended.code not in DONE_BEFORE or "Traceback" in ended.said:
            self.problems.append(f"{case.name}: exit {ended.code} before {point}: {ended.said[-600:]}")
        self.problems += [
            f"{case.name}, killed at {point} ({ended.kind}): {one}" for one in damaged(self._work)
        ]
        return ended

    def _again(self, case: Case, expected: State, *, after: str) -> None:
        ended = self.commands.run(case.arguments, at=self._work)
        if ended.code not in DONE_BEFORE or "Traceback" in ended.said:
            self.problems.append(f"{case.name}, {after}: exit {ended.code} again: {ended.said[-600:]}")
        self.problems += [f"{case.name}, {after}, again: {one}" for one in damaged(self._work)]
        self.problems += [
            f"{case.name}, {after}: {one}"[:600] for one in differences(expected, state(self._work))
        ]

    def _restore(self, case: Case) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        _copy(self._bases / case.base, self._work)


def _plan(operations: int, kills: int, dice: random.Random) -> Iterator[list[int]]:
    """Where each run is killed: every operation once, as far as there are kills; then in pairs."""
    if kills <= operations:
        step = operations / kills
        yield from ([1 + int(step * (number + dice.random()))] for number in range(kills))
        return
    yield from ([point] for point in range(1, operations + 1))
    for _ in range((kills - operations) // 2):
        yield [dice.randint(1, operations), dice.randint(1, operations)]


def _copy(source: Path, target: Path) -> None:
    """Copy a workspace; blobs, which nobody changes in place, by name."""

    def copy(one: str, other: str) -> None:
        if "/blobs/" in one:
            os.link(one, other)
        else:
            shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy, dirs_exist_ok=True)


State = dict[str, collections.Counter[str]]


def differences(expected: State, found: State) -> list[str]:
    """What one state has and the other has not."""
    none: collections.Counter[str] = collections.Counter()
    both = [(what, expected.get(what, none), found.get(what, none)) for what in sorted({*expected, *found})]
    return [
        f"{what} lacks {list(one - other)}, has {list(other - one)}"
        for what, one, other in both
        if one != other
    ]


def state(work: Path) -> State:
    """What a workspace and its nodes hold, without times, digests of what has times, and unused blobs."""
    found: State = {}
    names: collections.Counter[str] = collections.Counter()
    for path in work.rglob("*"):
        if (
            path.is_file()
            and "/blobs/" not in str(path)
            and not path.name.endswith((".lock", "-wal", "-shm"))
        ):
            names[_plain(str(path.relative_to(work)))] += 1
    found["files"] = names
    for index in work.rglob("index.json"):
        if (index.parent / "blobs").is_dir():
            entries = json.loads(index.read_bytes())["manifests"]
            found[str(index.relative_to(work))] = collections.Counter(
                _plain(json.dumps(one)) for one in entries
            )
    for database in work.glob(".rung/*.db"):
        with closing(sqlite3.connect(database)) as opened:
            tables = [row[0] for row in opened.execute("select name from sqlite_master where type = 'table'")]
            for table in tables:
                rows = opened.execute(f'select * from "{table}"').fetchall()
                whole = database.name == "rung.db"  # of MLflow's own, how many there are
                found[f"{database.name}: {table}"] = collections.Counter(
                    _plain(repr(row)) if whole else "row" for row in rows
                )
    return found


def _plain(text: str) -> str:
    text = re.sub(r"\b[0-9a-f]{32,64}\b", "#", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+(Z|[+-]\d\d:\d\d)?", "T", text)
    text = re.sub(r"[A-Za-z0-9+/]{40,}={0,2}", "S", text)
    return re.sub(r"\d+\.\d+(e-?\d+)?|\d{5,}", "N", text)


def damaged(work: Path) -> list[str]:
    """Blobs that are not their digests, indexes that name missing ones, databases that are not whole."""
    found = []
    for index in work.rglob("index.json"):
        blobs = index.parent / "blobs/sha256"
        if not blobs.is_dir():
            continue
        found += [f"{blob} is not its digest" for blob in blobs.iterdir() if not _is_its_digest(blob)]
        found += [
            f"{index} names {entry['digest']}, which is missing"
            for entry in json.loads(index.read_bytes())["manifests"]
            if not (blobs / entry["digest"].removeprefix("sha256:")).is_file()
        ]
    for database in work.glob(".rung/*.db"):
        with closing(sqlite3.connect(database)) as opened:
            found += [
                f"{database}: {row}" for row in opened.execute("pragma integrity_check") if row != ("ok",)
            ]
            found += [f"{database}: {row}" for row in opened.execute("pragma foreign_key_check")]
    return found


_KNOWN: dict[tuple[int, int, int], bool] = {}
"""Blobs that were read before, by inode, size and time: links to them need not be read again."""


def _is_its_digest(blob: Path) -> bool:
    stat = blob.stat()
    key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _KNOWN:
        _KNOWN[key] = hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    return _KNOWN[key]
