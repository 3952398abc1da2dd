"""The reference: a checkpoint run by torch and transformers behind the same session as every artifact.

Build side only. Parity, KL divergence and reference scorecards are measured against it, with the checkpoint's
own weights or with those that a variant's codes stand for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from compilers.export.architecture import read_architecture  # noqa: F401
from registry.errors import CheckpointError


def load_model(checkpoint_dir: Path) -> Any:  # Any: a transformers model
    """The checkpoint as a float32 transformers model in evaluation mode, read from this directory alone.

    Raises:
        CheckpointError: transformers cannot read it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint_dir, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"`{checkpoint_dir}` cannot be read by transformers: {error}",
            hint="it must be a checkpoint in the Hugging Face layout; take it from its source again",
        ) from error
    return model.eval()
