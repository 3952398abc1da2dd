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
from pathlib import Path
from typing import Any, Self

import tokenizers

from compilers.model.chat_template import ChatTemplate, Message, read_chat_template
from registry.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_LEGACY_SPECIAL_FILE = "special_tokens_map.json"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REPLACEMENT = "�"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
"""How SentencePiece writes a byte that no token covers."""
_CLEAN_UP = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {tail}", tail) for tail in ("n't", "'m", "'s", "'ve", "'re")),
)
"""Replacements of `clean_up_tokenization_spaces`, in transformers' order (`tokenization_utils_base.py`)."""
_CLEAN_UP_STARTS = tuple(sorted({old[:size] for old, _ in _CLEAN_UP for size in range(1, len(old))}))
"""Text ends that a later token may still turn into one of these."""

Json = dict[str, Any]  # Any: JSON of files that others wrote


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
        self.eos_token_id = self._id_of(self.eos_token)
        self.eos_token_ids = tuple(dict.fromkeys(eos_token_ids))
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.special_ids = frozenset(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )
        """Ids whose text is left out of decoded text."""
        self.chat_template = chat_template
        if add_bos and self.bos_token_id is None:
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
        backend = _read_backend(path / TOKENIZER_FILE)
        config = _read_json(path / CONFIG_FILE)
        if "added_tokens_decoder" not in config:
            config = config | _read_json(path / _LEGACY_SPECIAL_FILE)
        special = _special_tokens(config)
        _add_tokens(backend, config=config, special=special)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = config.get("split_special_tokens") is True
        is_bpe = type(backend.model).__name__ == "BPE"
        forced = config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output") is True
        given = _model_eos(path) if eos_token_ids is None else tuple(eos_token_ids)
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
        if not wanted or self.bos_token_id is None or self.bos_token is None:
            return [encoding.ids for encoding in encodings]
        bos_token, bos = self.bos_token, [self.bos_token_id]
        return [
            encoding.ids if text.startswith(bos_token) else bos + encoding.ids
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

    def is_pending(self, text: str, *, last: int) -> bool:
        """Whether a token after `last` may still change the end of this decoded text."""
        if text.endswith(_REPLACEMENT) or (self._cleans_up and text.endswith(_CLEAN_UP_STARTS)):
            return True
        # A run of byte tokens is decoded as a whole: one wrong byte turns all of it into replacement signs.
        return _BYTE_TOKEN.fullmatch(self._backend.id_to_token(last) or "") is not None

    def _clean(self, text: str) -> str:
        for old, new in _CLEAN_UP:
            text = text.replace(old, new)
        return text

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)


class TextStream:
    """Decodes ids that come one by one; the pieces put together are the text of all ids.

    A piece is given out only when no later token can change it: bytes of a character that is not complete
    yet, and spaces that a clean-up may remove, are held back. Each step decodes only a window of ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0
        """Start of the window: some ids before the new ones, for decoders that trim the first space."""
        self._read = 0
        """Ids whose text was given out."""
        self._given = ""
        """Text of `ids[start:read]`."""
        self._window = ""
        """Text of `ids[start:]`."""

    def push(self, token_id: int) -> str:
        """Append one id and return the text that is certain now, often empty or one word."""
        self._ids.append(token_id)
        before, self._window = self._window, self._tokenizer.decode(self._ids[self._start :])
        # An id without text, such as a special one, leaves open what was open before it.
        if self._window == before or len(self._window) <= len(self._given):
            return ""
        if self._tokenizer.is_pending(self._window, last=token_id):
            return ""
        return self._give(self._window)

    def flush(self) -> str:
        """The text that was held back; call it once, after the last id."""
        text = self._tokenizer.decode(self._ids[self._start :])
        return self._give(text) if len(text) > len(self._given) else ""

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        self._start, self._read = self._read, len(self._ids)
        self._given = self._window = self._tokenizer.decode(self._ids[self._start :])
        return piece


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise CheckpointError(
            f"no `{TOKENIZER_FILE}` in `{path.parent}`",
            hint="save the tokenizer in its fast form: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        )
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(
            f"`{path}` is not a tokenizer: {error}", hint="it is damaged; save or download it again"
        ) from error


def _read_json(path: Path) -> Json:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"`{path}` is not JSON: {error}", hint="it is damaged; save or download it again"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            f"`{path}` holds a {type(document).__name__}", hint="it must hold a JSON object"
        )
    return document


def _content(value: object) -> str | None:
    """The text of a token that is written as a string or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _special_tokens(config: Json) -> dict[str, str]:
    """Named special tokens, the standard ones first, then any other key that ends in `_token`."""
    names = (*_NAMED, *(key for key in config if key.endswith("_token") and key not in _NAMED))
    tokens = {name: _content(config.get(name)) for name in names}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        tokens |= {name: _content(value) for name, value in extra.items()}
    return {name: token for name, token in tokens.items() if token is not None}


def _add_tokens(backend: tokenizers.Tokenizer, *, config: Json, special: Mapping[str, str]) -> None:
    """Add what the configuration has and `tokenizer.json` lacks, in transformers' order: ids must agree."""
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for _, token in sorted(decoder.items(), key=_token_number):
            text = _content(token)
            if text is None or text in present:
                continue
            flags = {
                flag: bool(token[flag])
                for flag in ("lstrip", "normalized", "rstrip", "single_word", "special")
                if isinstance(token, dict) and flag in token
            }
            backend.add_tokens([tokenizers.AddedToken(text, **flags)])
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    further = [_content(token) for token in extra] if isinstance(extra, list) else []
    for text in (*special.values(), *further):
        if text is not None:
            backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True)])


def _token_number(entry: tuple[str, object]) -> int:
    number = entry[0]
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise CheckpointError(
            f"added_tokens_decoder in {CONFIG_FILE} has the id {number[:50]!r}",
            hint="it is damaged; save or download it again",
        )
    return int(number)


def _model_eos(path: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        match _read_json(path / name).get("eos_token_id"):
            case int() as one if not isinstance(one, bool):
                return (one,)
            case list() as several if several and all(isinstance(item, int) for item in several):
                return tuple(several)
            case _:
                continue
    return ()
