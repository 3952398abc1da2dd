"""Chat completions in OpenAI's form; the checkpoint's own chat template makes the prompt."""

from __future__ import annotations

from registry.errors import ConfigurationError
from serving.contract.problems import Json, RequestError
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Generation, TextPiece
from serving.http.service import Service, choices, usage
from serving.openai.schemas import ChatBody


async def chat_generations(service: Service, body: ChatBody) -> list[Generation]:
    """One generation for each choice.

    Raises:
        RequestError: The template refuses the conversation, or it does not fit.
    """
    service.check_count(body.n)
    try:
        text = service.tokenizer.render_chat([message.plain() for message in body.messages])
    except ConfigurationError as error:
        raise RequestError(error.message, hint=error.hint, param="messages") from error
    [prompt] = await service.encode([text])
    service.check_prompt(prompt, param="messages")
    limit = service.max_tokens(len(prompt), asked=body.limit, default=None, param="messages")
    top = (body.top_logprobs or 0) if body.logprobs else None
    return choices(body, prompt, max_tokens=limit, top_logprobs=top, score=False)


def chat_answer(
    service: Service, body: ChatBody, *, generations: list[Generation], pieces: list[TextPiece]
) -> Json:
    """The whole answer."""
    return {
        **service.head("chat.completion", prefix="chatcmpl"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": _logprobs(service, piece) if body.logprobs else None,
                "finish_reason": piece.finish,
            }
            for index, piece in enumerate(pieces)
        ],
        "usage": usage(generations, pieces, n=body.n),
    }


class ChatStream:
    """Turns pieces into the chunks of a streamed answer."""

    def __init__(self, service: Service, body: ChatBody) -> None:
        self._service = service
        self._head = service.head("chat.completion.chunk", prefix="chatcmpl")
        self._usage: Json = {"usage": None} if body.include_usage else {}

    def opening(self, index: int) -> list[Json]:
        """The chunk that names the role."""
        return [self._chunk(index, delta={"role": "assistant", "content": ""}, scores=None, finish=None)]

    def chunk(self, index: int, piece: TextPiece) -> list[Json]:
        """A chunk with the text, and one with the end."""
        found: list[Json] = []
        if piece.text or piece.logprobs:
            scores = _logprobs(self._service, piece) if piece.logprobs else None
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


def _logprobs(service: Service, piece: TextPiece) -> Json:
    ends = service.tokenizer.eos_token_ids
    return {
        "content": [_entry(service, score) for score in piece.logprobs if score.token not in ends],
        "refusal": None,
    }


def _entry(service: Service, score: TokenLogprob) -> Json:
    return {
        **_token(service, score.token, score.logprob),
        "top_logprobs": [_token(service, token, logprob) for token, logprob in score.top],
    }


def _token(service: Service, token: int, logprob: float | None) -> Json:
    text = service.tokenizer.token_text(token)
    whole = bool(text) and "�" not in text
    return {
        "token": service.token_text(token),
        "logprob": logprob,
        "bytes": list(text.encode()) if whole else None,
    }
