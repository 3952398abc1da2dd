"""What callers may ask: OpenAI's completion and chat requests, closed to what this server does not do.

A parameter that is not supported is refused by name; none is accepted and then ignored, but `user`, which has
no effect on an answer. `top_k` and `ignore_eos` are the usual extensions of OpenAI's form. Source:
https://platform.openai.com/docs/api-reference/completions and …/chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails, from_json

from serving.contract.problems import RequestError
from serving.engine.sampling import Sampling
from serving.openai.messages import FORMS, ChatMessage, drop_nulls

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 4096
"""Of one: each is looked for at every token."""
MAX_KEYS = 64
"""Of any object in a request."""
MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_NAMED = 8
"""Unknown keys that one refusal names."""

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


_FORMS = (*FORMS, "<texts>", "<tokens>", "<token lists>")
"""Names of forms in pydantic's places, which callers do not see."""


def _kind(value: object) -> str:
    """Which of the forms of `prompt` or `stop` is meant, so that an error speaks of that form alone."""
    if not isinstance(value, list):
        return "<text>"
    match value[0] if value else None:
        case str():
            return "<texts>"
        case list():
            return "<token lists>"
        case _:
            return "<tokens>"


Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Texts, Tag("<texts>")]
    | Annotated[Tokens, Tag("<tokens>")]
    | Annotated[list[Tokens], Field(fail_fast=True), Tag("<token lists>")],
    Discriminator(_kind),
]
Stops = Annotated[
    Annotated[Stop, Tag("<text>")] | Annotated[list[Stop], Field(fail_fast=True), Tag("<texts>")],
    Discriminator(lambda value: "<texts>" if isinstance(value, list) else "<text>"),
]


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
    stop: Stops | None = None
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

    _without_nulls = model_validator(mode="before")(drop_nulls)


class CompletionBody(Body):
    """`POST /v1/completions`."""

    prompt: Prompt
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
    """The error that names each unknown key by its place, or else the place of the first problem."""
    problems = error.errors(include_url=False)
    first = problems[0]
    if not first["loc"]:
        return RequestError(
            f"the request's body is not a JSON object (got {_brief(first['input'])})",
            hint="send one JSON object",
        )
    unknown = [one for one in problems if one["type"] == "extra_forbidden"]
    first = unknown[0] if unknown else first
    param = str(first["loc"][0])
    if unknown:
        names = ", ".join(f"`{_place(one)}`" for one in unknown[:MAX_NAMED])
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        what = f"parameter {names} is" if len(unknown) == 1 else f"parameters {names}{more} are"
        return RequestError(
            f"{what} unknown",
            hint=f"leave {names} out",
            param=param,
            code="unknown_parameter",
        )
    name = _place(first)
    if first["type"] == "missing":
        return RequestError(f"parameter `{name}` is missing", hint=f"give `{name}`", param=param)
    return RequestError(
        f"parameter `{name}`: {_without_prefix(first['msg'])} (got {_brief(first['input'])})",
        hint="see the API reference for its form",
        param=param,
    )


def _place(problem: ErrorDetails) -> str:
    """The path of a value as a caller writes it: without pydantic's names of the forms in a union."""
    *inner, last = problem["loc"]
    place = [part for part in inner if part not in _FORMS]
    if last not in _FORMS or problem["type"] == "extra_forbidden":
        place.append(last)
    return ".".join(map(str, place))


def _without_prefix(message: str) -> str:
    return message.removeprefix("Value error, ")


def _wrong(param: str, what: str, hint: str) -> RequestError:
    return RequestError(f"parameter `{param}` {what}", hint=hint, param=param)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
