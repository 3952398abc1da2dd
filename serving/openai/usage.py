"""Choices and usage: a request's `n` generations, and the tokens that it is charged for."""

from __future__ import annotations

from serving.contract.problems import Json
from serving.engine.sequence import Generation, TextPiece
from serving.openai.schemas import Body


def choices(
    body: Body, prompt: list[int], *, max_tokens: int, top_logprobs: int | None, score: bool
) -> list[Generation]:
    """The `n` generations of one prompt."""
    return [
        Generation(
            prompt=tuple(prompt),
            max_tokens=max_tokens,
            sampling=body.sampling(choice=choice),
            stop=body.stops,
            top_logprobs=top_logprobs,
            score_prompt=score,
            ignore_eos=bool(body.ignore_eos),
            stream=bool(body.stream),
        )
        for choice in range(body.n)
    ]


def usage(generations: list[Generation], pieces: list[TextPiece], *, n: int) -> Json:
    """Tokens of a request; a prompt counts once, however many choices it has."""
    prompt = sum(len(generation.prompt) for generation in generations[::n])
    completion = sum(piece.completion_tokens for piece in pieces)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(piece.reused_tokens for piece in pieces)},
    }
