"""The tokenizer of a checkpoint, on build machine and serving node alike.

It reads the Hugging Face layout with `tokenizers` and `jinja2` alone and gives what transformers'
`AutoTokenizer` gives for the same directory. One thing it does not leave to the tokenizer's files: whether
BOS stands before a prompt. That is `add_bos` of the checkpoint's record, given to every backend, because
backends guess differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import tokenizers

from compilers.model.chat_template import CONFIG_FILE, ChatTemplate, Message, read_chat_template
from compilers.model.generation_config import read_ends
from compilers.model.tokenizer_files import (
    TOKENIZER_FILE,
    add_tokens,
    read_backend,
    read_settings,
    token_content,
)
from registry.errors import CheckpointError
from registry.post_processor import Affixes, read_affixes

_REPLACEMENT = "�"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
"""How SentencePiece writes a byte that no token covers."""
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + place): byte for place, byte in enumerate(sorted({*range(256)} - {*_PRINTED}))
}
"""Letters of byte-level tokens → bytes (`bytes_to_unicode` of GPT-2's published encoder)."""
_CLEAN_UP = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {tail}", tail) for tail in ("n't", "'m", "'s", "'ve", "'re")),
)
"""Replacements of `clean_up_tokenization_spaces`, in transformers' order (`tokenization_utils_base.py`)."""


class Tokenizer:
    """Text to token ids and back. Safe for concurrent calls.

    Args:
        backend: The tokenizer that `tokenizer.json` describes, with all special tokens of its configuration.
        add_bos: Whether BOS stands before a prompt, from the checkpoint's record.
        special_tokens: `bos_token` … → text.
        eos_token_ids: Ids that end a generation.
        chat_template: Template of the checkpoint.
        cleans_up: Whether spaces before punctuation are removed in decoded text.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        add_bos: bool,
        special_tokens: Mapping[str, str],
        eos_token_ids: Sequence[int],
        chat_template: ChatTemplate,
        cleans_up: bool = False,
    ) -> None:
        self._backend = backend
        self._cleans_up = cleans_up
        self.add_bos = add_bos
        self.special_tokens = dict(special_tokens)
        self.bos_token = self.special_tokens.get("bos_token")
        self.eos_token = self.special_tokens.get("eos_token")
        self.bos_token_id = self._id_of(self.bos_token)
        # The post-processor may write a token that the configuration does not name.
        self._prefix = self.bos_token or next(iter(_affixes(backend).before), None)
        self._prefix_id = self._id_of(self._prefix)
        self.eos_token_id = self._id_of(self.eos_token)
        self.eos_token_ids = tuple(dict.fromkeys(eos_token_ids))
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.special_ids = frozenset(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )
        """Ids whose text is left out of decoded text."""
        self.chat_template = chat_template
        self._added = dict(backend.get_added_tokens_decoder())
        self._special_texts = tuple(token.content for token in self._added.values() if token.special)
        self._inner_texts: dict[int, str] = {}
        self._decoders = _decoder_types(backend)
        if add_bos and self._prefix_id is None:
            raise CheckpointError(
                f"the tokenizer at `{chat_template.where}` has no BOS token to add",
                hint=f"set `bos_token` in {CONFIG_FILE}, or register the checkpoint without `add_bos`",
            )

    @classmethod
    def from_directory(cls, path: Path, *, add_bos: bool, eos_token_ids: Sequence[int] | None = None) -> Self:
        """The tokenizer of a checkpoint or bundle directory.

        Args:
            path: Directory with `tokenizer.json` and mostly `tokenizer_config.json`.
            add_bos: Whether BOS stands before a prompt, from the checkpoint's record.
            eos_token_ids: Ids that end a generation, from the manifest; None: from `generation_config.json`
                or `config.json` in the directory. The tokenizer's own EOS is always one of them.

        Raises:
            CheckpointError: A file is missing or damaged, or `add_bos` without a BOS token.
            ConfigurationError: The chat template has an unknown form.
        """
        backend = read_backend(path / TOKENIZER_FILE)
        settings = read_settings(path)
        config = settings.config
        special = {
            name: text for name, token in settings.named.items() if (text := token_content(token)) is not None
        }
        add_tokens(backend, settings)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = config.get("split_special_tokens") is True
        is_bpe = type(backend.model).__name__ == "BPE"
        forced = config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output") is True
        given = read_ends(path) if eos_token_ids is None else tuple(eos_token_ids)
        own = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
        return cls(
            backend,
            add_bos=add_bos,
            special_tokens=special,
            eos_token_ids=given if own is None else (*given, own),
            chat_template=read_chat_template(path, config=config, special_tokens=special),
            cleans_up=config.get("clean_up_tokenization_spaces") is True and (forced or not is_bpe),
        )

    def encode(self, text: str, *, add_bos: bool | None = None) -> list[int]:
        """The ids of a text.

        Args:
            text: Any text; special tokens written in it become their ids.
            add_bos: Whether BOS stands first; None: as the checkpoint's record says. Never twice: a text that
                begins with BOS keeps the one it has.
        """
        return self.encode_batch([text], add_bos=add_bos)[0]

    def encode_batch(self, texts: Sequence[str], *, add_bos: bool | None = None) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, in one call."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        wanted = self.add_bos if add_bos is None else add_bos
        if not wanted or self._prefix_id is None or self._prefix is None:
            return [encoding.ids for encoding in encodings]
        prefix, bos = self._prefix, [self._prefix_id]
        return [
            encoding.ids if text.startswith(prefix) else bos + encoding.ids
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some ids."""
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return self._clean(text) if self._cleans_up else text

    def decode_batch(self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each row of ids."""
        # Not the backend's `decode_batch`: for rows of a few tokens its threads cost more than they save.
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def token_text(self, token_id: int) -> str:
        """The text of one id on its own, special tokens included; empty for an id outside the vocabulary."""
        return self.decode([token_id], skip_special_tokens=False)

    def inner_text(self, token_id: int) -> str:
        """The text that one id adds inside a text, special tokens included; empty outside the vocabulary.

        Decoders drop the space before the first word, so this is not the text of the id on its own.
        """
        text = self._inner_texts.get(token_id)
        if text is None:
            text = self._inner_texts[token_id] = self._inner_text(token_id)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id adds inside a text, which need not be whole characters."""
        token = self._backend.id_to_token(token_id)
        if token is not None and token_id not in self._added:
            if "ByteLevel" in self._decoders and all(letter in _BYTE_OF for letter in token):
                return bytes(_BYTE_OF[letter] for letter in token)
            if "ByteFallback" in self._decoders and _BYTE_TOKEN.fullmatch(token):
                return bytes([int(token[3:5], 16)])
        return self.inner_text(token_id).encode()

    def special_text(self, token_id: int) -> str | None:
        """The text of a special token, which decoded text leaves out; None for any other token."""
        token = self._added.get(token_id)
        return token.content if token is not None and token.special else None

    def names_special_token(self, text: str) -> bool:
        """Whether a text holds the text of a special token."""
        return any(token in text for token in self._special_texts)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> str:
        """The prompt of a conversation, by the checkpoint's chat template (see `ChatTemplate.render`).

        Most templates write BOS themselves; `encode` then adds none.

        Raises:
            ConfigurationError: There is no template, or it refuses these messages.
        """
        return self.chat_template.render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )

    def stream(self) -> TextStream:
        """A new stream of text for ids that come one by one."""
        return TextStream(self)

    def decode_raw(self, ids: Sequence[int]) -> str:
        """The text of some ids before any clean-up, without special tokens."""
        text: str = self._backend.decode(ids, skip_special_tokens=True)
        return text

    def clean_whole(self, text: str) -> str:
        """The text after the clean-up that this tokenizer asks for, if it does."""
        return self._clean(text) if self._cleans_up else text

    def clean_length(self, text: str) -> int:
        """How much of a text can be cleaned up on its own, whatever comes after it.

        Every replacement begins with a space and takes away spaces alone. So a cut before a space is safe if
        no replacement can reach across it: none does where the letter before is neither a space nor an
        apostrophe, nor the `n` of a `n't` that is still in pieces.
        """
        if not self._cleans_up:
            return len(text)
        cuts = (at for at in range(len(text) - 1, 0, -1) if text[at] == " " and text[at - 1] not in " 'n")
        return next(cuts, 0)

    def is_pending(self, text: str, *, last: int) -> bool:
        """Whether a token after `last` may still change the end of this decoded text."""
        if text.endswith(_REPLACEMENT):
            return True
        # A run of byte tokens is decoded as a whole: one wrong byte turns all of it into replacement signs.
        return _BYTE_TOKEN.fullmatch(self._backend.id_to_token(last) or "") is not None

    def _inner_text(self, token_id: int) -> str:
        if token_id in self._added:
            return self._added[token_id].content
        # Between two tokens of which nothing else is known but that they are text.
        for anchor in self._anchors:
            head = self._backend.decode([anchor])
            tail = self._backend.decode([anchor, anchor])[len(head) :]
            text = self._backend.decode([anchor, token_id, anchor])
            if text.startswith(head) and text.endswith(tail) and len(text) >= len(head) + len(tail):
                return text[len(head) : len(text) - len(tail)]
        return self.token_text(token_id)

    @cached_property
    def _anchors(self) -> list[int]:
        """Ids of single letters, as they stand in the midst of a text."""
        letters = self._backend.encode("aaab", add_special_tokens=False).ids
        return [number for number in dict.fromkeys(letters[1:] + letters) if number not in self._added]

    def _clean(self, text: str) -> str:
        for old, new in _CLEAN_UP:
            text = text.replace(old, new)
        return text

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)


class TextStream:
    """Decodes ids that come one by one; the pieces put together are the text of all ids.

    A piece is given out only when no later token can change it: bytes of a character that is not complete
    yet, and words that a clean-up may join, are held back. Each step decodes only a window of ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0
        """Start of the window: some ids before the new ones, for decoders that trim the first space."""
        self._read = 0
        """Ids whose text was decoded for good."""
        self._given = ""
        """Text of `ids[start:read]`."""
        self._window = ""
        """Text of `ids[start:]`."""
        self._unclean = ""
        """Text that a clean-up may still join with what comes."""

    def push(self, token_id: int) -> str:
        """Append one id and return the text that is certain now, often empty or one word."""
        self._ids.append(token_id)
        before, self._window = self._window, self._tokenizer.decode_raw(self._ids[self._start :])
        # An id without text, such as a special one, leaves open what was open before it.
        if self._window == before or len(self._window) <= len(self._given):
            return ""
        if self._tokenizer.is_pending(self._window, last=token_id):
            return ""
        return self._clean(self._take(self._window))

    def flush(self) -> str:
        """The text that was held back; call it once, after the last id."""
        text = self._tokenizer.decode_raw(self._ids[self._start :])
        rest = self._unclean + (self._take(text) if len(text) > len(self._given) else "")
        self._unclean = ""
        return self._tokenizer.clean_whole(rest)

    def _take(self, text: str) -> str:
        piece = text[len(self._given) :]
        self._start, self._read = self._read, len(self._ids)
        self._given = self._window = self._tokenizer.decode_raw(self._ids[self._start :])
        return piece

    def _clean(self, piece: str) -> str:
        self._unclean += piece
        certain = self._tokenizer.clean_length(self._unclean)
        out, self._unclean = self._unclean[:certain], self._unclean[certain:]
        return self._tokenizer.clean_whole(out)


def _affixes(backend: tokenizers.Tokenizer) -> Affixes:
    processor = backend.post_processor
    return Affixes() if processor is None else read_affixes(json.loads(processor.__getstate__()))


def _decoder_types(backend: tokenizers.Tokenizer) -> frozenset[str]:
    """Names of the decoder, and of its parts if it is a sequence, as in `tokenizer.json`."""
    if backend.decoder is None:
        return frozenset()
    document = json.loads(backend.decoder.__getstate__())
    return frozenset(part["type"] for part in (document, *document.get("decoders", ())))
