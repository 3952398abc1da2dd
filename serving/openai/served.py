"""The served model as OpenAI's API sees it: names, tokens, limits, and the checks of what callers send."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from compilers.model.tokenizer import Tokenizer
from registry.digest import short
from registry.errors import UnknownNameError
from serving.contract.problems import Json, RequestError
from serving.contract.promise import Promise
from serving.engine.engine import Limits
from serving.engine.sampling import TokenLogprob
from serving.openai.intake import Intake, TooLongError

FIXED_BODY_BYTES = 64 << 10
"""Of a request's body, for everything but the prompt."""
TOKEN_BODY_BYTES = 512
"""Of a body for each token of the context. A token of text takes 4 to 24, as a number at most 8: this is room
for a batch of prompts, or for a context of a vocabulary's longest tokens."""
MAX_BODY_BYTES = 16 << 20
"""Of a body, whatever the context."""
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, as with OpenAI."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What requests are held against, and answers are written with."""

    promise: Promise
    tokenizer: Tokenizer
    limits: Limits
    vocab_size: int
    intake: Intake
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint` of OpenAI's answers: what determines them beside the request."""
        return f"rung-{short(self.promise.artifact)}"

    def check_model(self, name: str) -> None:
        """Refuse a model that is not served here.

        Raises:
            RequestError: With status 404.
        """
        if name not in self.promise.models:
            hint = UnknownNameError.of("model", name, known=self.promise.models).hint
            raise RequestError(
                f"model {name[:200]!r} is not served here",
                hint=hint,
                param="model",
                code="model_not_found",
                status=404,
            )

    @property
    def max_body_bytes(self) -> int:
        """The longest body of a request that this context can need."""
        return min(MAX_BODY_BYTES, FIXED_BODY_BYTES + TOKEN_BODY_BYTES * self.limits.capacity)

    async def encode(self, texts: list[str], *, param: str, add_bos: bool | None = None) -> list[list[int]]:
        """The token ids of texts.

        Raises:
            RequestError: One is longer than the context.
        """
        try:
            return await self.intake.encode(texts, add_bos=add_bos)
        except TooLongError as error:
            raise self._too_long(f"more than {self.limits.capacity}", asked=None, param=param) from error

    def check_prompt(self, tokens: list[int], *, param: str, encoded_here: bool) -> None:
        """Refuse a prompt that the session cannot take.

        Args:
            tokens: The prompt.
            param: Parameter that holds it.
            encoded_here: Whether the caller sent text.

        Raises:
            RequestError: It is empty, or has a token outside the vocabulary.
        """
        if not tokens:
            raise RequestError(
                f"parameter `{param}` has no tokens, and this checkpoint has no BOS",
                hint="give some text",
                param=param,
            )
        outside = next((token for token in tokens if token >= self.vocab_size), None)
        if outside is not None and encoded_here:
            raise RequestError(
                f"parameter `{param}` has `{self.tokenizer.inner_text(outside)}`, token {outside} of the "
                f"tokenizer, but the model knows only {self.vocab_size} tokens",
                hint="leave it out of the text; the checkpoint's tokenizer has a token without an embedding",
                param=param,
            )
        if outside is not None:
            raise RequestError(
                f"parameter `{param}` has the token {outside}, the vocabulary has {self.vocab_size}",
                hint="encode the text with this checkpoint's own tokenizer",
                param=param,
            )

    def max_tokens(self, prompt_tokens: int, *, asked: int | None, default: int | None, param: str) -> int:
        """How many tokens may be generated after a prompt.

        Args:
            prompt_tokens: Length of the prompt.
            asked: What the caller asked for; must fit.
            default: For callers who did not ask; cut to what fits. None: all that fits.
            param: Parameter that holds the prompt.

        Raises:
            RequestError: Prompt and answer do not fit into the context.
        """
        capacity = self.limits.capacity
        room = capacity - prompt_tokens
        if room < (1 if asked is None else asked):
            raise self._too_long(str(prompt_tokens), asked=asked, param=param)
        return min(room, default or room) if asked is None else asked

    def _too_long(self, has: str, *, asked: int | None, param: str) -> RequestError:
        wanted = f" and {asked} to generate" if asked else ""
        return RequestError(
            f"the context holds {self.limits.capacity} tokens, the prompt has {has}{wanted}",
            hint="shorten the prompt" + (" or ask for fewer tokens" if asked else ""),
            param=param,
            code="context_length_exceeded",
        )

    def check_count(self, count: int) -> None:
        """Refuse a request that could never be queued.

        Raises:
            RequestError: It asks for more sequences than the queue holds.
        """
        most = self.limits.queued
        if count > most:
            raise RequestError(
                f"the request asks for {count} sequences, at most {most} are taken at once",
                hint="send fewer prompts or choices with one request",
                param="n",
            )

    def head(self, kind: str, *, prefix: str) -> Json:
        """The fields with which every answer begins."""
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.promise.models[0],
            "system_fingerprint": self.fingerprint,
        }

    def token_texts(self, score: TokenLogprob) -> dict[int, str]:
        """The texts of a place's tokens, the likeliest and the one taken; no two of them are the same.

        A token is written as it reads inside a text, so that the texts of all tokens make the text. One that
        is only part of a character, or reads like another, is written as its number.
        """
        found: dict[int, str] = {}
        taken: set[str] = set()
        for token in (score.token, *(token for token, _ in score.top)):
            if token in found:
                continue
            text = self.tokenizer.inner_text(token)
            whole = text and "�" not in text and text not in taken
            found[token] = text if whole else f"token_id:{token}"
            taken.add(found[token])
        return found

    def top_by_text(self, score: TokenLogprob) -> dict[str, float] | None:
        """The most likely tokens and the one taken, by text; None where nothing predicted the token."""
        if score.logprob is None:
            return None
        texts = self.token_texts(score)
        pairs = dict((*score.top, (score.token, score.logprob)))
        return {texts[token]: written(logprob) for token, logprob in pairs.items()}


def written(logprob: float) -> float:
    """A log-probability as JSON can hold it."""
    return max(logprob, LEAST_LOGPROB)
