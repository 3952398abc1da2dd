"""Small checkpoints that answer, and the yardstick sessions over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compilers.model.tokenizer import Tokenizer
from tests.evals.torch_session import RecomputingSession

torch.set_num_threads(1)  # small models on shared cores: a second thread only waits


def make_word_checkpoint(directory: Path) -> Path:
    """Random weights with the demo family's word tokenizer, which adds BOS; all shipped prompts fit."""
    from pipeline.demo.tokenizer import save_tokenizer
    from tests.checkpoints import make_checkpoint

    save_tokenizer(directory)
    size = Tokenizer.from_directory(directory, add_bos=True).vocab_size
    return make_checkpoint(
        directory,
        vocab_size=size,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=512,
        spread=2.0,
        tokenizer=False,
    )


def make_byte_checkpoint(directory: Path) -> Path:
    """Random weights with a byte tokenizer without BOS; hardly a shipped prompt fits its 128 tokens."""
    from tests.checkpoints import make_checkpoint

    return make_checkpoint(directory, spread=2.0)


@pytest.fixture(scope="session")
def word_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_word_checkpoint(tmp_path_factory.mktemp("word"))


@pytest.fixture(scope="session")
def byte_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_byte_checkpoint(tmp_path_factory.mktemp("byte"))


@pytest.fixture(scope="session")
def flagship_checkpoint() -> Path:
    """The demo family's best checkpoint: trained on the shipped tasks."""
    import pipeline.demo

    return Path(pipeline.demo.__file__).parent / "family" / "flagship"


@pytest.fixture(scope="session")
def word_session(word_checkpoint: Path) -> RecomputingSession:
    return RecomputingSession.of(word_checkpoint)


@pytest.fixture(scope="session")
def word_tokenizer(word_checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_directory(word_checkpoint, add_bos=True)


@pytest.fixture(scope="session")
def byte_session(byte_checkpoint: Path) -> RecomputingSession:
    return RecomputingSession.of(byte_checkpoint)


@pytest.fixture(scope="session")
def byte_tokenizer(byte_checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_directory(byte_checkpoint, add_bos=False)
