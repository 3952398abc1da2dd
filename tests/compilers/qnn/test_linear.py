"""Products with static activations: the graph says what torch's reference simulates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from compilers.check.probe import make_probe, reference_logits
from compilers.model.torch_reference import TorchSession
from compilers.qnn.lower import write_graphs
from compilers.quantize.canonical import dequantized_state
from compilers.static.onnx_step import open_onnx_session
from tests.compilers.session_contract import draw
from tests.compilers.static.sources import source_of

TEXTS = [draw(seed, 40) for seed in range(12)]
SHAPES = {
    "biases": {"architecture": "Qwen2ForCausalLM"},
    "tied, odd head": {"architecture": "LlamaForCausalLM", "tie_word_embeddings": True, "vocab_size": 301},
}


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_onnxruntime_computes_of_the_graph_what_torch_simulates(
    shape: str, recipe: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(num_hidden_layers=1, **SHAPES[shape])
    source = source_of(checkpoint, tmp_path, recipe=recipe, calibration=TEXTS)
    for step, graph in write_graphs(source, out=tmp_path).items():
        (tmp_path / f"{step}.onnx").write_bytes(graph)
    probe = make_probe(TEXTS, vocab_size=300, max_context=64)
    found = reference_logits(open_onnx_session(tmp_path), probe)
    state = dequantized_state(source.weights, source.recipe)
    simulated = reference_logits(TorchSession(checkpoint, weights=state), probe)
    weights = {name: value for name, value in state.items() if not name.endswith("_range")}
    unrounded = reference_logits(TorchSession(checkpoint, weights=weights), probe)
    # A value near the middle between two codes may fall either way, and moves what comes behind it; so the
    # graph is shallow, and a part of what rounding does at all is allowed.
    rms = float(np.sqrt(np.square(found - simulated).mean()))
    assert rms < 0.7 * float(np.sqrt(np.square(found - unrounded).mean()))
    assert rms < 1e-3 * float(simulated.std())


def test_every_quantized_matrix_is_one_integer_product(
    checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(architecture="Qwen2ForCausalLM")
    source = source_of(checkpoint, tmp_path, recipe="w8a16", calibration=TEXTS)
    graph = onnx.load_from_string(write_graphs(source, out=tmp_path)["decode"]).graph
    makers = {node.output[0]: node.op_type for node in graph.node}
    takers = {name: node.op_type for node in graph.node for name in node.input}
    products = [node for node in graph.node if node.op_type == "Gemm"]
    assert len(products) == 2 * 7 + 1
    for node in products:
        assert [makers[name] for name in node.input] == ["DequantizeLinear", "DequantizeLinear"]
        assert takers[node.output[0]] == "QuantizeLinear"
