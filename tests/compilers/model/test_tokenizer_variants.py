"""Tokenizers in the shapes of published checkpoints, with added tokens of all flags, against transformers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from compilers.model.tokenizer import Tokenizer

LINES = [f"Question: what is number {n}? Answer: it is {n * 7 % 91}. yes no\n" for n in range(300)]
ADDED = ("<a>", "<b>", "<w>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "hello world", " two  spaces ", "a\nb\n\n c", "number 7, is it?  yes no", "x<a>y <a> z<a>",
    "pre<|im_start|>user\nhi<|im_end|>\n", "<b> mid <b>x", "naïve café 名前 🙂 e\u0301", "it 's don 't . , !",
    "WORD word_word <w>in<w> a<w>b <w> c", "é<0x41>", "▁x ▁ y", "  ", "",
)  # fmt: skip


def byte_level() -> Backend:
    """As Llama 3: digits in threes, BOS by a template behind the byte-level processor."""
    backend = Backend(models.BPE())
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _bos(0)])
    return backend


def sentencepiece(scheme: str | None = None) -> Backend:
    """As Llama 2 and Mistral: `▁` for spaces by a normalizer, or by Metaspace in one of its schemes."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    ends: list[decoders.Decoder] = [decoders.ByteFallback(), decoders.Fuse()]
    if scheme is None:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), *ends, decoders.Strip(" ", 1, 0)])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        backend.decoder = decoders.Sequence([ends[0], decoders.Metaspace(prepend_scheme=scheme)])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    backend.train_from_iterator([line.strip() for line in LINES], trainer)
    backend.post_processor = _bos(1)
    return backend


def _bos(number: int) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", number)]
    )


SHAPES: dict[str, Callable[[], Backend]] = {
    "llama-3": byte_level,
    "llama-2": sentencepiece,
    "metaspace first": lambda: sentencepiece("first"),
    "metaspace always": lambda: sentencepiece("always"),
    "metaspace never": lambda: sentencepiece("never"),
}
SETTINGS: tuple[dict[str, object], ...] = ({}, {"clean_up_tokenization_spaces": True})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", SHAPES)
def test_ids_and_texts_are_those_of_transformers(tmp_path: Path, shape: str, seed: int) -> None:
    chance = random.Random(f"{shape} {seed}")
    backend = SHAPES[shape]()
    flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
    for text in ADDED:
        backend.add_tokens([AddedToken(text, **{flag: chance.random() < 0.5 for flag in flags})])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **SETTINGS[seed % 2]
    ).save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_directory(tmp_path, add_bos=True)
    rows = [[chance.randrange(len(theirs)) for _ in range(chance.randrange(1, 14))] for _ in range(40)]
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids, text
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_bos=False) == plain, text
        rows.append(plain)
    for row, skip in itertools.product(rows, (True, False)):
        assert ours.decode(row, skip_special_tokens=skip) == theirs.decode(row, skip_special_tokens=skip), row
    for row in rows:
        stream = ours.stream()
        pieces = [stream.push(number) for number in row]
        assert "".join([*pieces, stream.flush()]) == theirs.decode(row, skip_special_tokens=True), row
