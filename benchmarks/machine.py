"""The machine of a run, and how much of it other processes used during the run."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.build import library_versions
from benchmarks.child import ROOT
from registry.value import Value
from serving.node.host import this_host

NOISY_SHARE = 0.05
NOTABLE = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "asimddp", "sve")
"""Processor flags that decide which kernels run."""


class BenchMachine(Value):
    """The machine that a run was made on."""

    chip: str
    architecture: str
    features: tuple[str, ...]
    """Those that decide which kernels run."""
    cores: int
    memory_bytes: int
    system: str
    python: str
    libraries: dict[str, str]
    commit: str
    """Of the sources; with `+changes` where files differ from it."""
    date: datetime
    """UTC."""


class Quiet(Value):
    """How quiet the machine was."""

    load_at_start: float
    """Load average of the last minute before the run."""
    other_share: float
    """Share of the cores' time, during the run, that other processes used."""
    steal_share: float
    """Share that the hypervisor gave to others."""

    @property
    def is_quiet(self) -> bool:
        """Whether others took less than a twentieth."""
        return self.other_share + self.steal_share < NOISY_SHARE


def this_machine() -> BenchMachine:
    """The facts of this machine."""
    host = this_host()
    return BenchMachine(
        chip=host.chip,
        architecture=host.architecture,
        features=tuple(flag for flag in NOTABLE if flag in host.features),
        cores=host.cores,
        memory_bytes=host.memory_bytes,
        system=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        python=platform.python_version(),
        libraries=library_versions(),
        commit=_commit(),
        date=datetime.now(UTC).replace(microsecond=0),
    )


@dataclass(frozen=True, slots=True)
class Watch:
    """A snapshot of the processors' counters, to compare with a later one."""

    load: float
    busy_s: float
    steal_s: float
    own_s: float
    at_s: float

    @classmethod
    def start(cls) -> Watch:
        """The counters now."""
        tick = os.sysconf("SC_CLK_TCK")
        stat = Path("/proc/stat")
        fields = (
            [int(f) for f in stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
            if stat.exists()
            else []
        )
        user, nice, system, _idle, _wait, irq, softirq, steal = (fields + [0] * 8)[:8]
        times = os.times()
        return cls(
            load=os.getloadavg()[0],
            busy_s=(user + nice + system + irq + softirq) / tick,
            steal_s=steal / tick,
            own_s=times.user + times.system + times.children_user + times.children_system,
            at_s=time.monotonic(),
        )

    def stop(self) -> Quiet:
        """What others used since; all children must have ended, so that their time counts as ours."""
        now = Watch.start()
        capacity = max(1e-9, (now.at_s - self.at_s) * (os.cpu_count() or 1))
        others = (now.busy_s - self.busy_s) - (now.own_s - self.own_s)
        return Quiet(
            load_at_start=self.load,
            other_share=max(0.0, others / capacity),
            steal_share=(now.steal_s - self.steal_s) / capacity,
        )


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "registry", "compilers", "serving")
    return (head or "unknown") + ("+changes" if changed else "")
