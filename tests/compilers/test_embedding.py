"""The embedding follows the recipe, and a tied matrix is stored once: every toolchain looks up the same rows.

The rows that an artifact looks up are compared, bit by bit, with those of the dequantized weights, and its
logits with torch's on these weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from compilers.check.probe import make_probe
from compilers.model.weights import read_layout
from compilers.plan_file import PLAN_NAME, read_plan_file
from compilers.quantize.canonical import dequantized_state
from compilers.static.graph import StaticForm, write_static
from compilers.tvm.common.library import Library, load_runtime, use_threads
from compilers.tvm.common.weights import open_weights
from compilers.tvm.cpu.elementwise import padded
from compilers.tvm.cpu.memory import make_parameter
from compilers.tvm.cpu.plan import LibraryPlan
from registry.target import find_target, missing_features
from registry.variant import WEIGHTS_NAME
from tests.compilers.conftest import Built, this_host
from tests.compilers.references import references_of
from tests.compilers.session_contract import draw
from tests.compilers.static.sources import source_of

Builder = Callable[..., Built]
Maker = Callable[..., Path]
EMBEDDING = "model.embed_tokens.weight"
RECIPES = ("fp32", "fp16", "w8a8-dynamic", "w8g32-rtn", "w4g32-rtn", "w4g64-rtn", "w4g32-gptq")
IDS = [3, 299, 0, 7, 7, 298, 150, 33]
CALIBRATION = [draw(seed, 60) for seed in range(8)]
WIDTH = 192
"""Of the checkpoints: a multiple of each group, and of no tile of 512 bits."""


def checkpoint_for(checkpoint_of: Maker, *, tied: bool) -> Path:
    return checkpoint_of(
        architecture="LlamaForCausalLM", hidden_size=WIDTH, head_dim=16, tie_word_embeddings=tied, spread=1.5
    )


def rows_of(built: Built) -> NDArray[np.float32]:
    """What the dequantized weights say of `IDS`."""
    return dequantized_state(built.weights, built.recipe)[EMBEDDING][IDS]


def looked_up_in_onnx(path: Path) -> NDArray[np.float32]:
    """The tensor `embed_tokens` of a graph, computed by what leads to it and nothing else."""
    model = onnx.load(path, load_external_data=False)
    made = {output: node for node in model.graph.node for output in node.output}
    kept: list[str] = []
    waiting = ["embed_tokens"]
    while waiting:
        name = waiting.pop()
        if name in made and name not in kept:
            kept.append(name)
            waiting.extend(made[name].input)
    nodes = [node for node in model.graph.node if set(node.output) & set(kept)]
    used = {name for node in nodes for name in node.input}
    part = onnx.helper.make_graph(
        nodes,
        "lookup",
        [given for given in model.graph.input if given.name in used],
        [onnx.helper.make_tensor_value_info("embed_tokens", onnx.TensorProto.FLOAT, None)],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    wanted = onnx.helper.make_model(part, ir_version=model.ir_version, opset_imports=model.opset_import)
    place = path.with_name("lookup.onnx")
    onnx.save(wanted, place)
    session = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])
    ids = np.asarray(IDS, np.int64)
    shape = session.get_inputs()[0].shape
    found = session.run(None, {"input_ids": ids.reshape([1, -1] if len(shape) == 2 else [-1])})[0]
    return np.asarray(found)


def looked_up_in_tvm(folder: Path) -> NDArray[np.float32]:
    """What the library's kernel `embed` makes of the parameters that it is called with."""
    plan = read_plan_file(folder / PLAN_NAME, LibraryPlan)
    weights = open_weights(folder / WEIGHTS_NAME, plan.tensors)
    library, ffi = Library(folder / "model.so"), load_runtime()
    use_threads(1)
    names = {parameter.name: parameter for parameter in plan.parameters}
    apart = [name for name in names if name.split(".")[0] == "embedding"]
    tables = apart or [name for name in names if name.split(".")[0] == "lm_head"]
    given = [ffi.from_dlpack(make_parameter(names[name], weights, library)) for name in tables]
    out = np.full((len(IDS) * padded(WIDTH) + 16,), np.nan, np.float32)
    start = -out.ctypes.data % 64 // 4
    out = out[start : start + len(IDS) * padded(WIDTH)].reshape(len(IDS), -1)
    room = np.zeros(len(IDS) + 16, np.int32)
    start = -room.ctypes.data % 64 // 4
    ids = room[start : start + len(IDS)]
    ids[:] = IDS
    library.function("embed")(ffi.from_dlpack(ids), *given, ffi.from_dlpack(out))
    return out[:, :WIDTH]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_onnxruntime_looks_up_the_rows_of_the_dequantized_weights(
    recipe: str, tied: bool, checkpoint_of: Maker, build: Builder
) -> None:
    built = build(checkpoint_for(checkpoint_of, tied=tied), recipe=recipe, calibration=CALIBRATION)
    np.testing.assert_array_equal(looked_up_in_onnx(built.out / "model.onnx"), rows_of(built))


@pytest.mark.parametrize("target", ["cpu-x86-64-v3", "cpu-x86-64-v4", "cpu-x86-64-v4-vnni"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_tvm_looks_up_the_rows_of_the_dequantized_weights(
    recipe: str, tied: bool, target: str, checkpoint_of: Maker, build: Builder
) -> None:
    if lacks := missing_features(this_host(), target=find_target(target)):
        pytest.skip(f"this host lacks {', '.join(lacks)}")
    checkpoint = checkpoint_for(checkpoint_of, tied=tied)
    built = build(checkpoint, recipe=recipe, toolchain="tvm", target=target, calibration=CALIBRATION)
    np.testing.assert_array_equal(looked_up_in_tvm(built.out), rows_of(built))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "w4g32-gptq"])
def test_the_static_graphs_look_up_the_rows_of_the_dequantized_weights(
    recipe: str, tied: bool, checkpoint_of: Maker, tmp_path: Path
) -> None:
    source = source_of(checkpoint_for(checkpoint_of, tied=tied), tmp_path, recipe=recipe)
    write_static(source, StaticForm(context=32, tokens=len(IDS)), out=tmp_path)
    expected = dequantized_state(source.weights, source.recipe)[EMBEDDING][IDS]
    np.testing.assert_array_equal(looked_up_in_onnx(tmp_path / "prefill.onnx"), expected)


@pytest.mark.parametrize("toolchain", ["onnxruntime", "tvm"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("recipe", ["w8a8-dynamic", "w8g32-rtn", "w4g32-rtn", "w4g32-gptq"])
def test_the_artifact_has_parity_with_torch_on_its_own_dequantized_weights(
    recipe: str, tied: bool, toolchain: str, checkpoint_of: Maker, build: Builder
) -> None:
    checkpoint = checkpoint_for(checkpoint_of, tied=tied)
    built = build(checkpoint, recipe=recipe, toolchain=toolchain, calibration=CALIBRATION)
    state = dequantized_state(built.weights, built.recipe)
    assert ("lm_head.weight" in state) == (not tied)
    probe = make_probe(CALIBRATION, vocab_size=300, max_context=128)
    references = references_of(checkpoint, probe, weights=state)
    parity = references.parity(built.load(), recipe=built.recipe, toolchain=toolchain)
    assert parity.within, parity.reason


@pytest.mark.parametrize("toolchain", ["onnxruntime", "tvm"])
@pytest.mark.parametrize(("recipe", "bits"), [("w8a8-dynamic", 8), ("w8g128-rtn", 8), ("w4g128-rtn", 4)])
def test_an_artifact_of_a_tied_checkpoint_holds_the_matrix_once(
    recipe: str, bits: int, toolchain: str, checkpoint_of: Maker, build: Builder
) -> None:
    vocabulary, hidden = 4096, 128
    shape = {"vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": 1}
    sizes = {}
    for tied in (True, False):
        built = build(
            checkpoint_of(architecture="LlamaForCausalLM", tie_word_embeddings=tied, **shape),
            recipe=recipe,
            toolchain=toolchain,
        )
        sizes[tied] = sum(path.stat().st_size for path in built.out.iterdir() if path.is_file())
        stored = read_layout(built.weights).tensors
        assert EMBEDDING not in stored, "the embedding is not in floats"
        assert stored[f"{EMBEDDING}.codes"].size_bytes == vocabulary * hidden * bits // 8
        assert EMBEDDING in built.report.errors
    matrix = vocabulary * hidden * bits // 8 + 4 * vocabulary
    assert sizes[False] - sizes[True] == pytest.approx(matrix, rel=0.02)


def test_lookup_and_product_of_a_tied_matrix_take_the_same_codes(
    checkpoint_of: Maker, build: Builder
) -> None:
    built = build(checkpoint_for(checkpoint_of, tied=True), recipe="w4g32-rtn")
    model = onnx.load(built.out / "model.onnx", load_external_data=False)
    takers = [node.op_type for node in model.graph.node if f"{EMBEDDING}.codes" in node.input]
    assert sorted(takers) == ["GatherBlockQuantized", "MatMulNBits"]
