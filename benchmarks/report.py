"""The report: everything that one run found, as one JSON document."""

from __future__ import annotations

from typing import Literal

from benchmarks.build import StepRecord
from benchmarks.checkpoint import BenchmarkCheckpoint
from benchmarks.goals import Goal
from benchmarks.machine import Machine, Quiet
from benchmarks.overhead import Load, Served
from benchmarks.rounds import Measurement, Plan
from registry.value import Value


class Report(Value):
    """One run."""

    schema_version: Literal[1] = 1
    machine: Machine
    quiet: Quiet
    seconds: float
    """Of the whole run."""
    checkpoint: BenchmarkCheckpoint
    plan: Plan
    steps: tuple[StepRecord, ...]
    measurements: tuple[Measurement, ...]
    """Panel by panel, for each number of threads; the first engine of a panel is its base."""
    load: Load
    served: Served
    goals: tuple[Goal, ...]
