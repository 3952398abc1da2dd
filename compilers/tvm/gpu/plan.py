"""`launches.json`, beside the machine code: buffers, kernels, and which are launched in which order.

Written by the build side, read on the node; it depends on graph, recipe layout and target alone. This
module imports no compiler.
"""

from __future__ import annotations

from typing import Literal

from compilers.tvm.common.forms import TensorForm
from registry.value import Value

LAUNCHES_NAME = "launches.json"
CODE_NAMES = {"cuda": "kernels.fatbin", "rocm": "kernels.hsaco"}
"""Kind of target → file with its machine code."""
BLOCK = 32
"""Positions of one block of the K cache."""
CHUNK = 128
"""Positions that attention takes at once; a row's capacity is a multiple of it."""

Count = Literal["tokens", "wanted"]
"""Number of tokens in a call; number of those whose logits are wanted."""


class GpuParameter(Value):
    """A buffer of weights: tensors of the weights file, one behind the other."""

    sources: tuple[str, ...]
    """Names in `weights.safetensors`; none: as many zeros as `rows` · `columns`."""
    rows: int
    columns: int
    """Elements of a row; rows that are shorter in the file get zeros behind them."""
    dtype: Literal["float32", "float16", "int8", "int4"]
    """As stored; vectors are widened to float32. int4: two codes in a byte."""


class Room(Value):
    """A buffer of intermediate results: float32 [count, width], zeros at first."""

    width: int
    count: Count


class Argument(Value):
    """What a kernel is given for one of its arguments."""

    kind: Literal["room", "parameter", "keys", "values", "batch", "number", "count", "capacity"]
    """A buffer by its name; the cache of a layer; the array of the call; a constant; a count of the call;
    positions that a row of the cache can hold."""
    name: str = ""
    """Of the room, parameter or count."""
    number: int = 0
    """The layer, or the constant."""


class Launch(Value):
    """One way to launch a step."""

    kernel: str
    at_most: int | None = None
    """Largest count that is launched so; None: any."""
    at_once: int = 1
    """Tokens of one block: the grid's y is the count divided by it, rounded up."""
    blocks: int
    """The grid's x."""


class LaunchStep(Value):
    """One kernel with its arguments; of several launches the first that takes the count is used."""

    launches: tuple[Launch, ...]
    count: Count
    arguments: dict[str, Argument]
    """By the kernel's own names; `grid_x` and `grid_y` are the grid's extents."""


class KernelForm(Value):
    """A kernel: how it was made, and how it is called."""

    template: str
    """Name in `templates.py`."""
    options: dict[str, str | int | float | bool | None]
    threads: int
    arguments: tuple[str, ...] = ()
    """Names in the order in which machine code takes them."""
    digest: str = ""
    """SHA-256 of the kernel's TIR, before it is made for a target."""


class GpuPlan(Value):
    """What the node side must know of the machine code."""

    schema_version: Literal[1] = 1
    layers: int
    kv_heads: int
    head_size: int
    vocab_size: int
    inv_freq: tuple[float, ...]
    """Rotary frequencies in radians per position."""
    rope_scale: float
    tensors: dict[str, TensorForm]
    """The weights file that the code was compiled for."""
    parameters: dict[str, GpuParameter]
    rooms: dict[str, Room]
    kernels: dict[str, KernelForm]
    steps: tuple[LaunchStep, ...]
    """In order; the room `logits` [wanted, vocabulary] is the result."""
