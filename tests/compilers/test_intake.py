"""Checkpoints that no compiler could use are refused at registration, by name and with a remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from compilers.intake import check_compilable
from compilers.model.architecture import read_architecture
from compilers.quantize.variant import quantize
from registry.errors import BuildError, CheckpointError
from registry.intake import read_checkpoint
from registry.recipe import parse_recipe

State = dict[str, torch.Tensor]
Change = Callable[[State], object]
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
ROWS = 300


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family, as transformers saves it."""
    place = tmp_path_factory.mktemp("saved")
    return {family: save(place / family, family) for family in FAMILIES}


def save(path: Path, family: str) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{family}Config")(
        **sizes, vocab_size=ROWS, num_key_value_heads=1, head_dim=8, max_position_embeddings=64
    )
    config.tie_word_embeddings = False
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(path)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=ROWS,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"number {n} of many, and so on" for n in range(200)], trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)
    return path


def refusal(path: Path) -> CheckpointError:
    read_checkpoint(path)
    with pytest.raises(CheckpointError) as caught:
        check_compilable(path)
    return caught.value


def altered(source: Path, out: Path, change: Change | None = None, **config: Any) -> Path:
    shutil.copytree(source, out)
    file = out / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    if change is not None:
        state = load_file(out / "model.safetensors")
        change(state)
        save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


def renamed(state: State, name: Callable[[str], str]) -> None:
    for old in list(state):
        state[name(old)] = state.pop(old)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_passes(saved: dict[str, Path], family: str) -> None:
    read_checkpoint(saved[family])
    check_compilable(saved[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_tensor_that_is_missing_or_misshapen_is_named(
    saved: dict[str, Path], tmp_path: Path, family: str
) -> None:
    for number, name in enumerate(load_file(saved[family] / "model.safetensors")):
        path = altered(saved[family], tmp_path / f"{number}", lambda state, name=name: state.pop(name))
        assert f"`{name}`" in refusal(path).message
        path = altered(
            saved[family],
            tmp_path / f"{number}s",
            lambda state, name=name: state.update({name: state[name][:-1].clone()}),
        )
        assert f"`{name}` has shape" in refusal(path).message


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda s: s.update({"model.layers.0.x.weight": torch.ones(3)}), "layers.0.x.weight", "drop it"),
        (lambda s: s.update({"model.layers.2.x": torch.ones(3)}), "layers.2.x", "num_hidden_layers"),
        (lambda s: s.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}), "q_proj.bias", "bias"),
        (
            lambda s: s.update({"model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(4, 16)}),
            "lora_A",
            "merge",
        ),
        (lambda s: s.pop("lm_head.weight"), "`lm_head.weight`", "tie_word_embeddings"),
        (lambda s: s.update({"model.norm.weight": torch.ones(0)}), "shape [0]", "ZeRO-3"),
        (lambda s: s.update({"model.embed_tokens.weight": torch.ones(320, 16)}), "[320, 16]", "vocab_size"),
        (
            lambda s: s.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}),
            "element type I8",
            "float",
        ),
        (lambda s: renamed(s, lambda name: f"_orig_mod.{name}"), "missing", "`_orig_mod.`"),
        (lambda s: renamed(s, lambda name: f"module.{name}"), "missing", "`module.`"),
        (lambda s: renamed(s, lambda name: f"base_model.model.{name}"), "missing", "`base_model.model.`"),
        (lambda s: renamed(s, lambda name: name.removeprefix("model.")), "missing", "lack `model.`"),
    ],
)
def test_what_is_likely_behind_wrong_tensors_is_said(
    saved: dict[str, Path], tmp_path: Path, change: Change, message: str, hint: str
) -> None:
    error = refusal(altered(saved["Llama"], tmp_path / "x", change))
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
)
def test_rotary_frequencies_of_old_versions_are_tolerated(
    saved: dict[str, Path], tmp_path: Path, name: str
) -> None:
    check_compilable(altered(saved["Llama"], tmp_path / "x", lambda s: s.update({name: torch.ones(4)})))


def test_a_tied_output_matrix_may_be_stored_if_it_is_the_embedding(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    def same(state: State) -> None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()

    source = saved["Llama"]
    check_compilable(altered(source, tmp_path / "same", same, tie_word_embeddings=True))
    check_compilable(
        altered(source, tmp_path / "none", lambda s: s.pop("lm_head.weight"), tie_word_embeddings=True)
    )
    error = refusal(altered(source, tmp_path / "other", tie_word_embeddings=True))
    assert "`lm_head.weight` differs" in error.message
    assert "tie_word_embeddings" in error.hint


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        ({"pad_token": "[PAD]"}, "[PAD]"),
        ({"additional_special_tokens": ["<a>"]}, "<a>"),
        ({"extra_special_tokens": {"image_token": "<img>"}}, "<img>"),
        ({"added_tokens_decoder": {"300": {"content": "<new>", "special": False}}}, "<new>"),
    ],
)
def test_tokens_that_the_settings_add_beyond_the_embedding_are_named(
    saved: dict[str, Path], tmp_path: Path, settings: dict[str, Any], token: str
) -> None:
    path = altered(saved["Llama"], tmp_path / "x")
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert theirs.convert_tokens_to_ids(token) >= ROWS
    error = refusal(path)
    assert f"`{token}` ({ROWS})" in error.message
    assert "resize_token_embeddings" in error.hint


def test_an_architecture_that_no_compiler_knows_is_left_to_the_export(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    check_compilable(altered(saved["Llama"], tmp_path / "x", architectures=["OtherForCausalLM"]))


@pytest.mark.parametrize("recipe", ["w4g32-gptq", "w8g32-gptq"])
def test_calibration_beyond_the_embedding_is_refused_by_its_id(
    saved: dict[str, Path], tmp_path: Path, recipe: str
) -> None:
    path = saved["Llama"]
    architecture = read_architecture(json.loads((path / "config.json").read_text()), where="config.json")
    with pytest.raises(BuildError, match=f"token id {ROWS}, and the embedding has {ROWS} rows"):
        quantize(
            path,
            parse_recipe(recipe),
            architecture=architecture,
            out=tmp_path,
            calibration=[[3, 4, ROWS, 5]],
        )
