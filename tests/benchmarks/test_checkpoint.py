from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.checkpoint import FULL, make_checkpoint, prompt_tokens
from compilers.model.architecture import parameters, read_architecture
from compilers.model.tokenizer import Tokenizer
from tests.benchmarks.tiny import SHAPE


def test_the_full_shape_has_0_4_billion_parameters():
    architecture = read_architecture(FULL.config(), where="full")

    assert 0.40e9 < parameters(architecture) < 0.43e9


def test_a_whole_checkpoint_is_used_again_and_a_damaged_one_is_made_anew(tmp_path: Path):
    first = make_checkpoint(tmp_path / "c", shape=SHAPE)
    weights = tmp_path / "c" / "model.safetensors"
    before = weights.stat().st_mtime_ns

    assert make_checkpoint(tmp_path / "c", shape=SHAPE) == first
    assert weights.stat().st_mtime_ns == before

    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    assert make_checkpoint(tmp_path / "c", shape=SHAPE) == first
    assert weights.stat().st_mtime_ns != before


def test_another_shape_in_the_same_place_is_another_checkpoint(tmp_path: Path):
    first = make_checkpoint(tmp_path / "c", shape=SHAPE)
    wider = SHAPE.model_copy(update={"intermediate_size": 192})

    assert make_checkpoint(tmp_path / "c", shape=wider).digest != first.digest
    assert json.loads((tmp_path / "c" / "config.json").read_bytes())["intermediate_size"] == 192


def test_weights_are_spread_as_a_network_needs_them(tmp_path: Path):
    make_checkpoint(tmp_path / "c", shape=SHAPE)
    tensors = load_file(tmp_path / "c" / "model.safetensors")

    up = tensors["model.layers.0.mlp.up_proj.weight"]
    assert abs(np.std(up) * 8 - 1) < 0.05
    assert abs(np.mean(tensors["model.norm.weight"]) - 1) < 0.1
    assert np.any(tensors["model.layers.0.self_attn.q_proj.bias"])


def test_the_tokenizer_gives_every_token_a_word_of_its_own(tmp_path: Path):
    make_checkpoint(tmp_path / "c", shape=SHAPE)
    tokenizer = Tokenizer.from_directory(tmp_path / "c", add_bos=False)
    ids = prompt_tokens(SHAPE, count=40)

    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_prompts_differ_by_seed_and_by_nothing_else():
    assert prompt_tokens(SHAPE, count=16, seed=1) == prompt_tokens(SHAPE, count=16, seed=1)
    assert prompt_tokens(SHAPE, count=16, seed=1) != prompt_tokens(SHAPE, count=16, seed=2)
