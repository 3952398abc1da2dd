"""Quantization of a whole checkpoint: the step from checkpoint and recipe to a variant's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from compilers.model.activations import INPUT, OUTPUT
from compilers.model.architecture import Architecture, expected_tensors
from compilers.model.weights import coded_weights, weights_layout
from compilers.quantize.canonical import to_stored, write_weights
from compilers.quantize.coded import CodedMatrix
from compilers.quantize.coverage import left_in_float
from compilers.quantize.gptq import GptqInput, Progress, gptq_codes
from compilers.quantize.ranges import RangeMeter
from compilers.quantize.rtn import round_to_nearest
from compilers.quantize.saved_layers import SavedLayers
from compilers.quantize.source import CheckpointTensors
from compilers.quantize.wide_inputs import find_wide_inputs
from registry.digest import Digest, digest_value
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.value import Value
from registry.variant import WEIGHTS_NAME
from registry.weight_form import OUTPUT_MATRIX, CodedWeights


class QuantizeReport(Value):
    """What quantization did to each matrix."""

    recipe: str
    errors: dict[str, float]
    """Quantized matrix → ‖W − Ŵ‖² / ‖W‖²."""
    left_in_float: tuple[str, ...]
    """Matrices that are not quantized: their inputs are no multiple of the group size, or the recipe leaves
    them in float."""
    wide_inputs: tuple[str, ...]
    """Quantized matrices whose inputs must not be rounded to 8 bits, sorted."""
    calibration_digest: Digest | None
    """Digest of the calibration token ids; None where none were used."""

    @property
    def mean_error(self) -> float | None:
        """Mean over the quantized matrices; None for floating-point recipes."""
        return sum(self.errors.values()) / len(self.errors) if self.errors else None


def quantize(
    checkpoint_dir: Path,
    recipe: Recipe,
    *,
    architecture: Architecture,
    out: Path,
    calibration: Sequence[Sequence[int]] | None = None,
    saved: Path | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write the variant's `weights.safetensors` into the directory `out`.

    Equal inputs give equal bytes. Integer recipes run the checkpoint on a few texts first, to find matrices
    whose inputs have outliers. After that one tensor at a time is in memory, except where the recipe needs
    calibration.

    Args:
        checkpoint_dir: Checkpoint in the Hugging Face layout.
        recipe: How weights are represented.
        architecture: Of the checkpoint.
        out: An existing directory.
        calibration: Token ids of the calibration texts; needed where `recipe.needs_calibration`. Outliers are
            looked for on random tokens if there are none.
        saved: A directory for layers that GPTQ has finished: a call that was killed goes on there, if the
            checkpoint is the same. None: each call starts at the first layer.
        threads: How many threads GPTQ uses; the bytes do not depend on it.
        progress: Told what is being done, on recipes that take long.

    Raises:
        CheckpointError: The weights do not fit the configuration or hold NaN.
        BuildError: No calibration set, or activations that are not finite, where they are needed; a weight
            that float16 cannot hold.
        StorageFullError: No space left.
    """
    tensors = CheckpointTensors(checkpoint_dir, architecture)
    texts = _calibration_texts(calibration, recipe, rows=architecture.vocab_size)
    matrices = coded_weights(architecture, recipe)
    wide = find_wide_inputs(checkpoint_dir, architecture, matrices, calibration or ())
    if recipe.method == "gptq":
        given = GptqInput(checkpoint_dir, architecture, matrices, texts)
        layers = SavedLayers(saved, _binding(given))
        quantized = gptq_codes(given, saved=layers, threads=threads, progress=progress or _silent)
    else:
        quantized = _rounded(tensors, architecture, matrices)
    errors: dict[str, float] = {}
    layout = weights_layout(architecture, recipe, wide_inputs=wide)
    static = {name for name, form in matrices.items() if form.activations == "int16-static"}
    meter = RangeMeter(checkpoint_dir, architecture) if static else None
    with write_weights(out / WEIGHTS_NAME, layout) as writer:
        for name in layout.tensors.keys() & expected_tensors(architecture).keys():
            writer.put(name, to_stored(tensors.read(name), layout.tensors[name], name=name))
        for matrix in quantized:
            writer.put_coded(matrix.name, matrix.coded, matrices[matrix.name])
            errors[matrix.name] = matrix.relative_error
            if meter is not None and matrix.name in static:
                meter.replace(matrix)
        for name, ranges in (meter.measure(texts) if meter is not None else {}).items():
            writer.put(f"{name}.{INPUT}", ranges.input)
            writer.put(f"{name}.{OUTPUT}", ranges.output)
    return QuantizeReport(
        recipe=recipe.name,
        errors=dict(sorted(errors.items())),
        left_in_float=left_in_float(architecture, recipe),
        wide_inputs=tuple(sorted(wide)),
        calibration_digest=digest_value(texts) if texts else None,
    )


def _rounded(
    tensors: CheckpointTensors, architecture: Architecture, matrices: Mapping[str, CodedWeights]
) -> Iterator[CodedMatrix]:
    for name, form in matrices.items():
        weight = tensors.read(architecture.lm_head if name == OUTPUT_MATRIX else name)
        yield CodedMatrix.of(name, weight, round_to_nearest(weight, form))


def _binding(given: GptqInput) -> Digest:
    forms = {name: form.name for name, form in given.matrices.items()}
    return digest_value({"forms": forms, "texts": [list(text) for text in given.texts]})


def _silent(text: str) -> None:
    pass


def _calibration_texts(
    calibration: Sequence[Sequence[int]] | None, recipe: Recipe, *, rows: int
) -> list[list[int]]:
    if not recipe.needs_calibration:
        return []
    texts = [list(text) for text in calibration or () if len(text) > 0]
    if not texts:
        raise BuildError(
            f"recipe `{recipe.name}` needs a calibration set, and there is no text in it",
            hint="give calibration texts, or take a recipe that needs none, such as those in `-rtn`",
        )
    last = max(max(text) for text in texts)
    if last >= rows:
        raise BuildError(
            f"the calibration texts hold the token id {last}, and the embedding has {rows} rows",
            hint="the tokenizer has tokens beyond the embedding: resize it, or take them out of the texts",
        )
    return texts
