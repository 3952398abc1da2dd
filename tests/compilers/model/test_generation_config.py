"""Which tokens end a text, by `generation_config.json` and `config.json`; held against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, LlamaConfig

from compilers.model.generation_config import read_ends, settings_not_applied
from registry.errors import CheckpointError


def write(path: Path, config: object, generation: object | None) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


@pytest.mark.parametrize("generation", [None, {"eos_token_id": 7}, {"eos_token_id": [7, 9, 7]}])
@pytest.mark.parametrize("config", [{"eos_token_id": 5}, {"eos_token_id": [5, 6]}])
def test_ends_are_those_of_transformers(tmp_path: Path, config: dict[str, Any], generation: Any) -> None:
    write(tmp_path, {"model_type": "llama", **config}, generation)
    if generation is None:
        theirs = GenerationConfig.from_model_config(LlamaConfig.from_pretrained(tmp_path))
    else:
        theirs = GenerationConfig.from_pretrained(tmp_path)
    wanted = theirs.eos_token_id if isinstance(theirs.eos_token_id, list) else [theirs.eos_token_id]
    assert read_ends(tmp_path) == tuple(dict.fromkeys(wanted))


@pytest.mark.parametrize("generation", [{}, {"eos_token_id": None}, {"eos_token_id": []}])
def test_a_generation_config_that_names_no_end_leaves_it_to_config(tmp_path: Path, generation: Any) -> None:
    write(tmp_path, {"eos_token_id": 5}, generation)
    assert read_ends(tmp_path) == (5,)
    assert read_ends(tmp_path, otherwise=(2,)) == (2,)


@pytest.mark.parametrize("value", ["x", 3.5, -1, True, [3, None], [3, "x"], {"a": 1}])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_end_that_is_no_token_id_is_refused_by_name(tmp_path: Path, value: Any, name: str) -> None:
    write(tmp_path, {"eos_token_id": value} if name == "config.json" else {"eos_token_id": 5}, None)
    if name == "generation_config.json":
        write(tmp_path, {"eos_token_id": 5}, {"eos_token_id": value})
    with pytest.raises(CheckpointError, match="eos_token_id") as caught:
        read_ends(tmp_path)
    assert name in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", "3", "\ud800".encode("utf-8", "surrogatepass")])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, text: str | bytes) -> None:
    write(tmp_path, {}, None)
    (tmp_path / "generation_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read_ends(tmp_path)


def test_settings_that_change_greedy_text_are_listed_and_defaults_of_transformers_are_not(
    tmp_path: Path,
) -> None:
    GenerationConfig().save_pretrained(tmp_path)
    assert settings_not_applied(tmp_path) == {}
    GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, repetition_penalty=1.05, no_repeat_ngram_size=3
    ).save_pretrained(tmp_path)
    assert settings_not_applied(tmp_path) == {"repetition_penalty": 1.05, "no_repeat_ngram_size": 3}
    assert settings_not_applied(tmp_path / "absent") == {}
