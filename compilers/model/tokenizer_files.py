"""Tokenizer files: `tokenizer.json`, `tokenizer_config.json`, and the special tokens that both name.

Read as transformers 5 reads them, so that every token has the id that it has there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from compilers.model.chat_template import CONFIG_FILE
from compilers.model.checkpoint_json import Json, read_object
from registry.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
_LEGACY_SPECIAL_FILE = "special_tokens_map.json"
_EXTRA, _ADDITIONAL = "extra_special_tokens", "additional_special_tokens"
"""Keys of special tokens without names; the second is the older one."""
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """`tokenizer_config.json` and the older file beside it."""

    config: Json
    named: Mapping[str, object]
    """Special tokens with names, as they are written: the standard ones first."""
    extra: Sequence[object]
    """Special tokens without names."""


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer that a `tokenizer.json` describes.

    Raises:
        CheckpointError: It is missing or damaged.
    """
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


def read_settings(path: Path) -> TokenizerSettings:
    """The settings of a directory, merged as transformers 5 does.

    Special tokens may stand under two keys, as a list or under names, and in two files. Source:
    `tokenization_utils_base.py`, `_from_pretrained` and `__init__`.
    """
    config = read_object(path / CONFIG_FILE)
    own: Json = {}  # tokens with names that are the checkpoint's own
    if not config.get(_EXTRA):
        config.pop(_EXTRA, None)
        _rename_additional(config)
    _spread(config, own)
    if "added_tokens_decoder" not in config:
        legacy = read_object(path / _LEGACY_SPECIAL_FILE)
        if isinstance(legacy.get(_EXTRA), list):
            held = config.get(_EXTRA) or []
            legacy[_EXTRA] = [*held, *(token for token in legacy[_EXTRA] if token not in held)]
        config |= legacy
        _spread(config, own)
    if _EXTRA not in config:
        _rename_additional(config)
        _spread(config, own)
    names = (*_NAMED, *(key for key in config if key.endswith("_token") and key not in _NAMED))
    extra = config.get(_EXTRA)
    return TokenizerSettings(
        config=config,
        named={name: config.get(name) for name in names} | own,
        extra=extra if isinstance(extra, list) else (),
    )


def add_tokens(backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    """Add what the configuration has and `tokenizer.json` lacks, in transformers' order: ids must agree."""
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    decoder = settings.config.get("added_tokens_decoder")
    listed = sorted(decoder.items(), key=_token_number) if isinstance(decoder, dict) else []
    ordinary = [(token, False) for _, token in listed]
    special = [(token, True) for token in (*settings.named.values(), *settings.extra)]
    for value, is_special in (*ordinary, *special):
        text = token_content(value)
        if text is None or text in present:
            continue
        present.add(text)
        flags = {flag: bool(value[flag]) for flag in _FLAGS if isinstance(value, dict) and flag in value}
        if is_special:
            flags["special"] = True
        backend.add_tokens([tokenizers.AddedToken(text, **flags)])


def ids_beyond(path: Path, *, rows: int) -> list[tuple[int, str]]:
    """Ids and texts of the tokens of a directory that an embedding of so many rows does not have, sorted.

    Raises:
        CheckpointError: A tokenizer file is missing or damaged.
    """
    backend = read_backend(path / TOKENIZER_FILE)
    add_tokens(backend, read_settings(path))
    vocabulary = backend.get_vocab(with_added_tokens=True)
    return sorted((number, text) for text, number in vocabulary.items() if number >= rows)


def token_content(value: object) -> str | None:
    """The text of a token that is written as a string or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _rename_additional(config: Json) -> None:
    if _ADDITIONAL in config:
        config[_EXTRA] = config.pop(_ADDITIONAL)


def _spread(config: Json, own: Json) -> None:
    """Move tokens that have names out of `extra_special_tokens`."""
    if isinstance(config.get(_EXTRA), dict):
        own |= config.pop(_EXTRA)


def _token_number(entry: tuple[str, object]) -> int:
    number = entry[0]
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise CheckpointError(
            f"added_tokens_decoder in {CONFIG_FILE} has the id {number[:50]!r}",
            hint="it is damaged; save or download it again",
        )
    return int(number)
