"""The benchmark checkpoint: random weights of a Qwen2 shape, from a fixed seed.

Speed does not depend on the values of the weights, so nothing is downloaded. The weights are spread as a
trained network's are, so that logits differ between tokens and greedy outputs of two engines can be
compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.model.architecture import Architecture, Shape, expected_tensors, parameters, read_architecture
from compilers.model.weights import arrange
from registry.digest import Digest, digest_file, digest_value
from registry.value import Value

WEIGHTS = "model.safetensors"
FACTS = "benchmark.json"
MAKER = 1
"""Raised when equal shapes would give other bytes than before."""


class BenchmarkShape(Value):
    """Sizes of the benchmarked decoder."""

    name: str
    hidden_size: int = 896
    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    intermediate_size: int = 4864
    vocab_size: int = 32_000
    seed: int = 7

    def config(self) -> dict[str, Any]:  # Any: JSON
        """Its config.json; one token in the whole vocabulary ends a text, so greedy outputs hardly do."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "attention_dropout": 0.0,
            "use_cache": True,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": self.vocab_size - 1,
            "torch_dtype": "float32",
        }


FULL = BenchmarkShape(name="qwen2-0.4b")
"""Hidden 896, 24 layers, 415 M parameters."""
QUICK = BenchmarkShape(name="qwen2-4-layers", layers=4)
"""The same layers, four of them: for development."""


class BenchmarkCheckpoint(Value):
    """A checkpoint on disk."""

    shape: BenchmarkShape
    maker: int = MAKER
    parameters: int
    digest: Digest
    """Of the weights file."""
    size_bytes: int


def make_checkpoint(directory: Path, *, shape: BenchmarkShape) -> BenchmarkCheckpoint:
    """The checkpoint of a shape in `directory`; created unless a complete one exists."""
    if (kept := _kept(directory, shape)) is not None:
        return kept
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = shape.config()
    architecture = read_architecture(config, where=shape.name)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    _write_tokenizer(directory, shape)
    _write_weights(directory / WEIGHTS, architecture, seed=shape.seed)
    made = BenchmarkCheckpoint(
        shape=shape,
        parameters=parameters(architecture),
        digest=digest_file(directory / WEIGHTS),
        size_bytes=(directory / WEIGHTS).stat().st_size,
    )
    (directory / FACTS).write_text(made.model_dump_json(indent=2), encoding="utf-8")
    return made


def prompt_tokens(shape: BenchmarkShape, *, count: int, seed: int = 0) -> list[int]:
    """A prompt of `count` random token ids."""
    generator = np.random.default_rng([shape.seed, seed])
    return [int(token) for token in generator.integers(1, shape.vocab_size - 1, size=count)]


def _kept(directory: Path, shape: BenchmarkShape) -> BenchmarkCheckpoint | None:
    facts, weights = directory / FACTS, directory / WEIGHTS
    if not facts.is_file() or not weights.is_file():
        return None
    kept = json.loads(facts.read_bytes())
    if digest_value(kept.get("shape")) != digest_value(shape) or kept.get("maker") != MAKER:
        return None
    return BenchmarkCheckpoint.read_json(facts) if digest_file(weights) == kept["digest"] else None


def _write_weights(path: Path, architecture: Architecture, *, seed: int) -> None:
    """Write tensor by tensor, so that only one is in memory at a time."""
    shapes = expected_tensors(architecture)
    layout = arrange({name: ("F32", shape) for name, shape in shapes.items()})
    with path.open("wb") as stream:
        stream.write(layout.header)
        for name, values in _random_tensors(shapes, seed=seed):
            stream.seek(layout.tensors[name].offset)
            stream.write(values.data)


def _random_tensors(shapes: dict[str, Shape], *, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for index, (name, shape) in enumerate(shapes.items()):
        values = np.random.default_rng([seed, index]).standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:
            values *= np.float32(shape[1] ** -0.5)
        else:  # biases near zero, norms near one
            values *= np.float32(0.1)
            values += np.float32(name.endswith("norm.weight"))
        yield name, values


def _write_tokenizer(directory: Path, shape: BenchmarkShape) -> None:
    """One word per token: `w0 w1 …`, split at white space."""
    words = ["<bos>", *(f"w{index}" for index in range(1, shape.vocab_size - 1)), "<eos>"]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(0, "<bos>"), _added(shape.vocab_size - 1, "<eos>")],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "w1"},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _added(token_id: int, text: str) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": text, **flags}
