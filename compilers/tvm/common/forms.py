"""Weight forms as TVM's kernels see them: what the weights file holds of each matrix.

Compiled code depends on the forms of the stored tensors and not on the recipe. Both halves, processors and
GPUs, read the forms here, so that they cannot differ in what a matrix is; each then says which forms it has
kernels for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from compilers.model.activations import INPUT
from compilers.model.network import Linear, Network
from compilers.model.weights import Layout
from registry.errors import BuildError
from registry.value import Value
from registry.weight_form import OUTPUT_MATRIX, CodedWeights, FloatWeights, WeightForm

FLOATS: Mapping[str, Literal["float32", "float16"]] = {"F32": "float32", "F16": "float16"}
_AGAIN = "export and quantize the checkpoint again"


class TensorForm(Value):
    """Form of a tensor of the weights file."""

    dtype: str
    """As safetensors names it: `F32`, `F16`, `U8`, `I8`."""
    shape: tuple[int, ...]


def forms_of(layout: Layout) -> dict[str, TensorForm]:
    """Types and shapes of the tensors of a weights file."""
    return {
        name: TensorForm(dtype=tensor.dtype, shape=tensor.shape) for name, tensor in layout.tensors.items()
    }


@dataclass(frozen=True, slots=True)
class StoredForms:
    """The forms of a weights file's tensors, and of the matrices that they make up."""

    tensors: Mapping[str, TensorForm]
    wide_inputs: frozenset[str] = frozenset()
    """Matrices of codes whose inputs must not be rounded to 8 bits."""

    def tensor(self, source: str) -> TensorForm:
        """A tensor's form.

        Raises:
            BuildError: The file has none of that name.
        """
        if source not in self.tensors:
            raise BuildError(f"the weights file has no `{source}`", hint=_AGAIN)
        return self.tensors[source]

    def float_type(self, source: str) -> Literal["float32", "float16"]:
        """The element type of a tensor of floats.

        Raises:
            BuildError: It is not there, or of another type.
        """
        tensor = self.tensor(source)
        if tensor.dtype not in FLOATS:
            raise BuildError(
                f"`{source}` is {tensor.dtype}, not F32 or F16", hint="quantize the checkpoint again"
            )
        return FLOATS[tensor.dtype]

    def matrix(self, part: Linear) -> WeightForm:
        """The form of a matrix; codes of whole rows take a byte each, and count as 8 bits.

        Raises:
            BuildError: The file does not hold it, or in no form of `registry/variant.py`.
        """
        codes = self.tensors.get(f"{part.weight}.codes")
        if codes is None:
            self._expect(part.weight, (part.rows, part.columns))
            return FloatWeights(self.float_type(part.weight))
        wide = part.weight in self.wide_inputs
        if codes.dtype == "I8" and codes.shape == (part.rows, part.columns):
            self._expect(f"{part.weight}.scales", (part.rows,))
            static = f"{part.weight}.{INPUT}" in self.tensors
            return CodedWeights(8, None, "int16-static" if static else "int8-dynamic", wide)
        groups = codes.shape[1] if len(codes.shape) == 3 else 0
        group = part.columns // groups if groups and part.columns % groups == 0 else 0
        self._expect(f"{part.weight}.scales", (part.rows, groups))
        if codes.dtype == "U8" and codes.shape[0] == part.rows and group:
            if codes.shape[-1] == group:
                return CodedWeights(8, group, wide_inputs=wide)
            if 2 * codes.shape[-1] == group:
                return CodedWeights(4, group, wide_inputs=wide)
        raise BuildError(
            f"`{part.weight}.codes` is {codes.dtype} {list(codes.shape)}, no known form of "
            f"{[part.rows, part.columns]}",
            hint="quantize the checkpoint again",
        )

    def joint(self, name: str, parts: tuple[Linear, ...]) -> WeightForm:
        """The form of several matrices that are multiplied as one, under the name `name`.

        Raises:
            BuildError: They differ in form; or as in `matrix`.
        """
        forms = {self.matrix(part) for part in parts}
        if len(forms) != 1:
            raise BuildError(
                f"`{name}` joins matrices of different forms: {sorted(form.name for form in forms)}",
                hint="quantize the checkpoint again",
            )
        return forms.pop()

    def output_matrix(self, network: Network) -> Linear:
        """The output matrix; one that is tied to the embedding may be quantized apart from it."""
        head = network.lm_head
        if head.weight == network.embedding and f"{OUTPUT_MATRIX}.codes" in self.tensors:
            return replace(head, weight=OUTPUT_MATRIX)
        return head

    def _expect(self, source: str, shape: tuple[int, ...]) -> None:
        if self.tensor(source).shape != shape:
            raise BuildError(
                f"`{source}` is {list(self.tensor(source).shape)}, the graph says {list(shape)}", hint=_AGAIN
            )


def no_kernels(name: str, form: WeightForm, *, units: str) -> BuildError:
    """The error for a form that one half has no kernels for."""
    return BuildError(
        f"`{name}` is stored as {form.name}: there are no {units} kernels for it",
        hint="choose a recipe that `rung matrix` shows as supported on this target",
    )
