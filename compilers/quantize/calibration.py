"""Calibration texts on their way through the layers of a checkpoint: what goes into each matrix.

transformers runs the layers; batches of texts are worked on in parallel, one thread each. Sums are added in
the order of the batches, so that no result depends on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import torch

from compilers.model.torch_reference import CACHE_NAMES
from registry.errors import BuildError

T = TypeVar("T")
R = TypeVar("R")
Untyped: TypeAlias = Any
"""What transformers passes around: its models have no types that hold."""

BATCH_TOKENS = 512
"""Positions of a batch unless one text is longer: few, so that there is work for every thread."""


STRIPE = 256
"""Rows of a symmetric product that are computed at once."""


class TorchThreads:
    """Threads that each run torch on one core; a context manager.

    Args:
        threads: How many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
        self._before = torch.get_num_threads()

    def __enter__(self) -> TorchThreads:
        """One core for each call of torch."""
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the threads, and give torch its own back."""
        self._pool.shutdown()
        torch.set_num_threads(self._before)

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of every item, in their order; without gradients."""

        def call(item: T) -> R:
            with torch.no_grad():  # a setting of the thread
                return function(item)

        return list(self._pool.map(call, items))


@dataclass(slots=True)
class _Batch:
    """Texts of similar length."""

    real: torch.Tensor
    """bool [batch, seq]: which positions are no padding."""
    arguments: list[dict[str, Untyped]]
    """Per layer: what transformers passes to it beside the hidden state."""
    hidden: torch.Tensor
    """float32 [batch, seq, hidden]: the input of the next layer."""


class Calibration:
    """The hidden states of all texts in front of one layer after the other; made by `enter`."""

    def __init__(self, model: Untyped, batches: Sequence[_Batch], *, work: TorchThreads) -> None:
        self._model = model
        self._batches = batches
        self._work = work

    @classmethod
    def enter(cls, model: Untyped, texts: Sequence[list[int]], *, work: TorchThreads) -> Calibration:
        """The state in front of the first layer.

        Args:
            model: Of transformers.
            texts: Token ids.
            work: Where batches run.
        """
        batches = [_enter(model, tokens, real) for tokens, real in batched(texts)]
        return cls(model, batches, work=work)

    def hessians(
        self, index: int, linears: Mapping[str, torch.nn.Module]
    ) -> dict[tuple[str, ...], torch.Tensor]:
        """Σ x xᵀ over the inputs x of matrices in a layer, float64; those with one input have one sum."""
        layer = self._model.model.layers[index]
        sums: dict[tuple[str, ...], torch.Tensor] = {}
        with _watched(linears) as seen:

            def products(batch: _Batch) -> dict[tuple[str, ...], torch.Tensor]:
                inputs = seen.during(lambda: _run(layer, index, batch))
                return {names: _product(value[batch.real]) for names, value in inputs.items()}

            # A few batches at a time: their products wait in memory until they are added.
            for some in _windows(self._batches, self._work.threads):
                for found in self._work.each(products, some):
                    for names, product in found.items():
                        sums[names] = sums[names].add_(product) if names in sums else product
        return sums

    def advance(self, index: int) -> None:
        """Run a layer, as its weights are now.

        Raises:
            BuildError: A hidden state is not finite.
        """
        layer = self._model.model.layers[index]
        hidden = self._work.each(lambda batch: _run(layer, index, batch), self._batches)
        for batch, value in zip(self._batches, hidden, strict=True):
            if not bool(torch.isfinite(value[batch.real]).all()):
                raise BuildError(
                    f"the activations that come out of `model.layers.{index}` are not finite",
                    hint="weights this large overflow in float32: check the checkpoint, or take a recipe in "
                    "`-rtn`",
                )
            batch.hidden = value

    def head_hessian(self) -> torch.Tensor:
        """The same sum for the output matrix, behind the last layer."""

        def product(batch: _Batch) -> torch.Tensor:
            return _product(self._model.model.norm(batch.hidden)[batch.real])

        found = self._work.each(product, self._batches)
        return torch.stack(found).sum(0)


def batched(texts: Iterable[list[int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Texts of similar length, right-padded, at most `BATCH_TOKENS` positions unless one text is longer."""
    waiting: list[list[int]] = []
    for text in [*sorted(texts, key=len), []]:
        if waiting and (not text or (len(waiting) + 1) * len(text) > BATCH_TOKENS):
            width = len(waiting[-1])
            tokens = torch.tensor([row + [0] * (width - len(row)) for row in waiting])
            real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in waiting])
            yield tokens, real
            waiting = []
        waiting.append(text)


def _windows(batches: Sequence[_Batch], size: int) -> Iterator[Sequence[_Batch]]:
    for start in range(0, len(batches), size):
        yield batches[start : start + size]


def _product(rows: torch.Tensor) -> torch.Tensor:
    """xᵀ x of float32 rows, float64. Values whose squares float32 cannot hold are multiplied in float64."""
    product = _square(rows).to(torch.float64)
    if not bool(torch.isfinite(product).all()):
        return _square(rows.to(torch.float64))
    return product


def _square(rows: torch.Tensor) -> torch.Tensor:
    """xᵀ x: what is above the diagonal is computed, in stripes, and mirrored."""
    width = rows.shape[1]
    product = rows.new_empty(width, width)
    for start in range(0, width, STRIPE):
        end = min(start + STRIPE, width)
        stripe = rows[:, start:end].T @ rows[:, start:]
        product[start:end, start:] = stripe
        product[end:, start:end] = stripe[:, end - start :].T
    return product


def _enter(model: Untyped, tokens: torch.Tensor, real: torch.Tensor) -> _Batch:
    """What transformers passes to each layer, from a call in which only the first one computes anything."""
    arguments: list[dict[str, Untyped]] = []
    first: list[torch.Tensor] = []
    outputs: list[Untyped] = []

    def watch(module: torch.nn.Module, positional: Sequence[torch.Tensor], named: dict[str, Untyped]) -> None:
        first.append(positional[0])
        arguments.append({key: value for key, value in named.items() if key not in CACHE_NAMES})

    layers = list(model.model.layers)
    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(watch, with_kwargs=True).remove)
        stack.callback(layers[0].register_forward_hook(lambda *call: outputs.append(call[2])).remove)
        for layer in layers[1:]:
            layer.forward = lambda *_, **__: outputs[0]
            stack.callback(delattr, layer, "forward")
        model.model(input_ids=tokens, attention_mask=real.long(), use_cache=False)
    return _Batch(real=real, arguments=arguments, hidden=first[0])


def _run(layer: torch.nn.Module, index: int, batch: _Batch) -> torch.Tensor:
    output = layer(batch.hidden, **batch.arguments[index])
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


class _AllSeen(Exception):  # noqa: N818  ends a call that is of no more use; nothing went wrong
    """Ends a call when every module had its input: what the last one makes of it is not needed."""


class _Seen(threading.local):
    """Inputs of modules during a call in this thread."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._inputs: dict[str, torch.Tensor] = {}

    def add(self, name: str, value: torch.Tensor) -> None:
        """An input of the module `name`.

        Raises:
            _AllSeen: It was the last.
        """
        self._inputs[name] = value
        if len(self._inputs) == self._count:
            raise _AllSeen

    def during(self, call: Callable[[], object]) -> dict[tuple[str, ...], torch.Tensor]:
        """The inputs that modules get in a call, by the names of the modules that get the same tensor."""
        self._inputs = {}
        with suppress(_AllSeen):
            call()
        names: dict[int, list[str]] = {}
        for name, value in self._inputs.items():
            names.setdefault(id(value), []).append(name)
        return {tuple(alike): self._inputs[alike[0]] for alike in names.values()}


@contextmanager
def _watched(modules: Mapping[str, torch.nn.Module]) -> Iterator[_Seen]:
    seen = _Seen(len(modules))

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs: seen.add(name, inputs[0])

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(watch(name)).remove)
        yield seen
