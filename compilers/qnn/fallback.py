"""Where ONNX Runtime puts a graph's nodes: the check that no execution provider falls back to the CPU.

A provider that cannot take a node leaves it to the CPU provider, by default in silence. Three witnesses are
heard, each enough to refuse: the session may not fall back (`session.disable_cpu_ep_fallback`), it says which
provider has which node (`session.record_ep_graph_assignment_info`), and the graph that it compiled to holds
nothing but the provider's own context.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from registry.errors import BuildError

Untyped: TypeAlias = Any
"""What onnxruntime returns: it ships no types."""

STRICT: Final[Mapping[str, str]] = {
    "session.disable_cpu_ep_fallback": "1",
    "session.record_ep_graph_assignment_info": "1",
}
"""Entries of the session's configuration that make it refuse, or tell."""
_HINT = "take another recipe or target; no artifact is made that would run partly on the CPU"
_REFUSAL = "fallback to CPU EP has been explicitly disabled"


def assigned_nodes(session: Untyped) -> dict[str, tuple[str, ...]]:
    """Which provider has which nodes: provider → `name (operator)` of each, sorted.

    Args:
        session: An `onnxruntime.InferenceSession` that was made with the entries `STRICT`.
    """
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes = [f"{node.name} ({node.op_type})" for node in part.get_nodes()]
        found.setdefault(part.ep_name, []).extend(nodes)
    return {provider: tuple(sorted(nodes)) for provider, nodes in sorted(found.items())}


def check_assignment(session: Untyped, *, provider: str, where: str) -> None:
    """Check that every node of a session belongs to one provider.

    Raises:
        BuildError: Another provider, such as the CPU's, has a node, or no node has a provider.
    """
    if provider not in session.get_providers():
        raise BuildError(
            f"{where}: CPU fallback of an execution provider: onnxruntime runs on "
            f"{', '.join(session.get_providers())}, not on {provider}",
            hint=_HINT,
        )
    found = assigned_nodes(session)
    for other, nodes in found.items():
        if other != provider and nodes:
            raise BuildError(
                f"{where}: CPU fallback of an execution provider: {len(nodes)} nodes went to {other}, "
                f"such as {', '.join(nodes[:3])}",
                hint=_HINT,
            )
    if not found.get(provider):
        raise BuildError(f"{where}: {provider} took no node", hint=_HINT)


def check_context(path: Path) -> None:
    """Check that a compiled graph is one context of a provider, and computes nothing beside it.

    Raises:
        BuildError: It holds other nodes, several contexts, or none; or it cannot be read.
    """
    import onnx

    try:
        nodes = onnx.load(path, load_external_data=False).graph.node
    except Exception as error:  # protobuf raises a class of its own per implementation
        raise BuildError(f"`{path.name}` cannot be read as ONNX: {error}", hint="compile it again") from error
    contexts = [node for node in nodes if node.op_type == "EPContext"]
    others = [f"{node.name} ({node.op_type})" for node in nodes if node.op_type != "EPContext"]
    if len(contexts) != 1 or others:
        beside = f", and {len(others)} other nodes, such as {', '.join(others[:3])}" if others else ""
        raise BuildError(
            f"`{path.name}`: CPU fallback of an execution provider: {len(contexts)} compiled contexts "
            f"instead of one{beside}",
            hint=_HINT,
        )


def is_refusal(error: Exception) -> bool:
    """Whether onnxruntime refused a session because nodes would fall back to the CPU."""
    return _REFUSAL in str(error)
