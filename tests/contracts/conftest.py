"""One small checkpoint, lowered by each toolchain for the first target that it supports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from compilers.backend import Backend, find_backend, find_toolchain
from compilers.export.graph import export_graph
from compilers.model.architecture import model_facts, read_architecture
from compilers.quantize.variant import quantize
from compilers.toolchain import Lowered, LoweringInput, Supported
from registry.artifact import Manifest
from registry.errors import ToolchainMissingError
from registry.recipe import Recipe, parse_recipe
from registry.target import Target, targets
from registry.variant import WEIGHTS_NAME
from tests.checkpoints import make_checkpoint
from tests.contracts.facts import FACTS

NO_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class LoweredBundle:
    """What a toolchain made, and the weights beside it."""

    backend: Backend
    source: LoweringInput
    target: Target
    lowered: Lowered
    made: Path
    """The directory that the toolchain was given."""
    bundle: Path
    """Those files and the weights."""
    manifest: Manifest


def first_supported(name: str) -> tuple[Recipe, Target] | None:
    """What a toolchain lowers: fp32 if it can, else fp16, for the first target that it supports."""
    toolchain = find_toolchain(name)
    for recipe in map(parse_recipe, ("fp32", "fp16")):
        for target in targets().values():
            if isinstance(toolchain.supports(recipe, target, FACTS), Supported):
                return recipe, target
    return None


@pytest.fixture(scope="session")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], LoweringInput]:
    """The checkpoint, exported and in a recipe."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture = read_architecture(config, where="the test")

    def make(recipe: Recipe) -> LoweringInput:
        out = tmp_path_factory.mktemp(recipe.name)
        quantize(checkpoint, recipe, architecture=architecture, out=out, calibration=None)
        (out / "graph").mkdir()
        return LoweringInput(
            recipe=recipe,
            facts=model_facts(architecture, add_bos=False),
            graph=export_graph(architecture, out=out / "graph"),
            weights=out / WEIGHTS_NAME,
        )

    return make


_made: dict[str, LoweredBundle] = {}


@pytest.fixture
def lowered(
    name: str, source_of: Callable[[Recipe], LoweringInput], tmp_path_factory: pytest.TempPathFactory
) -> LoweredBundle:
    """The checkpoint lowered by the toolchain `name`, once."""
    if name not in _made:
        chosen = first_supported(name)
        assert chosen is not None, f"{name} lowers neither fp32 nor fp16"
        try:
            find_toolchain(name).version()
            _made[name] = _lower(name, source_of(chosen[0]), chosen[1], tmp_path_factory.mktemp(name))
        except ToolchainMissingError as missing:
            pytest.skip(f"{name} is not installed: {missing.message}")
    return _made[name]


def _lower(name: str, source: LoweringInput, target: Target, root: Path) -> LoweredBundle:
    toolchain = find_toolchain(name)
    version = toolchain.version()
    made, bundle = root / "made", root / "bundle"
    made.mkdir()
    bundle.mkdir()
    lowered = toolchain.lower(source, target, out=made)
    for file in made.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    if not toolchain.embeds_weights:
        (bundle / source.weights.name).write_bytes(source.weights.read_bytes())
    manifest = Manifest(
        build_key=NO_DIGEST, format=toolchain.produces, toolchain=name, toolchain_version=version,
        target=target.name, checkpoint="tiny/1", checkpoint_digest=NO_DIGEST, family="tiny",
        licence="unknown", recipe=source.recipe.name, facts=source.facts, files=(), entry=lowered.entry,
        options=dict(lowered.options), memory_bytes=0, kv_bytes_per_token=0,
    )  # fmt: skip
    return LoweredBundle(find_backend(name), source, target, lowered, made, bundle, manifest)


@pytest.fixture
def manifest() -> Manifest:
    """An artifact of a format that no backend has."""
    return Manifest(
        build_key=NO_DIGEST, format="no-such-format", toolchain="none", toolchain_version="1",
        target="cpu-x86-64-v3", checkpoint="tiny/1", checkpoint_digest=NO_DIGEST, family="tiny",
        licence="unknown", recipe="fp32", facts=FACTS, files=(), entry="model", memory_bytes=0,
        kv_bytes_per_token=0,
    )  # fmt: skip
