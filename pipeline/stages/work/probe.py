"""The probe of a checkpoint: which tokens, and what torch says about them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compilers.check.float_error import FloatError
from compilers.model.tokenizer import Tokenizer
from compilers.runtime import FloatArray
from pipeline.stages.probe import ProbeOutput
from registry.errors import BuildError, ConfigurationError
from registry.store import Store


def read_texts(path: Path | None) -> list[str]:
    """The texts of a calibration set; none without one.

    Raises:
        ConfigurationError: A line is not a JSON object with a field `text`.
    """
    if path is None:
        return []
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"calibration set `{path}`, line {number} has no text", hint='each line is `{"text": "…"}`'
            ) from error
        texts.append(str(text))
    return texts


def tokenize(texts: Sequence[str], tokenizer: Tokenizer, *, longest: int) -> list[list[int]]:
    """Token ids of each text, cut at `longest`; empty ones are left out."""
    return [ids[:longest] for ids in tokenizer.encode_batch(texts) if ids]


def store_probe(
    store: Store, sequences: Sequence[Sequence[int]], logits: FloatArray, *, error: FloatError | None = None
) -> ProbeOutput:
    """Put a probe, its logits and torch's error into the store."""
    buffer = io.BytesIO()
    np.save(buffer, logits, allow_pickle=False)
    tokens = json.dumps([list(sequence) for sequence in sequences]).encode()
    return ProbeOutput(
        tokens=store.add_bytes(tokens).digest,
        logits=store.add_bytes(buffer.getvalue()).digest,
        float_error=None if error is None else store.add_bytes(error.to_bytes()).digest,
    )


def load_probe(store: Store, output: ProbeOutput) -> tuple[list[list[int]], FloatArray]:
    """The probe's token sequences and their logits."""
    logits = np.load(io.BytesIO(store.read_bytes(output.logits)), allow_pickle=False)
    return json.loads(store.read_bytes(output.tokens)), logits


def load_error(store: Store, checkpoint: ProbeOutput) -> FloatError:
    """How far torch's float32 is from its float64 for a checkpoint.

    Raises:
        BuildError: The probe was made by a version of Rung that did not measure it.
    """
    if checkpoint.float_error is None:
        raise BuildError(
            "the probe of the checkpoint does not say how exact torch's float32 is",
            hint="run `rung build` again on the build machine, and export the kit again",
        )
    return FloatError.from_bytes(store.read_bytes(checkpoint.float_error))
