"""Portable artifacts: graphs within the vendor's list, shared weights, and a stand-in that computes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compilers.backend import find_runtime, find_toolchain, rehearse
from compilers.model.torch_reference import TorchSession
from compilers.portable.lower import cann_toolchain, openvino_toolchain
from compilers.portable.node_compile import read_commands
from compilers.portable.operators import allow_lists, check_operators, find_allow_list
from compilers.portable.run import PortableRuntime
from compilers.quantize.canonical import dequantized_state
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle, Segment
from compilers.static.onnx_step import open_onnx_session
from compilers.static.plan import read_plan
from compilers.static.session import StaticSession
from compilers.toolchain import LoweringInput, Supported, Unsupported
from registry.artifact import Manifest
from registry.digest import digest_file
from registry.errors import BuildError, LoadError
from registry.host import Accelerator, Host
from registry.recipe import KNOWN, parse_recipe
from registry.target import find_target, targets
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.static.sources import source_of

NO_DIGEST = "sha256:" + "0" * 64
CELLS = [("cann", "npu-ascend910b"), ("openvino", "npu-intel")]


def lower(source: LoweringInput, *, toolchain: str, target: str) -> Bundle:
    """The artifact, beside its weights."""
    out = source.weights.parent / "out"
    out.mkdir()
    lowered = find_toolchain(toolchain).lower(source, find_target(target), out=out)
    assert sorted(path.name for path in out.iterdir()) == list(lowered.files)
    (out / "weights.safetensors").hardlink_to(source.weights)
    manifest = Manifest(
        build_key=NO_DIGEST, format="portable", toolchain=toolchain, toolchain_version="1", target=target,
        checkpoint="tiny/1", checkpoint_digest=NO_DIGEST, family="tiny", licence="unknown",
        recipe=source.recipe.name, facts=source.facts, files=(), entry=lowered.entry,
        options=dict(lowered.options), memory_bytes=0, kv_bytes_per_token=0,
    )  # fmt: skip
    return Bundle(manifest, out)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of: Callable[..., Path]) -> Path:
    return checkpoint_of(architecture="Qwen2ForCausalLM")


@pytest.mark.parametrize(("toolchain", "target"), CELLS)
@pytest.mark.parametrize(("recipe", "tolerance"), [("fp32", 1e-4), ("fp16", 3e-2)])
def test_the_stand_in_computes_what_the_variant_does(
    recipe: str, tolerance: float, toolchain: str, target: str, checkpoint: Path, tmp_path: Path
) -> None:
    source = source_of(checkpoint, tmp_path, recipe=recipe)
    rehearsal = rehearse(lower(source, toolchain=toolchain, target=target))
    assert isinstance(rehearsal, Rehearsal)
    assert "on the CPU" in rehearsal.means
    reference = TorchSession(checkpoint, weights=dequantized_state(source.weights, source.recipe))
    tokens = draw(0, 90)
    found = []
    for session in (rehearsal.session, reference):
        cache = session.new_cache(rows=1, capacity=96)
        parts = [session.forward(cache, [Segment(0, tokens[:80], "all")])[0]]
        parts += [session.forward(cache, [Segment(0, [token])])[0] for token in tokens[80:]]
        found.append(np.concatenate(parts))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=tolerance)


class TestPortableSession(SessionContract):
    """The session of the stand-in keeps every promise of a session."""

    @pytest.fixture(scope="class")
    @classmethod
    def session(
        cls, checkpoint_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
    ) -> StaticSession:
        checkpoint = checkpoint_of(architecture="LlamaForCausalLM")
        source = source_of(checkpoint, tmp_path_factory.mktemp("portable"), recipe="fp32")
        return open_onnx_session(lower(source, toolchain="cann", target="npu-ascend910b").path)


@pytest.mark.parametrize(("toolchain", "target"), CELLS)
def test_graphs_are_small_and_do_not_depend_on_the_values_of_the_weights(
    toolchain: str, target: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        source = source_of(
            checkpoint_of(architecture="Qwen2ForCausalLM", seed=seed), tmp_path / str(seed), recipe="fp16"
        )
        path = lower(source, toolchain=toolchain, target=target).path
        names = ("decode.onnx", "prefill.onnx", "plan.json")
        found.append([digest_file(path / name) for name in names])
        model = onnx.load(path / "decode.onnx", load_external_data=False)
        places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert places == {"weights.safetensors"}
        assert sum((path / name).stat().st_size for name in names) < 80_000
        assert str(tmp_path).encode() not in b"".join((path / name).read_bytes() for name in names)
    assert found[0] == found[1]


@pytest.mark.parametrize(("toolchain", "target", "tool"), [(*CELLS[0], "atc"), (*CELLS[1], "compile_tool")])
def test_the_manifest_names_a_command_that_a_node_may_run(
    toolchain: str, target: str, tool: str, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = lower(source_of(checkpoint, tmp_path, recipe="fp16"), toolchain=toolchain, target=target)
    text = bundle.manifest.options["node_compile"]
    commands = read_commands(text, artifact=bundle.manifest.digest)
    assert [command[0] for command in commands] == [tool, tool]
    for step, command in zip(("decode", "prefill"), commands, strict=True):
        assert f"{{bundle}}/{step}.onnx" in shlex.join(command)
        assert f"{{out}}/{step}" in shlex.join(command)


def test_a_portable_artifact_never_runs_as_if_it_were_compiled(checkpoint: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint, tmp_path, recipe="fp16")
    bundle = lower(source, toolchain="cann", target="npu-ascend910b")
    here = (Accelerator(architecture="ascend910b"),)
    host = Host(architecture="aarch64", features=(), memory_bytes=2**34, cores=8, accelerators=here)
    runtime = find_runtime("portable")
    assert isinstance(runtime, PortableRuntime)
    support = runtime.supports(bundle.manifest, host)
    assert isinstance(support, Unsupported)
    assert "compiled on a node of `npu-ascend910b` first" in support.reason
    with pytest.raises(LoadError, match="is not compiled yet") as raised:
        runtime.load(bundle, host)
    assert "rung node-compile" in raised.value.hint


def test_float_recipes_of_the_vendors_own_targets_are_supported_and_nothing_else(
    checkpoint: Path, tmp_path: Path
) -> None:
    facts = source_of(checkpoint, tmp_path, recipe="fp32").facts
    for toolchain, own in ((cann_toolchain(), "npu-ascend910b"), (openvino_toolchain(), "npu-intel")):
        for target in targets().values():
            for name in KNOWN:
                support = toolchain.supports(parse_recipe(name), target, facts)
                assert isinstance(support, Supported) == (target.name == own and name in ("fp32", "fp16"))
                if isinstance(support, Unsupported):
                    assert len(support.reason) > 20


def test_what_is_not_supported_is_refused_when_lowering(checkpoint: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint, tmp_path, recipe="w8a8-dynamic")
    with pytest.raises(BuildError, match="w8a8-dynamic"):
        cann_toolchain().lower(source, find_target("npu-ascend910b"), out=tmp_path)


def graph_of(operator: str, *, domain: str = "", opset: int = 18, size: int | str = 4) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], name="layers.7.odd", domain=domain)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in ("x", "y")]
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), opset_imports=imports)


@pytest.mark.parametrize("toolchain", ["cann", "openvino"])
def test_an_operator_off_the_list_is_named_with_its_node(toolchain: str) -> None:
    allowed = find_allow_list(toolchain)
    check_operators(graph_of("Sigmoid"), allowed, where="graph `g`")
    with pytest.raises(BuildError, match=r"node `layers\.7\.odd` is a `HardSwish`") as raised:
        check_operators(graph_of("HardSwish"), allowed, where="graph `g`")
    assert allowed.source in raised.value.hint
    with pytest.raises(BuildError, match=r"com\.microsoft"):
        check_operators(graph_of("Gelu", domain="com.microsoft"), allowed, where="graph `g`")
    with pytest.raises(BuildError, match="operator set 23"):
        check_operators(graph_of("Sigmoid", opset=23), allowed, where="graph `g`")
    with pytest.raises(BuildError, match="`x` has no fixed shape"):
        check_operators(graph_of("Sigmoid", size="batch"), allowed, where="graph `g`")


def test_every_list_names_its_source_and_only_operators_that_onnx_has() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    for allowed in allow_lists().values():
        assert allowed.source.startswith("https://")
        assert allowed.operators <= known


def test_openvino_itself_takes_the_graphs_and_computes_the_same(checkpoint: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino, which is no dependency of Rung")
    source = source_of(checkpoint, tmp_path, recipe="fp32")
    bundle = lower(source, toolchain="openvino", target="npu-intel")
    plan = read_plan(bundle.path / "plan.json")
    core = openvino.Core()
    model = core.compile_model(core.read_model(bundle.path / "decode.onnx"), "CPU")
    session = open_onnx_session(bundle.path)
    cache = session.new_cache(rows=1, capacity=8)
    inputs = session._inputs(cache, 0, [7], width=1)
    found = model(dict(zip(plan.inputs(), inputs.arrays(), strict=True)))
    expected = session.forward(cache, [Segment(0, [7])])[0]
    np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=1e-4)
