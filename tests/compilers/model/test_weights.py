"""Layouts of weights files: what safetensors reads, aligned, and with a layer's q, k and v side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from compilers.model.architecture import expected_tensors, matrix_shapes, read_architecture
from compilers.model.weights import arrange, coded_weights, read_layout, weights_layout
from registry.errors import CorruptError
from registry.recipe import KNOWN, Recipe, parse_recipe
from registry.weight_form import CodedWeights, WeightForm
from tests.checkpoints import TINY

SPECS = st.dictionaries(
    st.text("abc.qkv_proj", min_size=1, max_size=12),
    st.tuples(
        st.sampled_from(["F32", "F16", "U8", "I8"]), st.lists(st.integers(1, 9), max_size=3).map(tuple)
    ),
    min_size=1,
    max_size=12,
)


def write(path: Path, layout: Any) -> None:
    size = layout.size_bytes - len(layout.header)
    path.write_bytes(layout.header + bytes(index % 251 for index in range(size)))


@settings(max_examples=60)
@given(wanted=SPECS)
def test_safetensors_reads_every_layout_at_the_places_that_it_says(
    wanted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = arrange(wanted)
    path = tmp_path_factory.mktemp("layout") / "weights.safetensors"
    write(path, layout)
    content = path.read_bytes()
    assert len(layout.header) % 64 == 0
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(wanted)
        for name, tensor in layout.tensors.items():
            value = file.get_tensor(name)
            assert value.shape == tensor.shape
            assert value.tobytes() == content[tensor.offset : tensor.offset + tensor.size_bytes]
    assert read_layout(path) == layout


@pytest.mark.parametrize("recipe", KNOWN)
@pytest.mark.parametrize("tied", [True, False])
def test_large_tensors_are_aligned_and_projections_adjoin(recipe: str, tied: bool) -> None:
    config = {**TINY, "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": tied, "hidden_size": 128}
    architecture = read_architecture(config, where="config.json")
    layout = weights_layout(architecture, parse_recipe(recipe))
    for name, tensor in layout.tensors.items():
        if tensor.size_bytes % 64 == 0:
            assert tensor.offset % 64 == 0, name
    suffix = ".codes" if parse_recipe(recipe).is_quantized else ""
    q, k, v = (layout.tensors[f"model.layers.1.self_attn.{part}_proj.weight{suffix}"] for part in "qkv")
    assert k.offset == q.offset + q.size_bytes
    assert v.offset == k.offset + k.size_bytes
    assert ("lm_head.weight" in layout.tensors) == (not tied and not suffix)


@pytest.mark.parametrize("recipe", KNOWN)
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_stored_once_in_its_form(recipe: str, tied: bool) -> None:
    config = {**TINY, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": tied, "hidden_size": 128}
    config["intermediate_size"] = 256
    architecture, chosen = read_architecture(config, where="config.json"), parse_recipe(recipe)
    layout = weights_layout(architecture, chosen)
    elements = {name: math.prod(shape) for name, shape in expected_tensors(architecture).items()}
    matrices = sum(elements[name] for name in matrix_shapes(architecture))
    vectors = sum(elements.values()) - matrices
    embedding = elements["model.embed_tokens.weight"]
    # bytes of an element of a matrix, its share of a scale included; scales and ranges of whole rows apart
    size, rest = {
        "fp32": (4.0, 0),
        "fp16": (2.0, -2 * vectors),
        "w8a8-dynamic": (1.0, 4 * sum(shape[0] for shape in matrix_shapes(architecture).values())),
        "w8g32-rtn": (1 + 4 / 32, 0),
        "w4g32-rtn": (1 / 2 + 4 / 32, 0),
        "w4g32-gptq": (1 / 2 + 4 / 32, 0),
        "w4g64-gptq": (1 / 2 + 4 / 64, 0),
        "w4g128-gptq": (1 / 2 + 4 / 128, 0),
    }.get(recipe, (None, 0))
    held = layout.size_bytes - len(layout.header)
    if size is None:  # static activations: the embedding in float32, the output matrix in codes, tied or not
        assert layout.tensors["model.embed_tokens.weight"].size_bytes == 4 * embedding
        assert layout.tensors["lm_head.weight.codes"].size_bytes == embedding
    else:
        assert held == matrices * size + 4 * vectors + rest
    assert any(name.startswith("lm_head.weight") for name in layout.tensors) == (not tied or size is None)


def test_a_tied_matrix_is_stored_apart_where_its_two_uses_have_two_forms() -> None:
    class Mixed(Recipe):
        def form(self, matrix: str) -> WeightForm:
            return CodedWeights(8, 32) if matrix == "lm_head.weight" else super().form(matrix)

    config = {**TINY, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    architecture = read_architecture(config, where="config.json")
    mixed = Mixed(**parse_recipe("w4g32-rtn").model_dump())
    coded = coded_weights(architecture, mixed)
    assert coded["model.embed_tokens.weight"] == CodedWeights(4, 32)
    assert coded["lm_head.weight"] == CodedWeights(8, 32)
    layout = weights_layout(architecture, mixed)
    assert layout.tensors["model.embed_tokens.weight.codes"].shape == (300, 2, 16)
    assert layout.tensors["lm_head.weight.codes"].shape == (300, 2, 32)


def test_a_matrix_whose_inputs_are_no_multiple_of_the_group_stays_float() -> None:
    config = {**TINY, "architectures": ["LlamaForCausalLM"], "intermediate_size": 100}
    architecture = read_architecture(config, where="config.json")
    recipe = parse_recipe("w4g32-rtn")
    quantized = coded_weights(architecture, recipe)
    assert "model.layers.0.mlp.down_proj.weight" not in quantized
    assert "model.layers.0.mlp.up_proj.weight" in quantized
    layout = weights_layout(architecture, recipe)
    assert layout.tensors["model.layers.0.mlp.down_proj.weight"].dtype == "F32"


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "no header", "huge header", "list"])
def test_a_damaged_file_has_no_layout(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write(path, arrange({"a": ("F32", (16, 4)), "b": ("U8", (3,))}))
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"x")
        case "no header":
            path.write_bytes(content[:8] + b"?" * (len(content) - 8))
        case "huge header":
            path.write_bytes(b"\xff" * 8 + content[8:])
        case "list":
            path.write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(CorruptError, match=r"weights\.safetensors"):
        read_layout(path)
