"""The report: all results of a run as one JSON document."""

from __future__ import annotations

from typing import Literal

from benchmarks.build import StepRecord
from benchmarks.checkpoint import BenchmarkCheckpoint
from benchmarks.goals import Goal
from benchmarks.machine import BenchMachine, Quiet
from benchmarks.overhead import OverheadLoad, Served
from benchmarks.rounds import EngineMeasurement, RoundsPlan
from registry.value import Value


class BenchmarkReport(Value):
    """One run."""

    schema_version: Literal[1] = 1
    machine: BenchMachine
    quiet: Quiet
    seconds: float
    """Of the whole run."""
    checkpoint: BenchmarkCheckpoint
    plan: RoundsPlan
    steps: tuple[StepRecord, ...]
    measurements: tuple[EngineMeasurement, ...]
    """Panel by panel, for each number of threads; the first engine of a panel is its base."""
    load: OverheadLoad
    served: Served
    goals: tuple[Goal, ...]
