"""The build steps of the benchmark, each a call of the same function that the product uses.

A step runs in its own process (`python -m benchmarks.steps ORDER.json`), so that its peak memory is measured
alone and a compiler crash affects nothing else. `build.py` orders them and keeps their records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, assert_never

from pydantic import Field

from benchmarks.child import die_with_parent
from benchmarks.gguf import GgufType, make_gguf
from registry.artifact import MANIFEST_NAME, Manifest, ModelFacts
from registry.checkpoint import FileEntry
from registry.digest import Digest, digest_file, digest_value
from registry.errors import BuildError
from registry.value import Value

TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class Export(Value):
    """Checkpoint → interchange graph."""

    kind: Literal["export"] = "export"

    @property
    def name(self) -> str:
        """Of the step and its directory."""
        return "export"


class Quantize(Value):
    """Checkpoint → canonical weights."""

    kind: Literal["quantize"] = "quantize"
    recipe: str

    @property
    def name(self) -> str:
        """Of the step and its directory."""
        return f"quantize {self.recipe}"


class Lower(Value):
    """Variant × target → a bundle."""

    kind: Literal["lower"] = "lower"
    toolchain: str
    recipe: str
    target: str

    @property
    def name(self) -> str:
        """Of the step and its directory."""
        return f"lower {self.toolchain} {self.recipe} {self.target}"


class GenaiStep(Value):
    """Checkpoint → graph of `onnxruntime_genai.models.builder`."""

    kind: Literal["genai"] = "genai"
    precision: Literal["fp32", "int4"]

    @property
    def name(self) -> str:
        """Of the step and its directory."""
        return f"genai-builder {self.precision}"


class Gguf(Value):
    """Checkpoint → llama.cpp's file, quantized by llama.cpp."""

    kind: Literal["gguf"] = "gguf"
    form: GgufType

    @property
    def name(self) -> str:
        """Of the step and its directory."""
        return f"llama-quantize {self.form}"


Step = Annotated[Export | Quantize | Lower | GenaiStep | Gguf, Field(discriminator="kind")]


class Order(Value):
    """One step, with the paths of its inputs and output."""

    step: Step
    checkpoint: Path
    checkpoint_digest: Digest
    graph: Path
    """Directory of the export step."""
    weights: Path
    """Directory of the quantize step of the same recipe."""
    out: Path
    """An empty directory."""
    report: Path
    """Where the step's outcome is written."""


class StepOutcome(Value):
    """What a step's process reports."""

    peak_memory_bytes: int
    """Largest resident memory of the process or one of its children."""
    error: str | None = None
    """Why it failed, for people."""


def run_order(order: Order) -> None:
    """Do one step.

    Raises:
        RungError: The step failed.
    """
    match order.step:
        case Export():
            _export(order)
        case Quantize():
            _quantize(order, order.step)
        case Lower():
            _lower(order, order.step)
        case GenaiStep():
            _genai(order, order.step)
        case Gguf():
            make_gguf(order.checkpoint, order.step.form, out=order.out)
        case _:
            assert_never(order.step)


def main(arguments: Sequence[str]) -> int:
    """Run the order in the file that is named, and write its outcome."""
    die_with_parent()
    order = Order.read_json(Path(arguments[0]))
    error: str | None = None
    try:
        run_order(order)
    except Exception as failure:  # noqa: BLE001  the edge of a step: a failure becomes a row of the report
        error = f"{type(failure).__name__}: {failure}"
    outcome = StepOutcome(peak_memory_bytes=peak_memory_bytes(), error=error)
    order.report.write_text(outcome.model_dump_json(), encoding="utf-8")
    return 0


def peak_memory_bytes() -> int:
    """Largest resident memory so far of this process or of a child that has ended."""
    import resource

    # Not this process's own ru_maxrss: that still holds what the parent had at the fork (getrusage(2)).
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    own_kib = own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _export(order: Order) -> None:
    from compilers.export.graph import export_graph
    from compilers.model.architecture import read_architecture

    config = json.loads((order.checkpoint / "config.json").read_bytes())
    export_graph(read_architecture(config, where=str(order.checkpoint)), out=order.out)


def _quantize(order: Order, step: Quantize) -> None:
    from compilers.model.architecture import read_architecture
    from compilers.quantize.variant import quantize
    from registry.recipe import parse_recipe

    config = json.loads((order.checkpoint / "config.json").read_bytes())
    architecture = read_architecture(config, where=str(order.checkpoint))
    quantize(order.checkpoint, parse_recipe(step.recipe), architecture=architecture, out=order.out)


def _lower(order: Order, step: Lower) -> None:
    from compilers.backend import find_toolchain
    from compilers.toolchain import LoweringInput, Unsupported
    from registry.recipe import parse_recipe
    from registry.target import find_target

    toolchain, target, recipe = (
        find_toolchain(step.toolchain),
        find_target(step.target),
        parse_recipe(step.recipe),
    )
    facts = _facts(order.checkpoint)
    support = toolchain.supports(recipe, target, facts)
    if isinstance(support, Unsupported):
        raise BuildError(
            f"{step.name}: {support.reason}", hint=f"`{support.kind}`: leave this combination out"
        )
    weights = order.weights / "weights.safetensors"
    source = LoweringInput(recipe=recipe, facts=facts, graph=order.graph / "model.onnx", weights=weights)
    lowered = toolchain.lower(source, target, out=order.out)
    os.link(weights, order.out / weights.name)
    for name in TOKENIZER_FILES:
        os.link(order.checkpoint / name, order.out / name)
    names = sorted((*lowered.files, weights.name, *TOKENIZER_FILES))
    manifest = Manifest(
        build_key=digest_value(step),
        format=toolchain.produces,
        toolchain=step.toolchain,
        toolchain_version=toolchain.version(),
        target=step.target,
        checkpoint="benchmark/1",
        checkpoint_digest=order.checkpoint_digest,
        family="benchmark",
        licence="unknown",
        recipe=step.recipe,
        facts=facts,
        files=tuple(_entry(order.out, name) for name in names),
        entry=lowered.entry,
        options=dict(lowered.options),
        memory_bytes=2 * weights.stat().st_size,
        kv_bytes_per_token=8 * facts.layers * facts.kv_heads * facts.head_size,
    )
    (order.out / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


def _genai(order: Order, step: GenaiStep) -> None:
    # `prune_lm_head`: logits of the last position alone, as every other engine makes them.
    command = [
        *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
        *("-i", str(order.checkpoint), "-o", str(order.out), "-p", step.precision, "-e", "cpu"),
        *("-c", str(order.out / "cache"), "--extra_options", "prune_lm_head=true", "hf_token=false"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"the model builder ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}",
            hint="install `rung[bench]`",
        )


def _facts(checkpoint: Path) -> ModelFacts:
    from compilers.model.architecture import model_facts, read_architecture

    config = json.loads((checkpoint / "config.json").read_bytes())
    return model_facts(read_architecture(config, where=str(checkpoint)), add_bos=False)


def _entry(directory: Path, name: str) -> FileEntry:
    file = directory / name
    return FileEntry(path=name, digest=digest_file(file), size_bytes=file.stat().st_size)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
