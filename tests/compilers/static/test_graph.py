"""Static graphs as files: valid ONNX of few operators that refers to the weights and holds none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from compilers.model.weights import read_layout
from compilers.static.graph import (
    NIBBLE_OPERATORS,
    OPERATORS,
    ROUNDING_OPERATORS,
    StaticForm,
    write_static,
)
from registry.errors import BuildError
from tests.compilers.shapes import SHAPES
from tests.compilers.static.sources import source_of

FORM = StaticForm(context=96, tokens=16)
ALLOWED = {
    "fp32": OPERATORS,
    "fp16": OPERATORS,
    "w8g32-rtn": OPERATORS,
    "w4g32-rtn": NIBBLE_OPERATORS,
    "w8a8-dynamic": ROUNDING_OPERATORS,
}


@pytest.mark.parametrize("recipe", ALLOWED)
def test_graphs_are_valid_and_hold_only_operators_of_the_list(
    recipe: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(**SHAPES["qwen3, heads of 24"])
    write_static(source_of(checkpoint, tmp_path, recipe=recipe), FORM, out=tmp_path)
    for step, tokens in (("decode", 1), ("prefill", 16)):
        path = tmp_path / f"{step}.onnx"
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert {node.op_type for node in model.graph.node} <= ALLOWED[recipe]
        assert {node.domain for node in model.graph.node} == {""}
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
        assert shapes["input_ids"] == [1, tokens]
        assert shapes["mask"] == [tokens, 96 + tokens]
        assert shapes["past.1.value"] == [2, 96, 24]


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "w4g32-rtn"])
def test_weights_are_references_into_the_canonical_file(
    recipe: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    source = source_of(checkpoint_of(architecture="LlamaForCausalLM"), tmp_path, recipe=recipe)
    write_static(source, FORM, out=tmp_path)
    layout = read_layout(source.weights)
    model = onnx.load(tmp_path / "decode.onnx", load_external_data=False)
    external = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    assert set(external) == set(layout.tensors)
    for name, tensor in external.items():
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == "weights.safetensors"
        assert int(place["offset"]) == layout.tensors[name].offset
        assert tuple(tensor.dims) == layout.tensors[name].shape
    assert all(len(t.raw_data) <= 64 for t in model.graph.initializer if not t.external_data)


def test_bytes_depend_on_the_architecture_and_not_on_the_values(
    checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    made = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        out.mkdir()
        checkpoint = checkpoint_of(architecture="LlamaForCausalLM", seed=seed)
        write_static(source_of(checkpoint, out, recipe="w4g32-rtn"), FORM, out=out)
        made.append([(out / name).read_bytes() for name in ("decode.onnx", "prefill.onnx", "plan.json")])
    assert made[0] == made[1]


def test_what_cannot_be_written_is_refused(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    source = source_of(checkpoint_of(architecture="LlamaForCausalLM"), tmp_path, recipe="w8a8-dynamic")
    with pytest.raises(BuildError, match="opset 17"):
        write_static(source, replace(FORM, opset=17), out=tmp_path)
    with pytest.raises(BuildError, match="in float16"):
        write_static(source, replace(FORM, compute="float16"), out=tmp_path)
    with pytest.raises(BuildError, match="not a whole weights file"):
        write_static(replace(source, weights=tmp_path / "absent"), FORM, out=tmp_path)
