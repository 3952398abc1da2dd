"""What callers may ask: OpenAI's completion and chat requests, closed to what this server does not do.

A parameter that is not supported is refused by name; none is accepted and then ignored, but `user`, which has
no effect on an answer. `top_k` and `ignore_eos` are the usual extensions of OpenAI's form. Source:
https://platform.openai.com/docs/api-reference/completions and …/chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from registry.value import describe
from serving.contract.problems import RequestError
from serving.engine.sampling import Sampling

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 4096
"""Of one: each is looked for at every token."""
MAX_KEYS = 64
"""Of any object in a request."""
MAX_CHOICES = 128
MAX_LOGPROBS = 20

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None,),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""OpenAI's parameters that are not supported → values that ask for nothing and are therefore accepted."""

Token = Annotated[int, Field(ge=0)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
# A list ends at its first wrong item: there may be a million of them, each with its own message.
Texts = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[Token], Field(fail_fast=True)]


class Body(BaseModel):
    """The parameters that both kinds of requests share."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name not in NEUTRAL:
                if value is not None or name in ("model", "prompt", "messages"):
                    kept[name] = value
            elif value not in NEUTRAL[name]:
                raise RequestError(
                    f"parameter `{name}` is not supported (got {_brief(value)})",
                    hint=f"leave `{name}` out",
                    param=name,
                    code="unsupported_parameter",
                )
        return kept

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.stop, list) and len(self.stop) > MAX_STOPS:
            raise _wrong("stop", f"has {len(self.stop)} entries", f"give at most {MAX_STOPS}")
        if self.stream_options is not None and not self.stream:
            raise _wrong(
                "stream_options", "is given without `stream`", "set `stream` to true, or leave it out"
            )
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, *, choice: int) -> Sampling:
        """How the tokens of one of the `n` choices are drawn."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            seed=self.seed,
            stream=choice,
        )


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool | None = None


class CompletionBody(Body):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(fail_fast=True)]
    )
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry for each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[t for t in self.prompt if isinstance(t, int)]]
        return [p for p in self.prompt if not isinstance(p, int)]

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        if not self.prompts:
            raise _wrong("prompt", "is an empty list", "give at least one prompt")
        if any(isinstance(prompt, list) and not prompt for prompt in self.prompts):
            raise _wrong("prompt", "holds an empty list of tokens", "give at least one token")
        if self.max_tokens == 0 and not self.echo:
            raise _wrong("max_tokens", "is 0", "ask for at least one token, or set `echo`")
        if self.echo and self.stream:
            raise _wrong("echo", "is given together with `stream`", "leave one of them out")
        return self


class TextPart(BaseModel):
    """A part of a message's content; only text is supported."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """The message as a chat template takes it."""
        content = (
            self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        )
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise _wrong(
                "top_logprobs", "is given without `logprobs`", "set `logprobs` to true, or leave it out"
            )
        if self.max_tokens == 0:
            raise _wrong("max_tokens", "is 0", "ask for at least one token")
        if (
            None not in (self.max_tokens, self.max_completion_tokens)
            and self.max_tokens != self.max_completion_tokens
        ):
            raise _wrong(
                "max_tokens", "differs from `max_completion_tokens`", "give only `max_completion_tokens`"
            )
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens to generate; None if the caller set no limit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


BodyT = TypeVar("BodyT", bound=Body)


def parse_body(data: bytes, body: type[BodyT]) -> BodyT:
    """The request that a body holds.

    Raises:
        RequestError: It is not JSON, or not such a request; `param` names the parameter.
    """
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(
            f"the request's body is not JSON: {error}", hint="send one JSON object, encoded as UTF-8"
        ) from error
    _check_keys(value)
    try:
        return body.model_validate(value)
    except ValidationError as error:
        raise _named(error) from error


def _check_keys(value: object) -> None:
    """Refuse objects with very many keys, before each gets a message for being unknown."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            if len(one) > MAX_KEYS:
                raise RequestError(
                    f"an object in the request's body has {len(one)} keys",
                    hint="send the parameters of this API alone",
                )
            rest.extend(item for item in one.values() if isinstance(item, dict | list))
        elif isinstance(one, list):
            rest.extend(item for item in one if isinstance(item, dict | list))


def _named(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return RequestError(
            f"the request's body is not a JSON object: {describe(error)}", hint="send one JSON object"
        )
    param = str(first["loc"][0])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return RequestError(
            f"parameter `{param}` is unknown",
            hint=f"leave `{param}` out",
            param=param,
            code="unknown_parameter",
        )
    if first["type"] == "missing":
        name = ".".join(str(part) for part in first["loc"])
        return RequestError(f"parameter `{name}` is missing", hint=f"give `{name}`", param=param)
    return RequestError(
        f"parameter `{param}`: {describe(error)}", hint="see the API reference for its form", param=param
    )


def _wrong(param: str, what: str, hint: str) -> RequestError:
    return RequestError(f"parameter `{param}` {what}", hint=hint, param=param)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
