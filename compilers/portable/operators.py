"""Operator allow-lists: which operators each vendor's converter takes, as data with its source."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypeAlias

from registry.errors import BuildError, UnknownNameError
from registry.value import Value

Proto: TypeAlias = Any
"""An `onnx.ModelProto`: onnx ships no types that hold."""

_STANDARD = ("", "ai.onnx")


class AllowList(Value):
    """What one vendor's converter takes."""

    product: str
    """The converter."""
    source: str
    """Where the vendor lists them."""
    oldest_opset: int
    newest_opset: int
    """Versions of ONNX's own operator set."""
    operators: frozenset[str]


@functools.cache
def allow_lists() -> Mapping[str, AllowList]:
    """All lists, by toolchain."""
    text = resources.files("compilers.portable").joinpath("allow_list.toml").read_text(encoding="utf-8")
    return {name: AllowList.model_validate(facts) for name, facts in tomllib.loads(text).items()}


def find_allow_list(toolchain: str) -> AllowList:
    """The list of a toolchain.

    Raises:
        UnknownNameError: There is none.
    """
    if toolchain not in allow_lists():
        raise UnknownNameError.of("operator allow-list", toolchain, known=allow_lists())
    return allow_lists()[toolchain]


def check_operators(model: Proto, allowed: AllowList, *, where: str) -> None:
    """Check that a graph has nothing but allowed operators and fixed shapes.

    Raises:
        BuildError: It has another operator, operator set, or an input without a fixed shape; named.
    """
    hint = f"see {allowed.source}; the graph must be written in other operators"
    for opset in model.opset_import:
        newest = allowed.newest_opset if opset.domain in _STANDARD else -1
        if not allowed.oldest_opset <= opset.version <= newest:
            raise BuildError(
                f"{where} is in operator set {opset.version} of `{opset.domain or 'ai.onnx'}`; "
                f"{allowed.product} takes {allowed.oldest_opset} to {allowed.newest_opset} of `ai.onnx`",
                hint=hint,
            )
    for node in model.graph.node:
        if node.domain not in _STANDARD or node.op_type not in allowed.operators:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise BuildError(
                f"{where}: node `{node.name}` is a `{operator}`, which is not on the list of "
                f"{allowed.product}",
                hint=hint,
            )
    for value in (*model.graph.input, *model.graph.output):
        if not all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim):
            raise BuildError(
                f"{where}: `{value.name}` has no fixed shape", hint="export it with fixed shapes"
            )
