"""Nodes that a provider leaves to the CPU are caught, by each of three witnesses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compilers.qnn.fallback import STRICT, assigned_nodes, check_assignment, check_context, is_refusal
from registry.errors import BuildError

pytest.importorskip("onnxruntime_qnn", reason="needs `rung[qnn]`")


def write_graph(path: Path, *, odd: str | None) -> Path:
    """A product and a softmax, with an operator between them that QNN does not have."""
    weight = numpy_helper.from_array(np.eye(16, dtype=np.float16), "weight")
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["product"], name="product")]
    if odd is not None:
        nodes.append(helper.make_node(odd, ["product"], ["odd"], name="odd"))
    nodes.append(helper.make_node("Softmax", [nodes[-1].output[0]], ["y"], name="shares"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, 16]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def compile_graph(model: Path, *, out: Path, strict: bool = True) -> object:
    from compilers.qnn.provider import CHIPS, find_provider

    chip = CHIPS["htp-v73"]
    return find_provider().compile(model.read_bytes(), weights=None, out=out, chip=chip, strict=strict)


def test_a_graph_that_the_provider_takes_whole_passes(tmp_path: Path) -> None:
    model = write_graph(tmp_path / "model.onnx", odd=None)
    session = compile_graph(model, out=tmp_path / "context.onnx")
    assert assigned_nodes(session) == {"QNNExecutionProvider": ("product (MatMul)", "shares (Softmax)")}
    check_assignment(session, provider="QNNExecutionProvider", where="`g`")
    check_context(tmp_path / "context.onnx")


def test_a_strict_session_refuses_an_operator_that_would_go_to_the_cpu(tmp_path: Path) -> None:
    model = write_graph(tmp_path / "model.onnx", odd="Erf")
    with pytest.raises(Exception, match="fallback to CPU EP") as raised:
        compile_graph(model, out=tmp_path / "context.onnx")
    assert is_refusal(raised.value)
    assert STRICT["session.disable_cpu_ep_fallback"] == "1"


def test_a_session_that_fell_back_is_caught_by_its_nodes_and_by_what_it_compiled_to(tmp_path: Path) -> None:
    model = write_graph(tmp_path / "model.onnx", odd="Erf")
    session = compile_graph(model, out=tmp_path / "context.onnx", strict=False)
    assert assigned_nodes(session)["CPUExecutionProvider"] == ("odd (Erf)",)
    with pytest.raises(BuildError, match=r"CPU fallback of an execution provider: .*odd \(Erf\)"):
        check_assignment(session, provider="QNNExecutionProvider", where="`g`")
    with pytest.raises(BuildError, match=r"CPU fallback .* 2 compiled contexts .*odd \(Erf\)"):
        check_context(tmp_path / "context.onnx")


def test_a_provider_that_is_not_there_at_all_is_caught(tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = write_graph(tmp_path / "model.onnx", odd=None)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with pytest.raises(BuildError, match="onnxruntime runs on CPUExecutionProvider"):
        check_assignment(session, provider="QNNExecutionProvider", where="`g`")


def test_a_graph_that_was_not_compiled_is_no_context(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="0 compiled contexts"):
        check_context(write_graph(tmp_path / "model.onnx", odd=None))
    (tmp_path / "garbage.onnx").write_bytes(b"garbage" * 9)
    with pytest.raises(BuildError, match="cannot be read as ONNX"):
        check_context(tmp_path / "garbage.onnx")
