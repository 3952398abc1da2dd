"""What a proof demands of ONNX Runtime artifacts: a plain graph that needs no other library."""

from __future__ import annotations

from collections.abc import Iterator

from compilers.proof.claim import Claim, Readings
from compilers.proof.rules import outside_weights

ONNXRUNTIME_DOMAINS = frozenset({"com.microsoft", "ai.onnx.ml"})
"""Operator sets that ONNX Runtime itself has, beside the standard one."""


def check_graph(claim: Claim, evidence: Readings) -> Iterator[str]:
    """A graph of standard operators and those of ONNX Runtime itself."""
    for file, graph in evidence.graphs.items():
        if graph.code:
            yield f"`{file}` carries compiled code (EPContext of {graph.code[0].source or 'no provider'})"
        for operator in graph.operators:
            domain, _, name = operator.rpartition(".")
            if domain and domain not in ONNXRUNTIME_DOMAINS:
                yield f"`{file}` uses `{name}` of `{domain}`, which needs a library of its own"
        yield from outside_weights(file, graph)
