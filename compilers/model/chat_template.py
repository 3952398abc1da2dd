"""Chat templates: how a conversation becomes one prompt, as the checkpoint's authors wrote it.

A checkpoint carries its template as Jinja source. It is code from strangers, so it runs in a sandbox
(`template_sandbox.py`) and in a process with limits (`template_process.py`). The output of transformers is
the reference; a serving node has `jinja2` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compilers.model.template_process import TemplateError, render_apart
from registry.errors import ConfigurationError, UnknownNameError

CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's reasoning is passed; the first is the one that templates read."""
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "

Message = Mapping[str, Any]  # Any: JSON values, whose shape is the template's own


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The template or named templates of one checkpoint."""

    sources: Mapping[str, str]
    """Name → Jinja source: `default`, and perhaps `tool_use` for conversations with tools."""
    special_tokens: dict[str, str]
    """`bos_token` … → text, visible to the template."""
    where: str
    """Directory, for messages."""

    @property
    def has_default(self) -> bool:
        """Whether there is a template for conversations without tools."""
        return "default" in self.sources

    def source(self, *, tools: bool) -> str:
        """The Jinja source for a conversation with or without tools.

        Raises:
            ConfigurationError: The checkpoint has no template, or several and none by default.
        """
        if tools and "tool_use" in self.sources:
            return self.sources["tool_use"]
        if "default" in self.sources:
            return self.sources["default"]
        if not self.sources:
            raise ConfigurationError(
                f"the tokenizer at `{self.where}` has no chat template",
                hint=f"use text completions, or add a `{TEMPLATE_FILE}` to the checkpoint and build it again",
            )
        raise ConfigurationError(
            f"the tokenizer at `{self.where}` has no chat template `default`, only {sorted(self.sources)}",
            hint="name one of them `default` in the checkpoint's tokenizer_config.json",
        )

    def named(self, name: str) -> str:
        """The Jinja source of a name.

        Raises:
            UnknownNameError: The checkpoint has none of that name.
        """
        if name not in self.sources:
            raise UnknownNameError.of("chat template", name, known=self.sources, where=f"`{self.where}`")
        return self.sources[name]

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: object,
    ) -> str:
        """The prompt of a conversation, equal to transformers' `apply_chat_template(…, tokenize=False)`.

        Args:
            messages: At least one mapping with `role` and mostly `content`; keys with None are dropped.
            tools: JSON schemas of functions.
            documents: Mappings with `title` and `text`.
            add_generation_prompt: Whether to open the assistant's turn.
            continue_final_message: Whether the last message is left open, to be continued.
            **variables: Further variables that the template reads.

        Raises:
            ConfigurationError: There is no template, or it refuses these messages.
        """
        if not messages:
            raise ConfigurationError("the conversation has no message", hint="send at least one message")
        if continue_final_message and add_generation_prompt:
            raise ConfigurationError(
                "a conversation cannot both continue its last message and open a new turn",
                hint="give only one of `add_generation_prompt` and `continue_final_message`",
            )
        source = self.source(tools=tools is not None)
        chat = [_message(message, number=number) for number, message in enumerate(messages)]
        final = _leave_open(chat) if continue_final_message else ""
        try:
            text = render_apart(
                source,
                {
                    "messages": chat,
                    "tools": _plain(tools),
                    "documents": _plain(documents),
                    "add_generation_prompt": add_generation_prompt,
                    **self.special_tokens,
                    **{name: _plain(value) for name, value in variables.items()},
                },
            )
        except TemplateError as error:
            raise ConfigurationError(
                f"the chat template at `{self.where}` refuses this conversation: {error}",
                hint="send the roles and fields that the checkpoint's template expects",
            ) from error
        return _cut_open(text, final=final) if continue_final_message else text


def read_chat_template(
    directory: Path, *, config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> ChatTemplate:  # Any: JSON of tokenizer_config.json
    """The chat template of a checkpoint directory; one without sources if it has none.

    `chat_template.jinja` and `additional_chat_templates/*.jinja` win over `chat_template` in the
    configuration, which is a string or a list of `{"name", "template"}`, as in transformers.

    Raises:
        ConfigurationError: `chat_template` is neither of these, or a file is not UTF-8.
    """
    sources: dict[str, str] = {}
    match config.get("chat_template"):
        case None:
            pass
        case str() as source:
            sources["default"] = source
        case dict() as named if all(isinstance(source, str) for source in named.values()):
            sources.update(named)
        case list() as entries if all(
            isinstance(e, dict) and isinstance(e.get("name"), str) and isinstance(e.get("template"), str)
            for e in entries
        ):
            sources.update({entry["name"]: entry["template"] for entry in entries})
        case other:
            raise ConfigurationError(
                f"chat_template in `{directory}/tokenizer_config.json` is a {type(other).__name__}",
                hint="it must be a string or a list of objects with `name` and `template`",
            )
    files = {"default": directory / TEMPLATE_FILE} if (directory / TEMPLATE_FILE).is_file() else {}
    files |= {path.stem: path for path in sorted((directory / TEMPLATE_FOLDER).glob("*.jinja"))}
    if files:
        sources = {name: _read(path) for name, path in files.items()}
    return ChatTemplate(sources=sources, special_tokens=dict(special_tokens), where=str(directory))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"`{path}` is not UTF-8: {error}", hint="save the template as UTF-8"
        ) from error


def _message(message: Message, *, number: int) -> dict[str, Any]:  # Any: JSON values
    if not isinstance(message, Mapping):
        raise ConfigurationError(
            f"message {number} is a {type(message).__name__}",
            hint="a message is an object with `role` and `content`",
        )
    plain = {str(key): _plain(value) for key, value in message.items() if value is not None}
    reasoning = next((plain[key] for key in _REASONING_FIELDS if plain.get(key) is not None), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _plain(value: object) -> object:
    """The value made of exact JSON types: the sandbox knows no other object's methods to be harmless."""
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return f"<{type(value).__name__}>"


def _leave_open(chat: list[dict[str, Any]]) -> str:  # Any: JSON values
    """Mark the end of the last message's text in place, and return that text."""
    content = chat[-1].get("content")
    if isinstance(content, list):
        for block in reversed(content):
            if isinstance(block, dict) and isinstance(block.get("text"), str):
                text = str(block["text"])
                block["text"] = text + _CONTINUE_TAG
                return text
    if not isinstance(content, str):
        raise ConfigurationError("the last message has no text to continue", hint="give it a `content`")
    chat[-1]["content"] = content + _CONTINUE_TAG
    return content


def _cut_open(text: str, *, final: str) -> str:
    tag = _CONTINUE_TAG.strip()
    if final.strip() not in text or tag not in text:
        raise ConfigurationError(
            "the chat template drops the message that was to be continued",
            hint="send it as a finished message",
        )
    place = text.rindex(tag)
    kept = text[:place]
    # A template that trims the message also trims the space after the tag.
    return kept if text[place : place + len(_CONTINUE_TAG)] == _CONTINUE_TAG else kept.rstrip()
