"""Checkpoints and sessions that tests of this package share."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compilers import installed
from compilers.backend import find_runtime, find_toolchain
from compilers.export.graph import export_graph
from compilers.model.architecture import model_facts, read_architecture
from compilers.quantize.variant import QuantizeReport, quantize
from compilers.runtime import Bundle, Session
from compilers.toolchain import LoweringInput
from registry.artifact import Manifest
from registry.host import Host
from registry.recipe import parse_recipe
from registry.target import find_target
from tests.checkpoints import make_checkpoint

NO_DIGEST = "sha256:" + "0" * 64


def this_host() -> Host:
    """This machine, as far as loading looks at it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    flags = next(line for line in lines if line.startswith(("flags", "Features"))).split(":")[1].split()
    machine = platform.machine()
    return Host(architecture=machine, features=tuple(sorted(flags)), memory_bytes=2**33, cores=1)


class Built:
    """A checkpoint on its way through one recipe and one toolchain, in a directory of its own."""

    def __init__(
        self,
        checkpoint: Path,
        out: Path,
        *,
        recipe: str = "fp32",
        toolchain: str = "onnxruntime",
        target: str = "cpu-x86-64-v3",
        calibration: list[list[int]] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.out = out
        self.recipe = parse_recipe(recipe)
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        self.architecture = read_architecture(config, where=str(checkpoint))
        self.facts = model_facts(self.architecture, add_bos=False)
        self.report: QuantizeReport = quantize(
            checkpoint, self.recipe, architecture=self.architecture, out=out, calibration=calibration
        )
        self.weights = out / "weights.safetensors"
        (out / "graph").mkdir()
        source = LoweringInput(
            recipe=self.recipe,
            facts=self.facts,
            graph=export_graph(self.architecture, out=out / "graph"),
            weights=self.weights,
        )
        lowered = find_toolchain(toolchain).lower(source, find_target(target), out=out)
        self.manifest = Manifest(
            build_key=NO_DIGEST,
            format=toolchain,
            toolchain=toolchain,
            toolchain_version=find_toolchain(toolchain).version(),
            target=target,
            checkpoint="tiny/1",
            checkpoint_digest=NO_DIGEST,
            family="tiny",
            licence="unknown",
            recipe=recipe,
            facts=self.facts,
            files=(),
            entry=lowered.entry,
            options=dict(lowered.options),
            memory_bytes=0,
            kv_bytes_per_token=0,
        )

    def load(self, *, threads: int = 1) -> Session:
        """The session."""
        bundle = Bundle(self.manifest, self.out)
        return find_runtime(self.manifest.format).load(bundle, this_host(), threads=threads)


@pytest.fixture(autouse=True)
def _versions_are_read_again() -> Iterator[None]:
    """Tests that install other versions of a package see them, and leave none behind."""
    installed._version.cache_clear()
    yield
    installed._version.cache_clear()


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a random-weight checkpoint, once per set of arguments."""
    made: dict[str, Path] = {}

    def make(**arguments: Any) -> Path:
        key = json.dumps(arguments, sort_keys=True)
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp("checkpoint"), **arguments)
        return made[key]

    return make


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """Builds a checkpoint with a recipe and a toolchain."""

    def make(checkpoint: Path, **arguments: Any) -> Built:
        return Built(checkpoint, tmp_path_factory.mktemp("built"), **arguments)

    return make
