"""Builds the benchmarked artifacts: steps in order, each in its own process, cached until an input changes.

The key of a step is the hash of the step, the checkpoint, the versions of the libraries and the sources of
`compilers/`, so that changing a kernel rebuilds what it affects and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from benchmarks.checkpoint import BenchmarkCheckpoint
from benchmarks.child import ROOT, child_environment
from benchmarks.steps import Export, GenaiStep, Gguf, Lower, Order, Quantize, Step, StepOutcome
from registry.digest import Digest, digest_file, digest_tree, digest_value
from registry.errors import ConfigurationError
from registry.value import Value

RECORD = "record.json"
LIBRARIES = (
    "onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "llama-cpp-python",
    "apache-tvm",
    "torch",
    "transformers",
    "numpy",
)
SHARED_SOURCES = (
    "compilers/export",
    "compilers/quantize",
    "compilers/model/weights.py",
    "benchmarks/steps.py",
)
TIME_LIMIT_S = 1200.0


class StepRecord(Value):
    """Cost and result of a step."""

    name: str
    key: Digest
    seconds: float
    """Wall clock, process start included."""
    peak_memory_bytes: int
    """Largest resident memory of the step's process or one of its children."""
    size_bytes: int
    """Of all files made; weights that a bundle shares with the quantize step are counted there alone."""
    error: str | None = None


def build_all(
    steps: Iterable[Step], *, checkpoint: Path, facts: BenchmarkCheckpoint, cache: Path
) -> dict[str, StepRecord]:
    """Run the steps that are not done yet; records by step name.

    A failed step is a record with its error; it is tried again the next time.
    """
    records: dict[str, StepRecord] = {}
    for step in steps:
        out = step_directory(cache, step)
        key = _key(step, facts)
        record = _kept(out, key)
        if record is None:
            print(f"{step.name} …", file=sys.stderr, end=" ", flush=True)
            record = _build(step, key=key, checkpoint=checkpoint, facts=facts, cache=cache)
            state = record.error or f"{record.seconds:.1f} s, peak {record.peak_memory_bytes / 2**30:.2f} GiB"
            print(state, file=sys.stderr)
        records[step.name] = record
    return records


@contextlib.contextmanager
def lock_cache(cache: Path) -> Iterator[None]:
    """Hold a cache for one run.

    Raises:
        ConfigurationError: Another run holds it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"another benchmark runs with `{cache}`", hint="wait for its end, or give another `--cache`"
            ) from error
        yield


def forget_steps(cache: Path) -> None:
    """Forget all records, so that every step runs again."""
    for record in cache.glob(f"*.{RECORD}"):
        record.unlink()


def step_directory(cache: Path, step: Step) -> Path:
    """Directory of a step's files."""
    return cache / step.name.replace(" ", "-")


def _build(
    step: Step, *, key: Digest, checkpoint: Path, facts: BenchmarkCheckpoint, cache: Path
) -> StepRecord:
    out = step_directory(cache, step)
    scratch = cache / f".{out.name}.scratch"  # one run at a time holds the cache: see `lock_cache`
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    made = scratch / "out"
    made.mkdir(parents=True)
    recipe = step.recipe if isinstance(step, Lower) else "fp32"
    order = Order(
        step=step,
        checkpoint=checkpoint,
        checkpoint_digest=facts.digest,
        graph=step_directory(cache, Export()),
        weights=step_directory(cache, Quantize(recipe=recipe)),
        out=made,
        report=scratch / "outcome.json",
    )
    started = time.monotonic()
    outcome = _run(order, scratch)
    record = StepRecord(
        name=step.name,
        key=key,
        seconds=time.monotonic() - started,
        peak_memory_bytes=outcome.peak_memory_bytes,
        size_bytes=sum(_own_size(file) for file in made.rglob("*") if file.is_file()),
        error=outcome.error,
    )
    if outcome.error is None:
        (made.parent / RECORD).write_text(record.model_dump_json(indent=2), encoding="utf-8")
        (made.parent / RECORD).replace(cache / f"{out.name}.{RECORD}")
        made.rename(out)
    shutil.rmtree(scratch, ignore_errors=True)
    return record


def _run(order: Order, scratch: Path) -> StepOutcome:
    place = scratch / "order.json"
    place.write_text(order.model_dump_json(), encoding="utf-8")
    log = scratch / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.steps", str(place)],
            cwd=ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=TIME_LIMIT_S)
        except BaseException as stop:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(stop, subprocess.TimeoutExpired):
                return StepOutcome(peak_memory_bytes=0, error=f"not done after {TIME_LIMIT_S:.0f} s")
            raise
    if order.report.is_file():
        return StepOutcome.read_json(order.report)
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    return StepOutcome(peak_memory_bytes=0, error=f"the process ended with {code}: {' / '.join(tail)}")


def _kept(out: Path, key: Digest) -> StepRecord | None:
    place = out.with_name(f"{out.name}.{RECORD}")
    if not out.is_dir() or not place.is_file():
        return None
    record = StepRecord.read_json(place)
    return record if record.key == key else None


def _own_size(file: Path) -> int:
    stat = file.stat()
    return stat.st_size if stat.st_nlink == 1 else 0


def _key(step: Step, facts: BenchmarkCheckpoint) -> Digest:
    places: tuple[str, ...]
    match step:
        case GenaiStep():
            places = ()
        case Gguf():
            places = ("benchmarks/gguf.py",)
        case Export() | Quantize():
            places = SHARED_SOURCES
        case Lower():
            places = (*SHARED_SOURCES, f"compilers/{step.toolchain}")
    sources = _sources_digest(places)
    return digest_value(
        {
            "step": step.model_dump(),
            "checkpoint": facts.digest,
            "versions": library_versions(),
            "sources": sources,
        }
    )


@functools.cache
def _sources_digest(places: tuple[str, ...]) -> Digest:
    roots = [ROOT / place for place in places]
    files = [file for root in roots for file in (root.rglob("*.py") if root.is_dir() else [root])]
    return digest_tree({file.relative_to(ROOT).as_posix(): digest_file(file) for file in files})


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries involved; `not installed` where one is missing."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
