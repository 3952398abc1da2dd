"""Weight forms are read back from a file as the recipe had them."""

from __future__ import annotations

import pytest

from compilers.model.architecture import matrix_shapes, read_architecture
from compilers.model.network import Linear
from compilers.model.weights import coded_weights, weights_layout
from compilers.tvm.common.forms import StoredForms, TensorForm
from compilers.tvm.cpu.parameters import kernel_form as cpu_form
from compilers.tvm.gpu.program import kernel_form as gpu_form
from registry.errors import BuildError
from registry.recipe import KNOWN, parse_recipe
from registry.weight_form import CodedWeights, FloatWeights
from tests.checkpoints import TINY

ARCHITECTURE = read_architecture(
    {**TINY, "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 100},
    where="config.json",
)


def stored(recipe: str) -> StoredForms:
    layout = weights_layout(ARCHITECTURE, parse_recipe(recipe))
    return StoredForms({n: TensorForm(dtype=t.dtype, shape=t.shape) for n, t in layout.tensors.items()})


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "w4a16"])
def test_the_form_in_the_file_is_the_form_in_the_recipe(name: str) -> None:
    recipe, forms = parse_recipe(name), stored(name)
    coded = coded_weights(ARCHITECTURE, recipe)
    for matrix, (rows, columns) in matrix_shapes(ARCHITECTURE).items():
        expected = recipe.form(matrix)
        if isinstance(expected, CodedWeights) and matrix not in coded:
            expected = FloatWeights()
        assert forms.matrix(Linear(matrix, None, rows, columns)) == expected, matrix


@pytest.mark.parametrize("name", ["w8a16", "w4a16"])
def test_static_activations_have_kernels_nowhere(name: str) -> None:
    rows, columns = matrix_shapes(ARCHITECTURE)["lm_head.weight"]
    form = stored(name).joint("lm_head", (Linear("lm_head.weight", None, rows, columns),))
    for kernel_form, units in ((cpu_form, "CPU"), (gpu_form, "GPU")):
        with pytest.raises(BuildError, match=f"no {units} kernels"):
            kernel_form("lm_head", form)


def test_matrices_of_different_forms_are_not_joined() -> None:
    forms = StoredForms(
        {
            "q": TensorForm(dtype="F32", shape=(8, 64)),
            "k.codes": TensorForm(dtype="U8", shape=(8, 2, 16)),
            "k.scales": TensorForm(dtype="F32", shape=(8, 2)),
        }
    )
    parts = (Linear("q", None, 8, 64), Linear("k", None, 8, 64))
    with pytest.raises(BuildError, match="`qk` joins matrices of different forms"):
        forms.joint("qk", parts)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "has no `w`"),
        ({"w": ("I32", (8, 64))}, "`w` is I32, not F32 or F16"),
        ({"w": ("F32", (8, 63))}, r"`w` is \[8, 63\], the graph says \[8, 64\]"),
        ({"w.codes": ("U8", (8, 3, 16)), "w.scales": ("F32", (8, 3))}, "no known form"),
        ({"w.codes": ("U8", (8, 2, 8)), "w.scales": ("F32", (8, 2))}, "no known form"),
        ({"w.codes": ("I8", (8, 64)), "w.scales": ("F32", (8, 1))}, r"`w.scales` is \[8, 1\]"),
    ],
)
def test_a_matrix_in_no_known_form_is_refused_by_name(
    tensors: dict[str, tuple[str, tuple[int, ...]]], said: str
) -> None:
    forms = StoredForms({name: TensorForm(dtype=d, shape=s) for name, (d, s) in tensors.items()})
    with pytest.raises(BuildError, match=said):
        forms.matrix(Linear("w", None, 8, 64))
