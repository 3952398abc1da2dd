"""Campaigns: random kills, damaged files and requests, idle connections and load, seeded, on a finished demo.

Usage: `python -m tests.campaigns.run DEMO [--scale 0.01] [--seed 1] [--out FILE]`. They are tests, not
measurements: a run fails at an exception that nobody caught, at wrong content that was accepted, and at a
health check that was not answered in time. `make soak` runs them whole, CI at one per cent.
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

from tests.campaigns.files import mutate_files
from tests.campaigns.kills import kill_verbs
from tests.campaigns.server import attack_server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--health-s", type=float, default=0.2, help="most of the 99th percentile of health")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    demo = asked.demo.resolve()
    found = {
        "files": mutate_files(demo, count=round(10_000 * asked.scale), seed=asked.seed),
        "kills": kill_verbs(demo, count=max(5, round(1_000 * asked.scale)), seed=asked.seed),
        "server": attack_server(
            demo,
            requests=round(5_000 * asked.scale),
            idle=500,
            half_open=200,
            callers=64,
            load_s=max(10.0, 600 * asked.scale),
            health_s=asked.health_s,
            seed=asked.seed,
        ),
    }
    problems = [f"{name}: {one}" for name, result in found.items() for one in result.pop("problems")]
    page = _page(found, problems, scale=asked.scale, seed=asked.seed)
    sys.stdout.write(page)
    if asked.out is not None:
        asked.out.write_text(page, encoding="utf-8")
    return 1 if problems else 0


def _page(found: dict[str, dict[str, object]], problems: list[str], *, scale: float, seed: int) -> str:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Campaigns",
        "",
        "<!-- Written by `make soak`. -->",
        "",
        f"Commit {commit or 'unknown'}, {datetime.now(UTC):%Y-%m-%d}, scale {scale}, seed {seed}, "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}: "
        f"{len(problems)} problems.",
        "",
    ]
    for name, result in found.items():
        lines += [f"## {name}", "", "| | |", "|---|---|"]
        lines += [f"| {what} | {json.dumps(value)} |" for what, value in result.items()]
        lines.append("")
    return "\n".join([*lines, *(f"- {one}" for one in problems)]).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
