"""Prompting: how the samples of a task type become prompts, recorded with every score.

Chat template or plain text, system prompt, few-shot examples and their turns are a part of what is measured:
the same weights can score .31 with one of them and .75 with another. Names and meanings are those of
lm-eval's `simple_evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from registry.errors import ConfigurationError
from registry.ladder import TaskEntry
from registry.value import Value


class ChatRenderer(Protocol):
    """What renders conversations: lm-eval's `LM`, as far as prompts need it."""

    @property
    def tokenizer_name(self) -> str:
        """Differs where the same conversation may be rendered differently."""
        ...

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:  # Any: JSON values of messages
        """The prompt of a conversation."""
        ...


class Prompting(Value):
    """The settings that turn samples into prompts."""

    chat_template: bool = False
    """Whether prompts are conversations in the checkpoint's chat template; plain text otherwise."""
    system_prompt: str | None = None
    """System message of every prompt."""
    num_fewshot: int | None = None
    """Solved examples before each question; None: tasks differ, or each as its own file says."""
    fewshot_as_multiturn: bool = False
    """Whether examples are turns of the conversation instead of one message with the question."""

    @classmethod
    def of(cls, entry: TaskEntry, *, task_type: str) -> Self:
        """The settings of a ladder's `[task.NAME]`.

        Raises:
            ConfigurationError: It leaves open whether there is a chat template; a build's plan decides that
                by the checkpoints (`pipeline/build/prompting.py`).
        """
        if entry.chat_template is None:
            raise ConfigurationError(
                f"task.{task_type} does not say whether prompts are in the chat template",
                hint=f"set `chat_template = true` or `false` in [task.{task_type}]",
            )
        return cls(
            chat_template=entry.chat_template,
            system_prompt=entry.system_prompt,
            num_fewshot=entry.num_fewshot,
            fewshot_as_multiturn=entry.chat_template and entry.fewshot_as_multiturn is not False,
        )

    @property
    def words(self) -> str:
        """The settings in a few words."""
        parts = ["chat template" if self.chat_template else "plain text"]
        if self.num_fewshot:
            parts.append(f"{self.num_fewshot}-shot{' in turns' if self.fewshot_as_multiturn else ''}")
        if self.system_prompt is not None:
            parts.append(f"system prompt {self.system_prompt!r}")
        return ", ".join(parts)
