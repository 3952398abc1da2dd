"""Text completions in OpenAI's form.

`echo` with `logprobs` scores the prompt's own tokens by the rules that lm-eval's `local-completions` client
relies on: one entry for each token of prompt and answer, null for the first, and the likeliest token's entry
in `top_logprobs` is the very same float as the token's own where it is the one taken.
"""

from __future__ import annotations

from compilers.model.tokenizer import TextStream
from serving.contract.problems import Json
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Generation, TextPiece
from serving.openai.schemas import CompletionBody
from serving.openai.served import ServedModel, written
from serving.openai.usage import choices, usage

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for completions."""


async def completion_generations(model: ServedModel, body: CompletionBody) -> list[Generation]:
    """One generation for each prompt and choice, prompts first.

    Raises:
        RequestError: A prompt cannot be taken.
    """
    prompts = body.prompts
    model.check_count(len(prompts) * body.n)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await model.encode(texts, param="prompt"))
    found: list[Generation] = []
    for prompt in prompts:
        tokens = next(encoded) if isinstance(prompt, str) else prompt
        model.check_prompt(tokens, param="prompt", encoded_here=isinstance(prompt, str))
        limit = model.max_tokens(
            len(tokens), asked=body.max_tokens, default=DEFAULT_MAX_TOKENS, param="prompt"
        )
        found += choices(body, tokens, max_tokens=limit, top_logprobs=body.logprobs, score=bool(body.echo))
    return found


def completion_answer(
    model: ServedModel, body: CompletionBody, *, generations: list[Generation], pieces: list[TextPiece]
) -> Json:
    """The whole answer."""
    prompts = body.prompts
    return {
        **model.head("text_completion", prefix="cmpl"),
        "choices": [
            _choice(model, body, prompts, index=index, generation=generation, piece=piece)
            for index, (generation, piece) in enumerate(zip(generations, pieces, strict=True))
        ],
        "usage": usage(generations, pieces, n=body.n),
    }


class CompletionStream:
    """Turns pieces into the chunks of a streamed answer."""

    def __init__(self, model: ServedModel, body: CompletionBody) -> None:
        self._model = model
        self._head = model.head("text_completion", prefix="cmpl")
        self._usage: Json = {"usage": None} if body.include_usage else {}
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> list[Json]:
        """Chunks before the first text of a choice."""
        self._offsets[index] = 0
        return []

    def chunk(self, index: int, piece: TextPiece) -> list[Json]:
        """Chunks of one piece."""
        scores = None
        if piece.logprobs:
            scores = _logprobs(self._model, list(piece.logprobs), start=self._offsets[index])
        self._offsets[index] += len(piece.text)
        choice = {"index": index, "text": piece.text, "logprobs": scores, "finish_reason": piece.finish}
        return [{**self._head, "choices": [choice], **self._usage}]

    def closing(self, total: Json) -> Json:
        """The chunk with the usage."""
        return {**self._head, "choices": [], "usage": total}


def _choice(
    model: ServedModel,
    body: CompletionBody,
    prompts: list[str | list[int]],
    *,
    index: int,
    generation: Generation,
    piece: TextPiece,
) -> Json:
    text, scores = piece.text, list(piece.logprobs)
    if body.echo:
        prompt = prompts[index // body.n]
        text = (prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt)) + text
        scores = [*piece.prompt_logprobs, *scores]
    return {
        "index": index,
        "text": text,
        "logprobs": None if body.logprobs is None else _logprobs(model, scores, start=0),
        "finish_reason": piece.finish,
    }


def _logprobs(model: ServedModel, scores: list[TokenLogprob], *, start: int) -> Json:
    stream = TextStream(model.tokenizer)
    offsets: list[int] = []
    at = start
    for score in scores:
        offsets.append(at)
        at += len(stream.push(score.token))
    return {
        "tokens": [model.token_texts(score)[score.token] for score in scores],
        "token_logprobs": [None if score.logprob is None else written(score.logprob) for score in scores],
        "top_logprobs": [model.top_by_text(score) for score in scores],
        "text_offset": offsets,
    }
