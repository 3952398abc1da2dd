"""Reads what a toolchain lowers: the decoder in the interchange graph, and the layout of the weights file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compilers.model.network import Network, read_network
from compilers.model.weights import Layout, read_layout
from compilers.toolchain import LoweringInput
from registry.errors import BuildError, CorruptError


@dataclass(frozen=True, slots=True)
class VariantFiles:
    """A variant's files, as far as code depends on them."""

    network: Network
    layout: Layout


def read_variant_files(source: LoweringInput) -> VariantFiles:
    """Read a variant's graph and the header of its weights.

    Raises:
        BuildError: The graph is not of the interchange form, or the weights file is damaged.
        ToolchainMissingError: onnx is not installed.
    """
    return VariantFiles(read_network(source.graph), build_layout(source.weights))


def build_layout(weights: Path) -> Layout:
    """The layout of a weights file, of which a build cannot do without.

    Raises:
        BuildError: The file is missing or damaged.
    """
    try:
        return read_layout(weights)
    except CorruptError as error:
        raise BuildError(error.message, hint=error.hint) from error
