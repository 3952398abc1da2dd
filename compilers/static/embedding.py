"""The lookup of the static form: rows of the embedding in the compute type, from floats or from codes.

Only the rows that are looked up are widened. The codes are the tensor that a tied output matrix multiplies
with too.
"""

from __future__ import annotations

from compilers.model.network import Network
from compilers.static.emit import FLOATS, Emitter
from registry.recipe import Recipe
from registry.weight_form import CodedWeights


def embedded(graph: Emitter, ids: str, network: Network, recipe: Recipe, *, tokens: int) -> str:
    """The rows of `ids` [tokens]: [tokens, hidden]."""
    name = network.embedding
    form = recipe.form(name)
    if not isinstance(form, CodedWeights) or f"{name}.codes" not in graph.layout.tensors:
        return _floats(graph, name, ids, "embed_tokens")
    scales = _floats(graph, f"{name}.scales", ids, "embed_tokens.scales")
    codes = graph.node("Gather", [graph.reference(f"{name}.codes"), ids], "embed_tokens.codes", axis=0)
    numbers = graph.node("Cast", [codes], "embed_tokens.numbers", to=FLOATS[graph.compute])
    if form.group_size is None:
        factors = graph.reshape(scales, (tokens, 1), "embed_tokens.factors")
        return graph.node("Mul", [numbers, factors], "embed_tokens")
    groups = network.hidden // form.group_size
    if form.codes_per_byte == 2:
        numbers = _nibbles(graph, numbers, (tokens, groups, form.group_size))
    zero = graph.number(f"zero.{form.zero}", form.zero)
    centred = graph.node("Sub", [numbers, zero], "embed_tokens.centred")
    factors = graph.reshape(scales, (tokens, groups, 1), "embed_tokens.factors")
    rows = graph.node("Mul", [centred, factors], "embed_tokens.groups")
    return graph.reshape(rows, (tokens, network.hidden), "embed_tokens")


def _floats(graph: Emitter, name: str, ids: str, node: str) -> str:
    stored, wanted = graph.dtype(name), FLOATS[graph.compute]
    source = [graph.reference(name), ids]
    if stored == wanted:
        return graph.node("Gather", source, node, axis=0)
    return graph.node("Cast", [graph.node("Gather", source, f"{node}.stored", axis=0)], node, to=wanted)


def _nibbles(graph: Emitter, numbers: str, shape: tuple[int, int, int]) -> str:
    """Bytes taken apart in floats, exactly (see `compilers/static/linear.py`), and put side by side."""
    tokens, groups, size = shape
    shift = graph.number("nibble.shift", 1 / 16)
    shifted = graph.node("Mul", [numbers, shift], "embed_tokens.shifted")
    high = graph.node("Floor", [shifted], "embed_tokens.high")
    above = graph.node("Mul", [high, graph.number("nibble.base", 16)], "embed_tokens.above")
    low = graph.node("Sub", [numbers, above], "embed_tokens.low")
    columns = [graph.reshape(part, (tokens, groups, size // 2, 1), f"{part}.column") for part in (low, high)]
    pairs = graph.node("Concat", columns, "embed_tokens.pairs", axis=3)
    return graph.reshape(pairs, shape, "embed_tokens.unpacked")
