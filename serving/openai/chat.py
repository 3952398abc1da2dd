"""Chat completions in OpenAI's form; the checkpoint's own chat template makes the prompt."""

from __future__ import annotations

from contextlib import suppress

from registry.errors import ConfigurationError
from serving.contract.problems import Json, RequestError
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Generation, TextPiece
from serving.openai.messages import plain_forms
from serving.openai.schemas import ChatBody
from serving.openai.served import ServedModel, written
from serving.openai.usage import choices, usage


async def chat_generations(model: ServedModel, body: ChatBody) -> list[Generation]:
    """One generation for each choice.

    Raises:
        RequestError: The template refuses the conversation, or it does not fit.
    """
    model.check_count(body.n)
    # The template alone decides whether BOS stands first, as in transformers' `apply_chat_template`.
    text = await _render(model, body)
    [prompt] = await model.encode([text], param="messages", add_bos=False)
    model.check_prompt(prompt, param="messages", encoded_here=True)
    limit = model.max_tokens(len(prompt), asked=body.limit, default=None, param="messages")
    top = (body.top_logprobs or 0) if body.logprobs else None
    return choices(body, prompt, max_tokens=limit, top_logprobs=top, score=False)


def chat_answer(
    model: ServedModel, body: ChatBody, *, generations: list[Generation], pieces: list[TextPiece]
) -> Json:
    """The whole answer."""
    return {
        **model.head("chat.completion", prefix="chatcmpl"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": _logprobs(model, piece) if body.logprobs else None,
                "finish_reason": piece.finish,
            }
            for index, piece in enumerate(pieces)
        ],
        "usage": usage(generations, pieces, n=body.n),
    }


class ChatStream:
    """Turns pieces into the chunks of a streamed answer."""

    def __init__(self, model: ServedModel, body: ChatBody) -> None:
        self._model = model
        self._head = model.head("chat.completion.chunk", prefix="chatcmpl")
        self._usage: Json = {"usage": None} if body.include_usage else {}

    def opening(self, index: int) -> list[Json]:
        """The chunk that names the role."""
        return [self._chunk(index, delta={"role": "assistant", "content": ""}, scores=None, finish=None)]

    def chunk(self, index: int, piece: TextPiece) -> list[Json]:
        """A chunk with the text, and one with the end."""
        found: list[Json] = []
        if piece.text or piece.logprobs:
            scores = _logprobs(self._model, piece) if piece.logprobs else None
            found.append(self._chunk(index, delta={"content": piece.text}, scores=scores, finish=None))
        if piece.finish is not None:
            found.append(self._chunk(index, delta={}, scores=None, finish=piece.finish))
        return found

    def closing(self, total: Json) -> Json:
        """The chunk with the usage."""
        return {**self._head, "choices": [], "usage": total}

    def _chunk(self, index: int, *, delta: Json, scores: Json | None, finish: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        return {**self._head, "choices": [choice], **self._usage}


async def _render(model: ServedModel, body: ChatBody) -> str:
    documented, *others = plain_forms(list(body.messages))
    try:
        return await model.intake.render(documented)
    except ConfigurationError as error:
        refusal = error
    for messages in others:
        with suppress(ConfigurationError):
            return await model.intake.render(messages)
    raise RequestError(refusal.message, hint=refusal.hint, param="messages") from refusal


def _logprobs(model: ServedModel, piece: TextPiece) -> Json:
    ends = model.tokenizer.eos_token_ids
    return {
        "content": [_entry(model, score) for score in piece.logprobs if score.token not in ends],
        "refusal": None,
    }


def _entry(model: ServedModel, score: TokenLogprob) -> Json:
    texts = model.token_texts(score)

    def named(token: int, logprob: float | None) -> Json:
        return {
            "token": texts[token],
            "logprob": None if logprob is None else written(logprob),
            "bytes": list(model.tokenizer.token_bytes(token)),
        }

    top = [named(token, logprob) for token, logprob in score.top]
    return {**named(score.token, score.logprob), "top_logprobs": top}
