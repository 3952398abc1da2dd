"""What is built and measured: the artifacts, the steps they need and the panels they appear in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from benchmarks.build import StepRecord, step_directory
from benchmarks.engines.interface import EngineKind, EngineSpec
from benchmarks.gguf import GgufType
from benchmarks.rounds import Panel
from benchmarks.steps import Export, GenaiStep, Gguf, Lower, Quantize, Step
from registry.host import Host
from registry.target import Target, missing_features, targets

BASE_TARGET = "cpu-x86-64-v3"
FLOAT_PANEL, INT4_PANEL, OTHER_PANEL = "float32 weights", "4-bit weights", "other recipes"
THREADS_PANEL = "a second thread"
RECIPES: Mapping[str, tuple[str, ...]] = {
    FLOAT_PANEL: ("fp32",),
    INT4_PANEL: ("w4g32-rtn",),
    OTHER_PANEL: ("fp16", "w8g32-rtn", "w8a8-dynamic"),
}
"""Panel → recipes. How codes are chosen does not change the speed, so `-rtn` stands for `-gptq` too."""

PLAIN = "onnxruntime fp32, plain"
TUNED = "onnxruntime fp32, GQA"
GENAI = "onnxruntime-genai"
TORCH = "torch fp32, eager"
LLAMA = "llama.cpp"
GGUF: tuple[GgufType, ...] = ("Q4_0", "Q8_0")


def best_target(host: Host) -> str:
    """The CPU target with the most features, all of which the host has."""
    fitting: list[Target] = [
        target
        for target in targets().values()
        if target.kind == "cpu" and not missing_features(host, target=target)
    ]
    return max(fitting, key=lambda target: len(target.features)).name if fitting else BASE_TARGET


def artifacts(panel: str, *, host: Host) -> list[Lower]:
    """Rung's artifacts of a panel: ONNX Runtime chooses kernels itself, TVM compiles per target."""
    best = best_target(host)
    compiled = (best,) if panel == OTHER_PANEL else tuple(dict.fromkeys((BASE_TARGET, best)))
    found = []
    for recipe in RECIPES[panel]:
        found.append(Lower(toolchain="onnxruntime", recipe=recipe, target=BASE_TARGET))
        found += [Lower(toolchain="tvm", recipe=recipe, target=target) for target in compiled]
    return found


def all_steps(host: Host, *, panels: Collection[str] = tuple(RECIPES)) -> list[Step]:
    """Everything to build for some panels, in order."""
    recipes = dict.fromkeys(("fp32", *(recipe for panel in panels for recipe in RECIPES[panel])))
    return [
        Export(),
        *(Quantize(recipe=recipe) for recipe in recipes),
        *(step for panel in panels for step in artifacts(panel, host=host)),
        GenaiStep(precision="fp32"),
        GenaiStep(precision="int4"),
        *(Gguf(form=form) for form in GGUF),
    ]


def artifact_spec(step: Lower, path: Path) -> EngineSpec:
    """The engine of an artifact, with its name in tables."""
    name = f"rung {step.toolchain} {step.recipe}" + (f" ({step.target})" if step.toolchain == "tvm" else "")
    return _spec(name, "rung", path, weights=step.recipe)


def all_panels(
    host: Host,
    *,
    checkpoint: Path,
    cache: Path,
    records: Mapping[str, StepRecord],
    panels: Collection[str] = tuple(RECIPES),
) -> list[Panel]:
    """The panels; an artifact that could not be built is left to the report of the steps."""
    genai = {p: step_directory(cache, GenaiStep(precision=p)) for p in ("fp32", "int4")}
    plain = _spec(PLAIN, "onnxruntime", plain_directory(cache))
    alternatives = {
        FLOAT_PANEL: [
            plain,
            _spec(TUNED, "onnxruntime-gqa", genai["fp32"]),
            _spec(f"{GENAI} fp32", "onnxruntime-genai", genai["fp32"]),
            reference_spec(checkpoint),
        ],
        INT4_PANEL: [
            _spec(f"{GENAI} int4", "onnxruntime-genai", genai["int4"], weights="int4"),
            *(
                _spec(f"{LLAMA} {form}", "llama-cpp", step_directory(cache, Gguf(form=form)), weights=form)
                for form in GGUF
            ),
            plain,
            reference_spec(checkpoint),
        ],
        OTHER_PANEL: [plain],
    }
    return [
        Panel(
            name=name,
            engines=(
                *(spec for spec in alternatives[name] if spec.path.exists()),
                *(
                    artifact_spec(step, step_directory(cache, step))
                    for step in artifacts(name, host=host)
                    if records[step.name].error is None
                ),
            ),
        )
        for name in panels
    ]


def reference_spec(checkpoint: Path) -> EngineSpec:
    """The engine whose outputs are the reference."""
    return _spec(TORCH, "torch", checkpoint)


def threads_panel(host: Host, *, cache: Path) -> Panel:
    """The best 4-bit artifact on one thread and on two, by turns."""
    step = Lower(toolchain="tvm", recipe="w4g32-rtn", target=best_target(host))
    spec = artifact_spec(step, step_directory(cache, step))
    engines = tuple(
        spec.model_copy(update={"name": on_threads(spec.name, count), "threads": count}) for count in (1, 2)
    )
    return Panel(name=THREADS_PANEL, engines=engines)


def on_threads(name: str, count: int) -> str:
    """Name of an engine in the panel that compares numbers of threads."""
    return f"{name}, {count} thread{'s' if count > 1 else ''}"


def plain_directory(cache: Path) -> Path:
    """The interchange graph with the float32 weights next to it, as hard links."""
    plain = cache / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir()
    for step in (Export(), Quantize(recipe="fp32")):
        for file in step_directory(cache, step).glob("*"):
            os.link(file, plain / file.name)
    return plain


def _spec(name: str, kind: EngineKind, path: Path, *, weights: str = "fp32") -> EngineSpec:
    return EngineSpec(name=name, kind=kind, path=path, weights=weights, exact=weights == "fp32")
