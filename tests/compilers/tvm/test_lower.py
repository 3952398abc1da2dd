"""Lowering with TVM, and what its node side refuses to load."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compilers.check.probe import reference_logits
from compilers.check.torch_precision import exact_logits
from compilers.model.torch_reference import TorchSession
from compilers.runtime import Bundle
from compilers.toolchain import LoweringInput, Supported, Unsupported
from compilers.tvm.lower import TvmToolchain
from compilers.tvm.run import TvmRuntime
from registry.errors import BuildError, LoadError
from registry.recipe import KNOWN, parse_recipe
from registry.target import find_target, targets
from tests.compilers.conftest import Built, this_host
from tests.compilers.session_contract import draw

Builder = Callable[..., Built]
PROCESSORS = {name for name, target in targets().items() if target.kind == "cpu"}


@pytest.fixture(scope="module")
def built(checkpoint_of: Callable[..., Path], build: Builder) -> Built:
    return build(checkpoint_of(architecture="LlamaForCausalLM"), recipe="w4g32-rtn", toolchain="tvm")


@pytest.fixture
def own(built: Built, tmp_path: Path) -> Bundle:
    """A bundle that the test may damage."""
    return Bundle(built.manifest, Path(shutil.copytree(built.out, tmp_path / "bundle")))


def source_of(built: Built, **changes: Any) -> LoweringInput:
    given = {"recipe": built.recipe, "facts": built.facts, "weights": built.weights}
    return LoweringInput(**{"graph": built.out / "graph" / "model.onnx", **given, **changes})


def test_every_recipe_on_processors_is_supported_and_every_other_target_says_why_not(built: Built) -> None:
    for target in targets().values():
        if target.kind in ("cuda", "rocm"):
            continue  # tests/compilers/tvm/gpu
        for recipe in KNOWN:
            support = TvmToolchain().supports(parse_recipe(recipe), target, built.facts)
            if target.name in PROCESSORS and parse_recipe(recipe).activations != "int16-static":
                assert isinstance(support, Supported)
            else:
                assert isinstance(support, Unsupported)
                assert len(support.reason) > 20


def test_an_unsupported_target_is_refused(built: Built, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="vulkan-spirv"):
        TvmToolchain().lower(source_of(built), find_target("vulkan-spirv"), out=tmp_path)


def test_compiled_bytes_hold_no_weights_and_do_not_depend_on_them(
    checkpoint_of: Callable[..., Path], build: Builder
) -> None:
    made = [
        build(checkpoint_of(architecture="Qwen3ForCausalLM", seed=seed), recipe=recipe, toolchain="tvm")
        for seed, recipe in ((0, "w4g32-rtn"), (1, "w4g32-rtn"))
    ]
    for name in ("model.so", "plan.json"):
        first, second = ((one.out / name).read_bytes() for one in made)
        assert first == second
    assert made[0].weights.read_bytes() != made[1].weights.read_bytes()


def test_layers_whose_norms_have_other_epsilons_do_not_share_a_kernel(
    checkpoint_of: Callable[..., Path], build: Builder, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(architecture="Qwen3ForCausalLM")
    whole = build(checkpoint, recipe="fp32", toolchain="tvm")
    graph = onnx.load(str(whole.out / "graph" / "model.onnx"), load_external_data=False)
    session = TorchSession(checkpoint)
    nodes = {node.name: node for node in graph.graph.node}
    for index, epsilon in enumerate((1e-6, 0.5)):
        layer = session.model.model.layers[index]
        for name, module in (
            ("q_norm", layer.self_attn.q_norm),
            ("post_norm", layer.post_attention_layernorm),
        ):
            (attribute,) = (a for a in nodes[f"layers.{index}.{name}"].attribute if a.name == "epsilon")
            attribute.f = module.variance_epsilon = epsilon
    onnx.save(graph, tmp_path / "edited.onnx")
    out = Path(shutil.copytree(whole.out, tmp_path / "bundle"))
    source = source_of(whole, graph=tmp_path / "edited.onnx")
    TvmToolchain().lower(source, find_target(whole.manifest.target), out=out)
    loaded = TvmRuntime().load(Bundle(whole.manifest, out), this_host(), threads=1)
    probe = [draw(0, 30)]
    np.testing.assert_allclose(
        reference_logits(loaded, probe), exact_logits(session, probe), rtol=0, atol=1e-5
    )


def test_a_graph_or_weights_that_do_not_fit_are_refused(built: Built, tmp_path: Path) -> None:
    target = find_target("cpu-x86-64-v3")
    (tmp_path / "garbage.onnx").write_bytes(b"garbage" * 9)
    (tmp_path / "weights.safetensors").write_bytes(b"garbage" * 9)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "empty.onnx")
    out = tmp_path / "out"
    out.mkdir()
    toolchain = TvmToolchain()
    with pytest.raises(BuildError, match=r"garbage\.onnx"):
        toolchain.lower(source_of(built, graph=tmp_path / "garbage.onnx"), target, out=out)
    with pytest.raises(BuildError, match=r"`embed_tokens` is missing"):
        toolchain.lower(source_of(built, graph=tmp_path / "empty.onnx"), target, out=out)
    with pytest.raises(BuildError, match=r"weights\.safetensors"):
        toolchain.lower(source_of(built, weights=tmp_path / "weights.safetensors"), target, out=out)
    more = built.facts.model_copy(update={"layers": 3})
    with pytest.raises(BuildError, match="layers"):
        toolchain.lower(source_of(built, facts=more), target, out=out)
    assert list(out.iterdir()) == []


def rewire(graph: onnx.GraphProto, case: str) -> str:
    """Make the graph compute something else, and return the name of the node that does."""
    nodes = {node.name: node for node in graph.node}
    match case:
        case "another operator":
            nodes["layers.0.mlp_residual"].op_type = "Sub"
            return "layers.0.mlp_residual"
        case "another input":
            nodes["layers.1.post_norm"].input[0] = "layers.0.mlp_residual"
            return "layers.1.post_norm"
        case "one more product":
            graph.node.append(onnx.helper.make_node("MatMul", ["logits", "logits"], ["more"], name="more"))
            return "more"
        case "interleaved rotation":
            nodes["layers.0.q_rope"].attribute.append(onnx.helper.make_attribute("interleaved", 1))
            return "layers.0.q_rope"
        case "another scale":
            nodes["layers.1.attention"].attribute.append(onnx.helper.make_attribute("scale", 0.5))
            return "layers.1.attention"
    raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    ["another operator", "another input", "one more product", "interleaved rotation", "another scale"],
)
def test_a_graph_that_computes_something_else_is_never_compiled(
    case: str, built: Built, tmp_path: Path
) -> None:
    model = onnx.load(built.out / "graph" / "model.onnx", load_external_data=False)
    name = rewire(model.graph, case)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match=f"`{name}`"):
        TvmToolchain().lower(source_of(built, graph=path), find_target("cpu-x86-64-v3"), out=tmp_path)


@pytest.mark.parametrize(
    ("damage", "file", "problem"),
    [
        ("no library", "model.so", "No such file"),
        ("half a library", "model.so", "is cut short"),
        ("a header of a library", "model.so", "is cut short: 70 of"),
        ("garbage library", "model.so", "is not a shared library"),
        ("no plan", "plan.json", "No such file"),
        ("garbage plan", "plan.json", "is not a plan"),
        ("no weights", "weights.safetensors", "No such file"),
        ("half the weights", "weights.safetensors", "is not a whole weights file"),
        (
            "other weights",
            "weights.safetensors",
            "[301, 2, 16], the library was compiled for U8 [300, 2, 16]",
        ),
        ("another function", "model.so", "has no function `pack_nothing`"),
    ],
)
def test_damaged_files_are_not_loaded(
    damage: str, file: str, problem: str, own: Bundle, checkpoint_of: Callable[..., Path], build: Builder
) -> None:
    library, plan = own.path / "model.so", own.path / "plan.json"
    weights = own.path / "weights.safetensors"
    match damage:
        case "no library":
            library.unlink()
        case "half a library":
            library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])
        case "a header of a library":
            library.write_bytes(library.read_bytes()[:70])
        case "garbage library":
            library.write_bytes(b"garbage" * 99)
        case "no plan":
            plan.unlink()
        case "garbage plan":
            plan.write_text('{"schema_version": 2}')
        case "no weights":
            weights.unlink()
        case "half the weights":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        case "other weights":
            other = build(checkpoint_of(architecture="LlamaForCausalLM", vocab_size=301), recipe="w4g32-rtn")
            weights.write_bytes(other.weights.read_bytes())
        case "another function":
            plan.write_text(plan.read_text().replace("pack_vector_float32", "pack_nothing"))
    with pytest.raises(LoadError) as caught:
        TvmRuntime().load(own, this_host())
    assert f"`{own.path / file}`" in caught.value.message
    assert problem in caught.value.message
    assert caught.value.hint


def test_a_host_without_the_targets_features_is_refused_by_their_names(own: Bundle) -> None:
    host = this_host()
    weaker = host.model_copy(update={"features": tuple(f for f in host.features if f != "avx2")})
    support = TvmRuntime().supports(own.manifest, weaker)
    assert isinstance(support, Unsupported)
    assert "avx2" in support.reason
    with pytest.raises(LoadError, match="avx2"):
        TvmRuntime().load(own, weaker)
    other = host.model_copy(update={"architecture": "aarch64"})
    assert isinstance(TvmRuntime().supports(own.manifest, other), Unsupported)


def test_another_format_or_kind_of_target_is_refused(own: Bundle) -> None:
    ort = own.manifest.model_copy(update={"format": "onnxruntime"})
    assert isinstance(TvmRuntime().supports(ort, this_host()), Unsupported)
    cuda = own.manifest.model_copy(update={"target": "cuda-sm90"})
    assert isinstance(TvmRuntime().supports(cuda, this_host()), Unsupported)
    unknown = own.manifest.model_copy(update={"target": "cpu-z80"})
    assert isinstance(TvmRuntime().supports(unknown, this_host()), Unsupported)


def test_the_node_side_needs_neither_compiler_nor_framework(own: Bundle) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules.update(dict.fromkeys(['torch', 'onnx', 'transformers']))  # their import fails\n"
        "from compilers.runtime import Bundle, Segment; from compilers.tvm.run import TvmRuntime\n"
        "from registry.artifact import Manifest; from registry.host import Host\n"
        "manifest, host = (kind.model_validate_json(text) for kind, text in "
        "((Manifest, sys.argv[2]), (Host, sys.argv[3])))\n"
        "session = TvmRuntime().load(Bundle(manifest, Path(sys.argv[1])), host)\n"
        "print(session.forward(session.new_cache(rows=1, capacity=8), [Segment(0, [1, 2, 3])])[0].shape, "
        "'tvm' in sys.modules)"
    )
    given = [str(own.path), own.manifest.model_dump_json(), this_host().model_dump_json()]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 300) False"
