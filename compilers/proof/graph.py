"""Reading ONNX graphs: operators, shapes, outside files, and nodes that carry another compiler's code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import CorruptError

CODE_NODE = "EPContext"
"""Type of a node that carries code which an execution provider compiled before."""
Message = Any
"""A message of ONNX; protobuf's generated classes ship no types."""


@dataclass(frozen=True, slots=True)
class EmbeddedCode:
    """A node of type `CODE_NODE`: code that an execution provider compiled before.

    https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html
    """

    source: str
    """The provider's name."""
    file: str | None
    """Where the code lies; None: in the node."""
    content: bytes
    """The code, if it lies in the node."""


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """What a graph says of itself."""

    opset: int
    """Of the standard domain; 0: it imports none."""
    operators: tuple[str, ...]
    """`MatMul`, `com.microsoft.GroupQueryAttention` …, sorted."""
    code: tuple[EmbeddedCode, ...]
    outside: tuple[str, ...]
    """Files of external tensor data, sorted."""
    open_shapes: tuple[str, ...]
    """Inputs and outputs with an extent that is no number."""


def read_graph(path: Path) -> OnnxGraph:
    """What a graph says of itself.

    Raises:
        CorruptError: It cannot be read as ONNX, or is empty.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        nodes = list(_nodes(model))
        tensors = list(_tensors(model.graph))
        found = OnnxGraph(
            opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0),
            operators=tuple(sorted({_name(node) for node in nodes})),
            code=tuple(_code(node) for node in nodes if node.op_type == CODE_NODE),
            outside=tuple(
                sorted({e.value for tensor in tensors for e in tensor.external_data if e.key == "location"})
            ),
            open_shapes=tuple(
                value.name for value in (*model.graph.input, *model.graph.output) if _is_open(value)
            ),
        )
    # protobuf raises a class of its own per implementation, and onnx whatever damaged text gives
    except Exception as error:
        raise CorruptError(f"not readable as ONNX: {error}".splitlines()[0], hint="build it again") from error
    if not nodes:
        raise CorruptError("an ONNX graph without a node", hint="build it again")
    return found


def _nodes(model: Message) -> Iterable[Message]:
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            pending += [inner for graph in graphs for inner in graph.node]


def _tensors(graph: Message) -> Iterable[Message]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _name(node: Message) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _code(node: Message) -> EmbeddedCode:
    values = {attribute.name: attribute for attribute in node.attribute}
    source = values["source"].s.decode("utf-8", "replace") if "source" in values else ""
    content = values["ep_cache_context"].s if "ep_cache_context" in values else b""
    if "embed_mode" in values and values["embed_mode"].i == 0:
        return EmbeddedCode(source, content.decode("utf-8", "replace"), b"")
    return EmbeddedCode(source, None, content)


def _is_open(value: Message) -> bool:
    kind = value.type.tensor_type
    return not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim)
