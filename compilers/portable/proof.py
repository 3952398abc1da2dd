"""What a proof demands of portable artifacts: static graphs of operators that the vendor takes."""

from __future__ import annotations

from collections.abc import Iterator

from compilers.portable.operators import find_allow_list
from compilers.proof.claim import Claim, Readings
from compilers.proof.rules import outside_weights
from registry.errors import UnknownNameError


def check_graph(claim: Claim, evidence: Readings) -> Iterator[str]:
    """Graphs of operators that the vendor's converter takes, with static shapes."""
    try:
        allowed = find_allow_list(claim.toolchain)
    except UnknownNameError as error:
        yield f"the manifest says toolchain `{claim.toolchain}`, for which there is no list: {error.message}"
        return
    for file, graph in evidence.graphs.items():
        if graph.code:
            yield f"`{file}` carries compiled code (EPContext of {graph.code[0].source or 'no provider'})"
        if graph.open_shapes:
            yield f"`{file}` must have static shapes, and has none for {', '.join(graph.open_shapes[:5])}"
        if foreign := [operator for operator in graph.operators if operator not in allowed.operators]:
            yield f"`{file}` uses {', '.join(foreign[:8])}, which {allowed.product} does not take"
        if not allowed.oldest_opset <= graph.opset <= allowed.newest_opset:
            yield (
                f"`{file}` is in operator set {graph.opset}, and {allowed.product} takes "
                f"{allowed.oldest_opset} to {allowed.newest_opset}"
            )
        yield from outside_weights(file, graph)
