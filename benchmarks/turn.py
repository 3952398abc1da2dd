"""Messages between the benchmark and its workers: what an engine is asked each round, and what it took.

These values travel between the benchmark and its workers as JSON lines.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, RootModel

from benchmarks.engines.interface import BatchEngine, BenchEngine, EngineSpec, LogitsEngine
from registry.errors import EvaluationError
from registry.value import Value


class Load(Value):
    """Load an engine."""

    spec: EngineSpec
    threads: int
    capacity: int
    """Tokens of the longest sequence."""


class Loaded(Value):
    """It is loaded."""

    version: str
    seconds: float
    """From the start of the process, imports included."""


class AskPrefill(Value):
    """Forget everything and read a prompt."""

    kind: Literal["prefill"] = "prefill"
    prompt: tuple[int, ...]


class AskDecode(Value):
    """Continue the sequence."""

    kind: Literal["decode"] = "decode"
    steps: int


class AskBatch(Value):
    """Read prompts and continue all of them together, as a server with as many callers does."""

    kind: Literal["batch"] = "batch"
    prompts: tuple[tuple[int, ...], ...]
    tokens: int
    """To generate for each."""


class AskLogits(Value):
    """Write the logits of texts to a file, as NumPy's `.npy`."""

    kind: Literal["logits"] = "logits"
    texts: tuple[tuple[int, ...], ...]
    singly: int
    """Tokens at the end of each text that are read one by one."""
    out: Path


Question = RootModel[Annotated[AskPrefill | AskDecode | AskBatch | AskLogits, Field(discriminator="kind")]]


class TurnMemory(Value):
    """Memory of a process."""

    resident_bytes: int
    anonymous_bytes: int
    """The part that is not a mapped file."""
    peak_bytes: int
    """Largest resident size since the process began."""


class Turn(Value):
    """What a turn took."""

    step_s: tuple[float, ...]
    """Of each step; a prompt is one."""
    tokens: tuple[int, ...]
    """The greedy output, one token from each step."""
    wall_s: float
    cpu_s: float
    """Processor time of all threads during the turn."""
    memory: TurnMemory
    """At the end."""


class TurnBatch(Value):
    """What a batch took."""

    wall_s: float
    tokens: tuple[tuple[int, ...], ...]


class Logits(Value):
    """Result of a request for logits."""

    written: bool
    """False: this engine tells none."""


class Trouble(Value):
    """An error in place of a result."""

    error: str


def take_turn(engine: BenchEngine, ask: AskPrefill | AskDecode) -> Turn:
    """Do what is asked, and time it."""
    if isinstance(ask, AskPrefill):
        engine.reset()
    cpu, marks = time.process_time(), [time.perf_counter()]
    tokens: list[int] = []
    for _ in range(ask.steps if isinstance(ask, AskDecode) else 1):
        tokens.append(engine.prefill(ask.prompt) if isinstance(ask, AskPrefill) else engine.decode())
        marks.append(time.perf_counter())
    return Turn(
        step_s=tuple(after - before for before, after in itertools.pairwise(marks)),
        tokens=tuple(tokens),
        wall_s=marks[-1] - marks[0],
        cpu_s=time.process_time() - cpu,
        memory=process_memory(),
    )


def take_batch(engine: BenchEngine, ask: AskBatch) -> TurnBatch:
    """Do what is asked, by the clock.

    Raises:
        EvaluationError: The engine has one sequence only.
    """
    if not isinstance(engine, BatchEngine):
        raise EvaluationError(f"{engine.version()} takes one sequence", hint="ask a session of Rung")
    began = time.perf_counter()
    tokens = engine.generate(ask.prompts, tokens=ask.tokens)
    return TurnBatch(wall_s=time.perf_counter() - began, tokens=tokens)


def write_logits(engine: BenchEngine, ask: AskLogits) -> Logits:
    """Float32 [positions of all texts, vocabulary]."""
    if not isinstance(engine, LogitsEngine):
        return Logits(written=False)
    np.save(ask.out, np.concatenate([engine.logits(text, singly=ask.singly) for text in ask.texts]))
    return Logits(written=True)


def process_memory(process: str | int = "self") -> TurnMemory:
    """Memory of a process, from Linux's `/proc` (proc_pid_status(5)); all zero on other systems."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in lines)
        if " kB" in value
    }
    return TurnMemory(
        resident_bytes=1024 * kib.get("VmRSS", 0),
        anonymous_bytes=1024 * kib.get("RssAnon", 0),
        peak_bytes=1024 * kib.get("VmHWM", 0),
    )
