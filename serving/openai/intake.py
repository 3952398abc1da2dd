"""Intake: texts and conversations become token ids, beside the event loop and within limits.

What the context cannot hold is not read to its end: a text is encoded in growing parts until it is whole or
has more tokens than a sequence may have. Tokenizers and templates each have threads of their own, so that a
template that takes long keeps nobody from text completions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from compilers.model.chat_template import Message
from compilers.model.tokenizer import Tokenizer

SHORT_TEXT = 2048
"""Characters up to which text is encoded at once: to pass it to a thread would take longer."""
CHARACTERS_PER_TOKEN = 8
"""Of the first part of a text that is encoded. Most texts have fewer, and are encoded in one go."""
GROUP_CHARACTERS = 1 << 16
"""Texts that are encoded in one call; the memory for it is some hundred times as much."""

Result = TypeVar("Result")


class TooLongError(Exception):
    """A text with more tokens than a sequence may have."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The threads in which requests are prepared."""

    tokenizer: Tokenizer
    most_tokens: int
    """Of one text."""
    _encoding: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 2, thread_name_prefix="rung-encode")
    )
    _rendering: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, thread_name_prefix="rung-template")
    )

    async def apart(self, work: Callable[[], Result]) -> Result:
        """The result of some work, done beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, work)

    async def encode(self, texts: Sequence[str], *, add_bos: bool | None = None) -> list[list[int]]:
        """The token ids of texts.

        Raises:
            TooLongError: One has more than `most_tokens`.
        """
        if sum(map(len, texts)) <= SHORT_TEXT:
            return self.tokenizer.encode_batch(texts, add_bos=add_bos)
        return await self.apart(partial(self._encode, texts, add_bos=add_bos))

    async def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation.

        Raises:
            ConfigurationError: The template refuses it, or takes too long.
        """
        work = partial(self.tokenizer.render_chat, messages)
        return await asyncio.get_running_loop().run_in_executor(self._rendering, work)

    def close(self) -> None:
        """Take no more work."""
        self._encoding.shutdown(wait=False, cancel_futures=True)
        self._rendering.shutdown(wait=False, cancel_futures=True)

    def _encode(self, texts: Sequence[str], *, add_bos: bool | None) -> list[list[int]]:
        found: list[list[int]] = []
        group: list[str] = []
        for text in texts:
            self._check_length(text)
            if group and sum(map(len, group)) + len(text) > GROUP_CHARACTERS:
                found += self.tokenizer.encode_batch(group, add_bos=add_bos)
                group = []
            group.append(text)
        return found + self.tokenizer.encode_batch(group, add_bos=add_bos)

    def _check_length(self, text: str) -> None:
        """Refuse a text of which a part has too many tokens; a cut changes only the tokens next to it."""
        most = self.most_tokens + self.most_tokens // 4 + 64
        size = self.most_tokens * CHARACTERS_PER_TOKEN
        while size < len(text):
            if len(self.tokenizer.encode(text[:size], add_bos=False)) > most:
                raise TooLongError
            size *= 4
