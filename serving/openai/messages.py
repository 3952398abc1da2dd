"""The messages of a chat request, as OpenAI's clients send them and as a chat template takes them.

Clients send a conversation back as they got it, whole objects with most fields null, so null means absent
everywhere below `messages`. Tool calls, reasoning and refusals of earlier turns reach the template;
`annotations` has no effect on an answer. Everything else is refused by its place. Source:
https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

FORMS = ("<text>", "<parts>", "<object>")
"""Names of forms in pydantic's places, which callers do not see."""

Plain = dict[str, Any]  # Any: JSON values, whose shape is the template's own


def drop_nulls(data: object) -> object:
    """An object without the fields that are null; anything else as it is."""
    return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class MessagePart(BaseModel):
    """A part of a message's content; only text, and the text of a refusal, is supported."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    _without_nulls = model_validator(mode="before")(drop_nulls)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if {"text", "refusal"} & self.model_fields_set != {self.type}:
            raise PydanticCustomError("part", f"a part of type `{self.type}` has `{self.type}` alone")
        return self

    @property
    def content(self) -> str:
        """The text."""
        return (self.text if self.type == "text" else self.refusal) or ""


class FunctionCall(BaseModel):
    """A function that an assistant called, and with what."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    arguments: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<object>")],
        Discriminator(lambda value: "<object>" if isinstance(value, dict) else "<text>"),
    ] = ""  # Any: the function's own arguments

    _without_nulls = model_validator(mode="before")(drop_nulls)

    def plain(self, *, parsed: bool) -> Plain:
        """The call as a chat template takes it: arguments as an object, or as the JSON text of one."""
        if not parsed:
            given = self.arguments
            return {"name": self.name, "arguments": given if isinstance(given, str) else json.dumps(given)}
        if isinstance(self.arguments, dict):
            return {"name": self.name, "arguments": self.arguments}
        try:
            arguments = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = self.arguments  # what a checkpoint wrote need not be JSON
        return {"name": self.name, "arguments": arguments}


class ToolCall(BaseModel):
    """One of the tool calls of an assistant's message."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Left over by clients that put together a stream; has no effect."""

    _without_nulls = model_validator(mode="before")(drop_nulls)


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: (
        Annotated[
            Annotated[str, Tag("<text>")]
            | Annotated[list[MessagePart], Field(fail_fast=True), Tag("<parts>")],
            Discriminator(lambda value: "<parts>" if isinstance(value, list) else "<text>"),
        ]
        | None
    ) = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    """The form of a tool call before there were several."""
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    annotations: list[Any] = []  # Any: not read

    _without_nulls = model_validator(mode="before")(drop_nulls)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("content", "a message of this role needs `content`")
        return self

    @property
    def text(self) -> str | None:
        """The content as one text; a refusal stands for content that is not there."""
        if isinstance(self.content, list):
            return "".join(part.content for part in self.content)
        return self.refusal if self.content is None else self.content

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls, in whichever form they came."""
        if self.function_call is None:
            return self.tool_calls
        return [*self.tool_calls, ToolCall(function=self.function_call)]

    def plain(self, *, parsed: bool = True, content: str | None = None) -> Plain:
        """The message as a chat template takes it, without what it does not have.

        Args:
            parsed: Whether arguments of tool calls are objects, as transformers documents it, or JSON text.
            content: Stands for content that is not there; None: no `content` then.
        """
        text = content if self.text is None else self.text
        found: Plain = {"role": self.role}
        given = {"content": text} | {
            key: getattr(self, key)
            for key in ("name", "tool_call_id", "reasoning_content", "reasoning", "thinking")
        }
        found |= {key: value for key, value in given.items() if value is not None}
        if self.calls:
            found["tool_calls"] = [
                {
                    **({} if call.id is None else {"id": call.id}),
                    "type": call.type,
                    "function": call.function.plain(parsed=parsed),
                }
                for call in self.calls
            ]
        return found


def plain_forms(messages: list[ChatMessage]) -> list[list[Plain]]:
    """The forms in which a template may want a conversation, the documented one first.

    transformers gives templates no `content` where there is none, and arguments as objects. Older templates
    join the content of every message, or the JSON text of arguments, and fail on these.
    """
    contents = (None, "") if any(message.text is None for message in messages) else (None,)
    parsings = (True, False) if any(message.calls for message in messages) else (True,)
    return [
        [message.plain(parsed=parsed, content=content) for message in messages]
        for parsed in parsings
        for content in contents
    ]
