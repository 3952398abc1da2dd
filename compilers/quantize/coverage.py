"""How much of a checkpoint a recipe quantizes: what it leaves in float, and whether that is too much.

A group size that does not divide the inputs of a matrix leaves that matrix in float32.
"""

from __future__ import annotations

import math

from compilers.model.architecture import Architecture, matrix_shapes
from compilers.model.weights import coded_weights
from registry.errors import BuildError, UnknownNameError
from registry.recipe import Recipe, parse_recipe

LEAST_SHARE = 0.5
"""Of the weights in matrices that a recipe must quantize to be worth its name."""
GROUPS = (128, 64, 32)
"""Group sizes that there are recipes for; of those that quantize as much, the first is proposed."""
FALLBACK = "w8a8-dynamic"
"""Takes any number of inputs."""


def left_in_float(architecture: Architecture, recipe: Recipe) -> tuple[str, ...]:
    """The matrices that an integer recipe leaves in float, sorted; none for a floating-point recipe."""
    if not recipe.is_quantized:
        return ()
    return tuple(sorted(matrix_shapes(architecture).keys() - coded_weights(architecture, recipe).keys()))


def quantized_share(architecture: Architecture, recipe: Recipe) -> float:
    """The share of the weights in matrices that a recipe quantizes, 0 to 1."""
    sizes = {name: math.prod(shape) for name, shape in matrix_shapes(architecture).items()}
    left = sum(sizes[name] for name in left_in_float(architecture, recipe))
    return 1.0 - left / sum(sizes.values())


def check_coverage(architecture: Architecture, recipe: Recipe) -> None:
    """Refuse an integer recipe that leaves most of a checkpoint in float.

    Raises:
        BuildError: It quantizes less than half of the weights; the hint has the recipe to take instead.
    """
    if not recipe.is_quantized or (share := quantized_share(architecture, recipe)) >= LEAST_SHARE:
        return
    left = left_in_float(architecture, recipe)
    raise BuildError(
        f"`{recipe.name}` would quantize {100 * share:.0f} % of the weights: groups of {recipe.group_size} "
        f"do not divide the inputs of {len(left)} of {len(matrix_shapes(architecture))} matrices, such as "
        f"`{left[0]}`, which would be left in float",
        hint=f"take `{_instead(architecture, recipe)}`",
    )


def _instead(architecture: Architecture, recipe: Recipe) -> str:
    """The nearest recipe that quantizes at least half: the same with another group size, if there is one."""
    shares: dict[str, float] = {}
    for group in GROUPS:
        name = recipe.name.replace(f"g{recipe.group_size}-", f"g{group}-")
        try:
            shares[name] = quantized_share(architecture, parse_recipe(name))
        except UnknownNameError:
            continue
    best = max(shares, key=lambda name: shares[name], default=FALLBACK)
    return best if shares.get(best, 0.0) >= LEAST_SHARE else FALLBACK
