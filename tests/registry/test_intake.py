from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.digest import digest_file
from registry.errors import CheckpointError
from registry.intake import read_checkpoint


def test_a_checkpoint_is_read_with_its_facts(make_checkpoint):
    path = make_checkpoint()
    facts = read_checkpoint(path)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.parameters == 16 * 8 + 8
    assert facts.licence == "unknown"
    assert facts.add_bos is False
    assert [file.path for file in facts.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert facts.files[0].digest == digest_file(path / "config.json")


def test_shards_are_one_checkpoint(make_checkpoint):
    facts = read_checkpoint(make_checkpoint(shards=2))
    assert facts.parameters == 16 * 8 + 8
    assert len(facts.files) == 5


def test_what_is_hidden_or_added_by_mlflow_does_not_change_the_digest(make_checkpoint):
    path = make_checkpoint()
    before = read_checkpoint(path)
    (path / ".git").mkdir()
    (path / ".git/config").write_text("x")
    (path / ".gitattributes").write_text("x")
    for name in ("MLmodel", "rung.json", "registered_model_meta"):
        (path / name).write_text("x")
    assert read_checkpoint(path) == before
    (path / "generation_config.json").write_text("{}")
    assert read_checkpoint(path).digest != before.digest


def test_links_of_a_hub_cache_are_followed(make_checkpoint, tmp_path):
    path = make_checkpoint()
    before = read_checkpoint(path)
    for file in list(path.iterdir()):
        file.rename(tmp_path / f"blob-{file.name}")
        file.symlink_to(tmp_path / f"blob-{file.name}")
    assert read_checkpoint(path) == before


def test_a_tied_head_that_is_stored_counts_once(make_checkpoint):
    path = make_checkpoint(tie_word_embeddings=True)
    embedding = np.ones((16, 8), np.float32)
    stored = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}
    save_file({**stored, "x.rotary_emb.inv_freq": np.ones(4, np.float32)}, path / "model.safetensors")
    assert read_checkpoint(path).parameters == 128


def write_json(path, **changes):
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps(document))


def torch_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: (p / "config.json").unlink(), r"no `config\.json`"),
        (lambda p: (p / "config.json").write_text("{"), r"config\.json` is not JSON"),
        (lambda p: (p / "config.json").write_bytes(b"\xff"), r"config\.json` is not JSON"),
        (lambda p: (p / "config.json").write_text("[]"), "JSON list, not an object"),
        (lambda p: (p / "config.json").write_text('{"a": NaN}'), "NaN is not JSON"),
        (lambda p: write_json(p / "config.json", architectures=None), "has no `architectures`"),
        (lambda p: write_json(p / "config.json", architectures=[]), "must be a list of names"),
        (lambda p: write_json(p / "config.json", architectures="Llama"), "must be a list of names"),
        (lambda p: write_json(p / "config.json", architectures=[3]), "must be a list of names"),
        (lambda p: write_json(p / "config.json", model_type="mistral"), "`model_type` is `mistral`"),
        (lambda p: write_json(p / "config.json", architectures=["Qwen3ForCausalLM"]), "is `llama`"),
        (lambda p: write_json(p / "config.json", model_type=None), "has no `model_type`"),
        (lambda p: write_json(p / "config.json", model_type=["llama"]), "has no `model_type`"),
        (lambda p: write_json(p / "config.json", hidden_size="8"), "hidden_size must be a positive integer"),
        (lambda p: write_json(p / "config.json", hidden_size=True), "hidden_size must be a positive integer"),
        (
            lambda p: write_json(p / "config.json", num_hidden_layers=-1),
            "num_hidden_layers must be a positive",
        ),
        (lambda p: (p / "model.safetensors").unlink(), r"holds no model\.safetensors"),
        (lambda p: (p / "model.safetensors").rename(p / "w.safetensors"), r"there is `w\.safetensors`"),
        (
            lambda p: (p / "model.safetensors").rename(p / "adapter_model.safetensors"),
            "an adapter, not a model",
        ),
        (lambda p: os.truncate(p / "model.safetensors", 300), "truncated"),
        (lambda p: (p / "model.safetensors.index.json").write_text("{}"), "holds both"),
        (lambda p: (p / "pytorch_model.bin").write_bytes(b""), r"pytorch_model\.bin` is pickled"),
        (lambda p: (p / "optimizer.PT").write_bytes(b""), r"optimizer\.PT` is pickled"),
        (lambda p: (p / "innocent.dat").write_bytes(pickle.dumps([1])), r"innocent\.dat` is pickled"),
        (lambda p: (p / "innocent").write_bytes(torch_archive()), "innocent` is pickled"),
        (lambda p: (p / "tokenizer.json").unlink(), r"no `tokenizer\.json`"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), "no model with a vocabulary"),
        (lambda p: write_json(p / "config.json", vocab_size=1), "token ids up to 1"),
        (lambda p: (p / "tokenizer_config.json").write_text("{"), r"tokenizer_config\.json` is not JSON"),
        (lambda p: (p / "link").symlink_to(p / "none"), "broken link"),
        (lambda p: (p / "folder").symlink_to(p.parent), "links to a directory"),
        (lambda p: os.mkfifo(p / "pipe"), "special file"),
        (lambda p: shutil.rmtree(p), "does not exist"),
    ],
)
def test_what_cannot_be_taken_in_is_named_with_a_remedy(make_checkpoint, change, said):
    path = make_checkpoint()
    change(path)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 3
    assert caught.value.hint


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(make_checkpoint, bad):
    path = make_checkpoint()
    save_file({"model.norm.weight": np.array([1, bad], np.float32)}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"`model\.norm\.weight` in .* holds NaN or infinity"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: {**m, "extra": "model-00001-of-00002.safetensors"}, "`extra` is not in shard"),
        (lambda m: {**m, "extra": "model-00003-of-00002.safetensors"}, "which is not there"),
        (lambda m: {**m, "model.norm.weight": "../model.safetensors"}, "no safetensors file there"),
        (lambda m: {**m, "model.norm.weight": 3}, "no safetensors file there"),
        (lambda m: dict(list(m.items())[:1]), "a shard that .* does not name"),
        (lambda m: dict(zip(m, reversed(list(m.values())), strict=True)), "does not place there"),
        (lambda m: {}, "no weight_map"),
        (lambda m: [], "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(make_checkpoint, change, said):
    path = make_checkpoint(shards=2)
    index = path / "model.safetensors.index.json"
    write_json(index, weight_map=change(json.loads(index.read_text())["weight_map"]))
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(path)


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize("bos_field", [True, False, None])
@pytest.mark.parametrize(
    "processor",
    [None, TEMPLATE, {"type": "Sequence", "processors": [BYTES, TEMPLATE]}, BYTES],
    ids=["none", "template", "sequence", "bytes"],
)
def test_add_bos_is_what_transformers_does(make_checkpoint, processor, bos_field):
    from transformers import PreTrainedTokenizerFast

    path = make_checkpoint()
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [{
            "id": 0, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }],
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": processor,
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "a": 1}, "unk_token": "a"},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if bos_field is not None:
        settings["add_bos_token"] = bos_field
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = PreTrainedTokenizerFast.from_pretrained(path)("a").input_ids
    assert read_checkpoint(path).add_bos == (theirs == [0, 1])


def test_a_prefix_that_is_not_bos_is_refused(make_checkpoint):
    path = make_checkpoint()
    write_json(path / "tokenizer.json", post_processor=TEMPLATE)
    (path / "tokenizer_config.json").write_text('{"bos_token": "[BOS]"}')
    with pytest.raises(CheckpointError, match=r"`<s>`, which is not the BOS token `\[BOS\]`"):
        read_checkpoint(path)


def surrounded(*before: str, after: tuple[str, ...] = ()) -> dict:
    def piece(token):
        return {"SpecialToken": {"id": token, "type_id": 0}}

    return {
        **TEMPLATE,
        "single": [*map(piece, before), TEMPLATE["single"][1], *map(piece, after)],
        "special_tokens": {t: {"id": t, "ids": [0], "tokens": [t]} for t in {*before, *after}},
    }


@pytest.mark.parametrize(
    "processor",
    [
        surrounded("<s>", after=("</s>",)),
        surrounded(after=("</s>",)),
        {"type": "Sequence", "processors": [BYTES, surrounded("<s>", after=("</s>",))]},
        {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True},
        {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]},
    ],
)
def test_a_post_processor_that_ends_prompts_is_refused(make_checkpoint, processor):
    path = make_checkpoint()
    write_json(path / "tokenizer.json", post_processor=processor)
    with pytest.raises(CheckpointError, match="ends each prompt with `</s>`") as caught:
        read_checkpoint(path)
    assert "post-processor" in caught.value.hint


def test_more_than_bos_before_each_prompt_is_refused(make_checkpoint):
    path = make_checkpoint()
    write_json(path / "tokenizer.json", post_processor=surrounded("[gMASK]", "<sop>"))
    with pytest.raises(CheckpointError, match=r"`\[gMASK\]` and `<sop>`"):
        read_checkpoint(path)


@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_beyond_the_embedding_are_named(make_checkpoint, special):
    path = make_checkpoint()
    token = {"id": 16, "content": "[PAD]", "special": special, "normalized": False}
    write_json(path / "tokenizer.json", added_tokens=[{**token, "id": 15, "content": "ok"}])
    read_checkpoint(path)
    write_json(path / "tokenizer.json", added_tokens=[token])
    with pytest.raises(CheckpointError, match=r"adds `\[PAD\]` \(16\) beyond the embedding") as caught:
        read_checkpoint(path)
    assert "resize_token_embeddings" in caught.value.hint
