"""`python -m benchmarks.ladder_build`: one build for several targets, against a build for each by itself.

The checkpoint has the shape of a Qwen2 of 0.5 B parameters with random weights. Measured are one `rung build`
of a ladder with all targets; the same for each target in a separate workspace, one after the other, so that
each pays for its own export and quantization (what the tools cost when they are run by hand); and a second
version of the checkpoint, with other weights of the same shape. Evaluation is left out (`--until built`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoint import BenchmarkShape, make_checkpoint
from benchmarks.child import ROOT, child_environment
from benchmarks.machine import this_machine
from registry.value import Value

CACHE = Path(__file__).parent / ".cache"
PAGE = Path(__file__).parent / "BUILD.md"
HALF = BenchmarkShape(name="qwen2-0.5b", vocab_size=75_000)
"""Hidden 896, 24 layers, 492 M parameters."""
QUICK = BenchmarkShape(name="qwen2-4-layers-build", layers=4)
TARGETS = ("cpu-x86-64-v3", "cpu-aarch64-neoverse-n1", "cuda-sm90", "rocm-gfx942")
RECIPE = "w4g32-rtn"
LOOK_EVERY_S = 0.25
MOST_SHARE = 0.6
MOST_COMPILE_SHARE = 0.25
MOST_MEMORY_GIB = 12.0

LADDER = """
family = "benchmark"
targets = [{targets}]
toolchains = ["tvm"]

[[tier]]
checkpoint = "benchmark"
recipes = ["{recipe}"]

[task.retrieval]
floor = [0.0]
margin_points = 60.0
"""
_LOWERED = re.compile(r"done lower \S+?:(?P<target>[a-z]+-[^:]+):\S+ \((?P<seconds>[0-9.]+) s\)")
_TOOK = re.compile(r"done (?P<stage>\w+) \S+ \((?P<seconds>[0-9.]+) s\)")


class Build(Value):
    """One `rung build`."""

    targets: tuple[str, ...]
    seconds: float
    """Wall clock of the command."""
    peak_memory_bytes: int
    """Largest sum over all its processes at one time, pages that they share counted once."""
    stages_s: dict[str, float]
    """Stage → sum of what its workers took."""
    lowered_s: dict[str, float]
    """Target → what its lowering took."""
    added_bytes: int
    """Growth of the store."""


class BuildReport(Value):
    """All measurements."""

    shape: str
    parameters: int
    together: Build
    alone: tuple[Build, ...]
    second: Build
    weights_bytes: int
    """The second version's own files and its quantized weights."""

    @property
    def share(self) -> float:
        """Time of one build for all targets over the sum of one for each."""
        return self.together.seconds / sum(build.seconds for build in self.alone)

    @property
    def compile_share(self) -> float:
        """Compile time of the second version over that of the first."""
        return sum(self.second.lowered_s.values()) / sum(self.together.lowered_s.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if the bounds hold, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 layers, for development")
    parser.add_argument("--page", type=Path, default=None, help=f"also write the page, such as {PAGE.name}")
    options = parser.parse_args(arguments)
    report = measure(QUICK if options.quick else HALF, cache=CACHE)
    page = render(report)
    print(page)
    if options.page is not None:
        options.page.write_text(page, encoding="utf-8")
    held = (
        report.share <= MOST_SHARE
        and report.compile_share <= MOST_COMPILE_SHARE
        and report.together.peak_memory_bytes <= MOST_MEMORY_GIB * 2**30
    )
    return 0 if held else 1


def measure(shape: BenchmarkShape, *, cache: Path) -> BuildReport:
    """Build in fresh workspaces under `cache`."""
    first = cache / shape.name / "checkpoint"
    second = cache / f"{shape.name}-second" / "checkpoint"
    facts = make_checkpoint(first, shape=shape)
    make_checkpoint(second, shape=shape.model_copy(update={"seed": shape.seed + 1}))
    root = cache / "ladder-build"
    shutil.rmtree(root, ignore_errors=True)
    alone = []
    for target in TARGETS:
        workspace = _workspace(root / target, (target,))
        _add(workspace, first)
        alone.append(_build(workspace, (target,)))
        shutil.rmtree(workspace)
    workspace = _workspace(root / "together", TARGETS)
    _add(workspace, first)
    together = _build(workspace, TARGETS)
    before = _store_bytes(workspace)
    _add(workspace, second)
    own_files = _store_bytes(workspace) - before
    again = _build(workspace, TARGETS)
    quantized = _largest_weights(workspace)
    shutil.rmtree(root)
    return BuildReport(
        shape=shape.name,
        parameters=facts.parameters,
        together=together,
        alone=tuple(alone),
        second=again.model_copy(update={"added_bytes": again.added_bytes + own_files}),
        weights_bytes=own_files + quantized,
    )


def render(report: BuildReport) -> str:
    """The page."""
    machine = this_machine()
    summed = sum(build.seconds for build in report.alone)
    lines = [
        "# One build for several targets",
        "",
        "Made by `python -m benchmarks.ladder_build --page benchmarks/BUILD.md`.",
        f"{report.shape}: {report.parameters / 1e6:,.0f} M parameters, recipe `{RECIPE}`, toolchain `tvm`, "
        f"{machine.cores} cores ({machine.chip}).",
        "",
        "| build | wall time, s | peak memory, GiB | export, s | quantize, s | lower, s |",
        "|---|---|---|---|---|---|",
    ]
    for build in (*report.alone, report.together, report.second):
        name = "all four together" if build is report.together else ", ".join(build.targets)
        name = "all four, second version (new weights)" if build is report.second else name
        stages = [build.stages_s.get(stage, 0.0) for stage in ("export", "quantize", "lower")]
        numbers = " | ".join(f"{seconds:.1f}" for seconds in stages)
        peak = build.peak_memory_bytes / 2**30
        lines.append(f"| {name} | {build.seconds:.0f} | {peak:.2f} | {numbers} |")
    extra = report.second.added_bytes - report.weights_bytes
    lines += [
        "",
        f"- Together over the sum of each by itself ({summed:.0f} s): **{report.share:.2f}** "
        f"(bound {MOST_SHARE}).",
        f"- Largest memory of all processes of the build together: "
        f"**{report.together.peak_memory_bytes / 2**30:.2f} GiB** (bound {MOST_MEMORY_GIB:.0f}).",
        f"- Compile time of the second version over that of the first: **{report.compile_share:.2f}** "
        f"(bound {MOST_COMPILE_SHARE}).",
        f"- Bytes that the second version added: {report.second.added_bytes / 1e6:,.1f} MB, of which "
        f"{report.weights_bytes / 1e6:,.1f} MB are its checkpoint and its quantized weights; the other "
        f"{extra / 1e6:,.1f} MB are evidence (torch's logits on the probe) and manifests.",
        "",
    ]
    return "\n".join(lines)


def _workspace(root: Path, targets: Sequence[str]) -> Path:
    root.mkdir(parents=True)
    _rung("init", ".", at=root)
    quoted = ", ".join(f'"{target}"' for target in targets)
    (root / "ladder.toml").write_text(LADDER.format(targets=quoted, recipe=RECIPE), encoding="utf-8")
    return root


def _add(workspace: Path, checkpoint: Path) -> None:
    _rung("checkpoint", "add", str(checkpoint), "--name", "benchmark", "--family", "benchmark", at=workspace)


def _rung(*arguments: str, at: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", *arguments]
    subprocess.run(command, cwd=at, env=_environment(), check=True, stdout=subprocess.DEVNULL)


def _build(workspace: Path, targets: tuple[str, ...]) -> Build:
    print(f"building for {', '.join(targets)}", file=sys.stderr, flush=True)
    before = _store_bytes(workspace)
    command = [sys.executable, "-m", "pipeline.cli.main", "build", "ladder.toml", "--until", "built"]
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=workspace,
        env=_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    peak = _Peak(process.pid)
    peak.start()
    said = process.communicate()[1]
    seconds = time.monotonic() - started
    peak.stop()
    if process.returncode != 0:
        sys.exit(f"the build ended with {process.returncode}:\n{said}")
    stages: dict[str, float] = {}
    for found in _TOOK.finditer(said):
        stages[found["stage"]] = stages.get(found["stage"], 0.0) + float(found["seconds"])
    return Build(
        targets=targets,
        seconds=seconds,
        peak_memory_bytes=peak.bytes,
        stages_s=stages,
        lowered_s={found["target"]: float(found["seconds"]) for found in _LOWERED.finditer(said)},
        added_bytes=_store_bytes(workspace) - before,
    )


def _environment() -> dict[str, str]:
    return {**child_environment(), "PYTHONPATH": str(ROOT)}


def _store_bytes(workspace: Path) -> int:
    blobs = workspace / ".rung" / "store" / "blobs"
    return sum(path.stat().st_size for path in blobs.rglob("*") if path.is_file())


def _largest_weights(workspace: Path) -> int:
    """Size of the quantized weights of one version."""
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "matrix", "show", "--json"],
        cwd=workspace,
        env=_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    cell = json.loads(shown.stdout)["cells"][-1]
    digest = str(cell["artifact"]).removeprefix("sha256:")
    manifest = next((workspace / ".rung" / "store" / "blobs").rglob(digest))
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return int(next(file["size_bytes"] for file in files if file["path"] == "weights.safetensors"))


class _Peak:
    """Watches the memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            self.bytes = max(self.bytes, sum(_pss_bytes(pid) for pid in _family(self._pid)))


def _family(root: int) -> set[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _pss_bytes(pid: int) -> int:
    """Resident memory, each shared page divided by those who share it."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
