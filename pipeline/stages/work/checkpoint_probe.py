"""Checkpoint → what torch computes with its own weights for the probe."""

from __future__ import annotations

from pathlib import Path

from compilers.check.probe import make_probe
from compilers.check.torch_precision import exact_logits, torch_error
from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.work.probe import read_texts, store_probe, tokenize
from registry.artifact import ModelFacts
from registry.store import Store


def probe_checkpoint(
    session: TorchSession, tokenizer: Tokenizer, *, calibration: Path | None, facts: ModelFacts, store: Store
) -> ProbeOutput:
    """Run the probe through a checkpoint and put both into the store.

    Raises:
        ConfigurationError: The calibration set is not in its format.
        CheckpointError: transformers computes another network than Rung's reading of config.json.
    """
    texts = tokenize(read_texts(calibration), tokenizer, longest=facts.max_context)
    sequences = make_probe(
        texts,
        vocab_size=facts.vocab_size,
        max_context=facts.max_context,
        window=session.architecture.largest_window,
    )
    exact = exact_logits(session, sequences)
    return store_probe(store, sequences, exact, error=torch_error(session, sequences, exact=exact))
