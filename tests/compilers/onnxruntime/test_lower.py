"""Lowering for ONNX Runtime, and what its node side refuses to load."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from compilers.onnxruntime.lower import OnnxRuntimeToolchain
from compilers.onnxruntime.run import OnnxRuntime
from compilers.runtime import Bundle
from compilers.toolchain import LoweringInput, Supported, Unsupported
from registry.errors import BuildError, LoadError
from registry.recipe import KNOWN, parse_recipe
from registry.target import find_target, targets
from tests.compilers.conftest import Built, this_host

Builder = Callable[..., Built]


@pytest.fixture(scope="module")
def built(checkpoint_of: Callable[..., Path], build: Builder) -> Built:
    return build(checkpoint_of(architecture="LlamaForCausalLM"), recipe="w4g32-rtn")


@pytest.fixture
def own(built: Built, tmp_path: Path) -> Bundle:
    """A bundle that the test may damage."""
    return Bundle(built.manifest, Path(shutil.copytree(built.out, tmp_path / "bundle")))


def source_of(built: Built, **changes: Any) -> LoweringInput:
    given = {"recipe": built.recipe, "facts": built.facts, "weights": built.weights}
    return LoweringInput(**{"graph": built.out / "graph" / "model.onnx", **given, **changes})


def test_all_recipes_but_static_activations_are_supported_on_cpus_and_nowhere_else(
    built: Built,
) -> None:
    for target in targets().values():
        for recipe in KNOWN:
            support = OnnxRuntimeToolchain().supports(parse_recipe(recipe), target, built.facts)
            if target.kind == "cpu" and parse_recipe(recipe).activations == "int16-static":
                assert isinstance(support, Unsupported)
                assert "16-bit activations" in support.reason
            elif target.kind == "cpu":
                assert isinstance(support, Supported)
            else:
                assert isinstance(support, Unsupported)
                assert target.name in support.reason


def test_the_result_is_a_small_model_that_refers_to_the_canonical_file(built: Built, tmp_path: Path) -> None:
    lowered = OnnxRuntimeToolchain().lower(source_of(built), find_target("cpu-x86-64-v3"), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == list(lowered.files) == [lowered.entry]
    model = onnx.load(tmp_path / lowered.entry, load_external_data=False)
    references = {
        entry.value
        for proto in model.graph.initializer
        for entry in proto.external_data
        if entry.key == "location"
    }
    assert references == {"weights.safetensors"}
    assert (tmp_path / lowered.entry).stat().st_size < 30_000
    operators = {node.op_type for node in model.graph.node}
    assert {"GroupQueryAttention", "MatMulNBits", "SkipSimplifiedLayerNormalization"} <= operators


@pytest.mark.parametrize("target", ["cpu-x86-64-v3", "cpu-aarch64-neoverse-n1"])
def test_compiled_bytes_do_not_depend_on_the_values_of_the_weights(
    target: str, checkpoint_of: Callable[..., Path], build: Builder, tmp_path: Path
) -> None:
    found = set()
    for seed in (0, 1):
        one = build(checkpoint_of(architecture="Qwen3ForCausalLM", seed=seed), recipe="w8a8-dynamic")
        out = tmp_path / str(seed)
        out.mkdir()
        OnnxRuntimeToolchain().lower(source_of(one), find_target(target), out=out)
        found.add((out / "model.onnx").read_bytes())
    assert len(found) == 1


def test_a_graph_or_weights_that_do_not_fit_are_refused(built: Built, tmp_path: Path) -> None:
    target = find_target("cpu-x86-64-v3")
    (tmp_path / "garbage.onnx").write_bytes(b"garbage" * 9)
    (tmp_path / "weights.safetensors").write_bytes(b"garbage" * 9)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "empty.onnx")
    out = tmp_path / "out"
    out.mkdir()
    toolchain = OnnxRuntimeToolchain()
    with pytest.raises(BuildError, match=r"garbage\.onnx"):
        toolchain.lower(source_of(built, graph=tmp_path / "garbage.onnx"), target, out=out)
    with pytest.raises(BuildError, match=r"no node|no tensor"):
        toolchain.lower(source_of(built, graph=tmp_path / "empty.onnx"), target, out=out)
    with pytest.raises(BuildError, match=r"weights\.safetensors"):
        toolchain.lower(source_of(built, weights=tmp_path / "weights.safetensors"), target, out=out)
    more = built.facts.model_copy(update={"layers": 3})
    with pytest.raises(BuildError, match=r"no node `layers\.2"):
        toolchain.lower(source_of(built, facts=more), target, out=out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("damage", ["no model", "no weights", "short weights", "garbage model"])
def test_damaged_files_are_not_loaded(damage: str, own: Bundle) -> None:
    model, weights = own.path / "model.onnx", own.path / "weights.safetensors"
    match damage:
        case "no model":
            model.unlink()
        case "no weights":
            weights.unlink()
        case "short weights":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        case "garbage model":
            model.write_bytes(b"garbage" * 99)
    with pytest.raises(LoadError, match=r"model\.onnx` cannot be loaded by onnxruntime"):
        OnnxRuntime().load(own, this_host())


def test_a_host_without_the_targets_features_is_refused_by_their_names(own: Bundle) -> None:
    host = this_host()
    weaker = host.model_copy(update={"features": tuple(f for f in host.features if f != "avx2")})
    support = OnnxRuntime().supports(own.manifest, weaker)
    assert isinstance(support, Unsupported)
    assert "avx2" in support.reason
    with pytest.raises(LoadError, match="avx2"):
        OnnxRuntime().load(own, weaker)
    other = host.model_copy(update={"architecture": "aarch64"})
    assert isinstance(OnnxRuntime().supports(own.manifest, other), Unsupported)


def test_another_format_or_kind_of_target_is_refused(own: Bundle) -> None:
    tvm = own.manifest.model_copy(update={"format": "tvm"})
    assert isinstance(OnnxRuntime().supports(tvm, this_host()), Unsupported)
    cuda = own.manifest.model_copy(update={"target": "cuda-sm90"})
    assert isinstance(OnnxRuntime().supports(cuda, this_host()), Unsupported)


def test_a_cache_of_another_session_is_refused(built: Built) -> None:
    first, second = built.load(), built.load()
    with pytest.raises(LoadError, match="not made by this session"):
        first.forward(second.new_cache(rows=1, capacity=8), [])


def test_the_node_side_imports_neither_torch_nor_onnx() -> None:
    code = (
        "import sys; import compilers.onnxruntime.run, onnxruntime\n"
        "print(sorted({'torch', 'onnx', 'transformers', 'tvm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
