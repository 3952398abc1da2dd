"""The constants of an exported graph and the weights beside it, against transformers' own, one by one.

Parity sees what moves logits by more than float32 rounds. A frequency, an epsilon or a weight that is off by
less than that is wrong all the same, and is found here: in the graph that every toolchain lowers, read back,
and in the weights file that it refers to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import safe_open

from compilers.model.activations import INPUT, OUTPUT
from compilers.model.network import Linear, Network, Norm
from compilers.model.torch_reference import TorchSession, Untyped
from registry.errors import BuildError

FREQUENCY_ERROR: Final = 5e-7
"""Relative: frequencies are powers, computed in float32 by transformers and rounded once to float32 here."""
CODED: Final = (".codes", ".scales", f".{INPUT}", f".{OUTPUT}")
"""Ends of names in a weights file that are no tensor of the checkpoint."""
SHOWN: Final = 3
"""Differences in a message."""


def check_graph(network: Network, session: TorchSession) -> None:
    """Every constant of the graph is the one that the module of transformers has.

    Args:
        network: The exported graph, read back.
        session: The checkpoint.

    Raises:
        BuildError: Some differ; the first are named.
    """
    _refuse_if_any("the exported graph", list(_constants(network, session.model)))


def check_weights(path: Path, session: TorchSession) -> None:
    """Every tensor that a weights file holds as floats is the checkpoint's, bit for bit in the file's type.

    Args:
        path: The weights file of a variant.
        session: The checkpoint with its own weights.

    Raises:
        BuildError: Some differ; the first are named.
    """
    state, wrong = session.model.state_dict(), []
    with safe_open(path, framework="pt") as file:
        for name in sorted(name for name in file.keys() if not name.endswith(CODED)):  # noqa: SIM118  no dict
            stored = file.get_tensor(name)
            if name not in state:
                wrong.append(f"`{name}` is no weight of the checkpoint")
            elif not torch.equal(stored, state[name].to(stored.dtype)):
                wrong.append(f"`{name}` has other values than in the checkpoint")
    _refuse_if_any(f"the weights file `{path.name}`", wrong)


def _refuse_if_any(what: str, wrong: list[str]) -> None:
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise BuildError(
            f"{what} is not of the checkpoint as transformers reads it: {'; '.join(wrong[:SHOWN])}{more}",
            hint="an option of config.json is not supported; please report it with the config.json",
        )


def _constants(network: Network, model: Untyped) -> Iterator[str]:
    rotary = model.model.rotary_emb
    read, theirs = np.array(network.inv_freq), rotary.inv_freq.double().numpy()
    if read.shape != theirs.shape or not np.allclose(read, theirs, rtol=FREQUENCY_ERROR, atol=0.0):
        yield "rotary frequencies differ"
    yield from _number("the factor on rotary positions", network.rope_scale, rotary.attention_scaling)
    yield from _norm(network.final_norm, model)
    yield from _linear(network.lm_head, model)
    if len(network.layers) != len(model.model.layers):
        yield f"it has {len(network.layers)} layers, and transformers {len(model.model.layers)}"
        return
    for index, (layer, module) in enumerate(zip(network.layers, model.model.layers, strict=True)):
        at = f"layer {index + 1}"
        factor = module.self_attn.scaling * network.head_size**0.5
        yield from _number(f"{at}: √head size × the factor on scores", 1.0, factor)
        if layer.window != (window := _window(model, index)):
            yield f"{at}: its window is {layer.window}, and transformers' {window}"
        for norm in (layer.input_norm, layer.post_norm, layer.q_norm, layer.k_norm):
            if norm is not None:
                yield from _norm(norm, model)
        for linear in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down):
            yield from _linear(linear, model)


def _number(what: str, ours: float, theirs: float) -> Iterator[str]:
    if not np.isclose(ours, theirs, rtol=2 * np.finfo(np.float32).eps, atol=0.0):
        yield f"{what} is {ours:.8g}, and transformers' {theirs:.8g}"


def _norm(norm: Norm, model: Untyped) -> Iterator[str]:
    module = model.get_submodule(norm.weight.removesuffix(".weight"))
    yield from _number(f"the epsilon of `{norm.weight}`", norm.epsilon, module.variance_epsilon)


def _linear(linear: Linear, model: Untyped) -> Iterator[str]:
    """Its shape, and that there is a bias where transformers has one; a tied output is in `embed_tokens`."""
    module = model.get_submodule(linear.weight.removesuffix(".weight"))
    shape = (linear.rows, linear.columns)
    if tuple(module.weight.shape) != shape:
        yield f"`{linear.weight}` is {shape}, and transformers' {tuple(module.weight.shape)}"
    if (linear.bias is None) != (getattr(module, "bias", None) is None):
        yield f"`{linear.weight}` has {'no' if linear.bias is None else 'a'} bias, unlike transformers'"


def _window(model: Untyped, index: int) -> int | None:
    """Keys that a query of a layer sees in transformers; None: all.

    Qwen's layers hold theirs, Mistral's model makes one mask for all of its layers, Llama has none.
    """
    attention = model.model.layers[index].self_attn
    if hasattr(attention, "sliding_window"):
        window: int | None = attention.sliding_window
        return window
    return model.config.sliding_window if model.config.model_type == "mistral" else None
