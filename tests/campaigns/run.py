"""Campaigns: kills, damaged files and requests, idle connections and load, seeded, on a finished demo.

Usage: `python -m tests.campaigns.run DEMO [--scale 0.01] [--part files] [--results FILE] [--out FILE]`.
They are tests, not measurements: a run fails at an exception that nobody caught, at wrong content that was
accepted, and at a health check that was not answered in time. `make soak` runs them whole, CI at one per
cent. Parts that are run one by one meet in the file of results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.campaigns.files import mutate_files
from tests.campaigns.kills import kill_verbs
from tests.campaigns.server import attack_server

PARTS = ("files", "kills", "server")
Results = dict[str, dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--health-s", type=float, default=0.2, help="most of the 99th percentile of health")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument(
        "--results", type=Path, help="JSON of parts that were run before; this run's are added"
    )
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    demo = asked.demo.resolve()
    found: Results = {}
    if asked.results is not None and asked.results.exists():
        found = json.loads(asked.results.read_bytes())
    for name in asked.part or PARTS:
        result = _run(name, demo, scale=asked.scale, seed=asked.seed, health_s=asked.health_s)
        found[name] = {"run": _circumstances(asked.scale, asked.seed), **result}
        if asked.results is not None:
            asked.results.write_text(json.dumps(found, indent=1), encoding="utf-8")
    problems = [f"{name}: {one}" for name, result in found.items() for one in result.pop("problems")]
    page = _page(found, problems)
    sys.stdout.write(page)
    if asked.out is not None:
        asked.out.write_text(page, encoding="utf-8")
    return 1 if problems else 0


def _run(name: str, demo: Path, *, scale: float, seed: int, health_s: float) -> dict[str, Any]:
    match name:
        case "files":
            return mutate_files(demo, count=round(10_000 * scale), seed=seed)
        case "kills":
            return kill_verbs(demo, count=round(1_000 * scale), seed=seed)
        case _:
            return attack_server(
                demo,
                requests=round(5_000 * scale),
                idle=500,
                half_open=200,
                callers=64,
                load_s=max(10.0, 600 * scale),
                health_s=health_s,
                seed=seed,
            )


def _circumstances(scale: float, seed: int) -> str:
    """At which commit, when and where."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"commit {commit or 'unknown'}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, scale {scale}, seed {seed}, "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load at the end {load}"
    )


def _page(found: Results, problems: list[str]) -> str:
    lines = ["# Campaigns", "", "<!-- Written by `make soak`. -->", "", f"{len(problems)} problems.", ""]
    for name, result in found.items():
        lines += [f"## {name}", "", "| | |", "|---|---|"]
        lines += [
            f"| {what} | {value if isinstance(value, str) else json.dumps(value)} |"
            for what, value in result.items()
        ]
        lines.append("")
    return "\n".join([*lines, *(f"- {one}" for one in problems)]).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
