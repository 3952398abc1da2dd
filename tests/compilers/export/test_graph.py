"""The interchange graph: valid ONNX, small, a function of the architecture, and equal to torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from compilers.export.graph import PADDED_POSITION, build_graph, export_graph
from compilers.model.architecture import read_architecture
from compilers.model.torch_reference import TorchSession
from compilers.quantize.variant import quantize
from compilers.runtime import Segment
from registry.recipe import parse_recipe
from tests.checkpoints import TINY
from tests.compilers.session_contract import draw
from tests.compilers.shapes import SHAPES

STANDARD = {
    *("Gather", "Reshape", "Shape", "Concat", "Unsqueeze", "Cast", "Cos", "Sin", "RMSNormalization", "Gemm"),
    *(
        "RotaryEmbedding",
        "Attention",
        "LessOrEqual",
        "Greater",
        "And",
        "Sub",
        "Where",
        "Sigmoid",
        "Mul",
        "Add",
    ),
}


class Plain:
    """The interchange graph in onnxruntime, with nothing lowered, driven by hand."""

    def __init__(self, graph: Path, *, layers: int, kv_heads: int, head_size: int) -> None:
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.layers, self.kv_heads, self.head_size = layers, kv_heads, head_size

    def empty(self, rows: int) -> dict[str, NDArray[Any]]:
        nothing = np.zeros((rows, self.kv_heads, 0, self.head_size), np.float32)
        return {f"past.{i}.{part}": nothing for i in range(self.layers) for part in ("key", "value")}

    def run(
        self, past: dict[str, NDArray[Any]], **inputs: NDArray[Any]
    ) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        names = [output.name for output in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(names, {**inputs, **past}), strict=True))
        logits = found.pop("logits")
        return logits, {name.replace("present", "past"): value for name, value in found.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_torch_in_ragged_prefill_and_decode_without_any_lowering(
    shape: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    reference = TorchSession(checkpoint)
    architecture = reference.architecture
    quantize(checkpoint, parse_recipe("fp32"), architecture=architecture, out=tmp_path)
    path = export_graph(architecture, out=tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    plain = Plain(
        path, layers=architecture.layers, kv_heads=architecture.kv_heads, head_size=architecture.head_size
    )
    rows, first = [draw(seed, 30) for seed in range(3)], np.array([12, 8, 5])
    cache = reference.new_cache(rows=3, capacity=30)
    expected = reference.forward(cache, [Segment(row, tokens, "all") for row, tokens in enumerate(rows)])

    positions = np.tile(np.arange(12), (3, 1))
    keys = np.where(positions < first[:, None], positions, PADDED_POSITION)
    wanted = np.array([12 * row + place for row in range(3) for place in range(first[row])])
    ids = np.array([tokens[:12] for tokens in rows])
    logits, past = plain.run(
        plain.empty(3), input_ids=ids, position_ids=positions, key_positions=keys, logit_index=wanted
    )
    want = np.concatenate([expected[row][: first[row]] for row in range(3)])
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-4)
    for step in range(18):
        at = (first + step)[:, None]
        keys = np.concatenate([keys, at], axis=1)
        ids = np.array([[rows[row][at[row, 0]]] for row in range(3)])
        logits, past = plain.run(
            past, input_ids=ids, position_ids=at, key_positions=keys, logit_index=np.arange(3)
        )
        want = np.stack([expected[row][at[row, 0]] for row in range(3)])
        np.testing.assert_allclose(logits, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_uses_standard_operators_only_and_names_its_nodes(
    shape: str, checkpoint_of: Callable[..., Path]
) -> None:
    architecture = TorchSession(checkpoint_of(**SHAPES[shape])).architecture
    model = build_graph(architecture)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    assert {node.op_type for node in model.graph.node} <= STANDARD
    assert all(node.name for node in model.graph.node)
    names = {node.name for node in model.graph.node}
    parts = "input_norm q_proj k_proj v_proj q_rope k_rope attention o_proj attention_residual post_norm"
    for layer in range(architecture.layers):
        for part in [*parts.split(), "gate_proj", "up_proj", "activation", "down_proj", "mlp_residual"]:
            assert f"layers.{layer}.{part}" in names
    assert {"embed_tokens", "logit_gather", "final_norm", "lm_head"} <= names
    weights = [proto.name for proto in model.graph.initializer if proto.external_data]
    assert all(re.search(r"\.(weight|bias)$", name) for name in weights)
    assert ("lm_head.weight" in weights) == (not architecture.tie_embeddings)


def test_equal_architectures_give_equal_bytes_that_hold_no_weights(tmp_path: Path) -> None:
    config = {
        **TINY,
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "vocab_size": 151_936,
    }
    paths = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        paths.append(export_graph(read_architecture(config, where=name), out=tmp_path / name))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size < 200_000
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["model.onnx"]
