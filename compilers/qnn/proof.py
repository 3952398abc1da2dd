"""What a proof demands of QNN artifacts: contexts for the target's HTP, and nothing for the processor."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

from compilers.proof.claim import Claim, CodeFacts, Readings
from compilers.qnn.context import read_context


def read_code(data: bytes | mmap) -> CodeFacts:
    """What a context binary says of itself."""
    context = read_context(data)
    return CodeFacts(
        kind="qnn-context",
        machine="HTP",
        architectures=context.architectures,
        flags=" ".join(context.chips),
        tool="the compiler's options in it",
        complaint=context.complaint,
    )


def check_contexts(claim: Claim, evidence: Readings) -> Iterator[str]:
    """Graphs whose every node is compiled for the HTP of the target."""
    expected = claim.target.architecture.removeprefix("htp-")
    named: set[str] = set()
    for file, graph in evidence.graphs.items():
        if not graph.code:
            yield f"`{file}` has no EPContext node: nothing in it is compiled"
        if others := [op for op in graph.operators if not op.endswith("EPContext")]:
            yield f"`{file}` leaves nodes to the processor: {', '.join(others[:8])}"
        for code in graph.code:
            if not code.source.upper().startswith("QNN"):
                yield f"`{file}` carries code compiled by `{code.source}`, not by QNN"
            if code.file is not None:
                named.add(code.file)
                if code.file not in claim.files:
                    yield f"`{file}` names the context `{code.file}`, which is not among the files"
    if not evidence.graphs:
        yield "there is no graph with an EPContext node beside the context"
    for reading in evidence.of("qnn-context"):
        binary = reading.binary
        if other := set(binary.architectures) - {expected}:
            yield (
                f"the manifest says {expected}, `{binary.file}` holds a graph for {', '.join(sorted(other))} "
                f"({binary.flags})"
            )
        if "#" not in binary.file and binary.file not in named:
            yield f"`{binary.file}` is a context that no graph names"
