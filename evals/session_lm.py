"""An lm-eval `LM` over a session, whatever runtime is loaded.

Prompts, truncation, stop strings and scores follow lm-eval's own `hf` backend (its `models/huggingface.py`),
so that a sample has the same outcome in both. BOS is explicit: it comes from the checkpoint's record, but
none is added to a rendered conversation, whose template writes what belongs there. Chat completions
(`serving/openai/chat.py`) and transformers' `apply_chat_template(…, tokenize=True)` encode in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Session
from evals.batch import SampleBatch
from evals.decoding import Prompt, decode_greedily
from evals.likelihood import Continuation, Likelihood, score_continuations
from registry.digest import digest_value
from registry.errors import ConfigurationError, EvaluationError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_DEFAULT_NEW_TOKENS = 256
"""lm-eval's `max_gen_toks` where a task does not say."""
_INERT = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"})
"""Generation settings that greedy decoding reads or can ignore."""


class SessionLM(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """An lm-eval model over a session.

    Args:
        session: A loaded artifact, or torch over the checkpoint.
        tokenizer: Its tokenizer.
        batch_size: Rows that run together.
        chat: Whether contexts are conversations rendered by `apply_chat_template`; as with `hf` and
            `add_bos_token=False`, no BOS is then added to any text.
    """

    def __init__(
        self, session: Session, tokenizer: Tokenizer, *, batch_size: int, chat: bool = False
    ) -> None:
        super().__init__()
        self.session = session
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._add_bos = False if chat else None
        self.tokens = 0
        """Tokens scored or generated so far."""
        self.progress: Callable[[int], None] | None = None
        """Called with the number of requests answered since the last call."""
        self._rows = SampleBatch(session, batch_size=batch_size)

    @property
    def eot_token_id(self) -> int | None:
        """Id of the tokenizer's EOS."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token put before a text without context: BOS, else EOS.

        Raises:
            EvaluationError: The tokenizer has neither.
        """
        for token_id in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return token_id
        raise EvaluationError(
            "the task scores text without a context and the tokenizer has neither BOS nor EOS",
            hint="set `bos_token` or `eos_token` in the checkpoint's tokenizer_config.json",
        )

    @property
    def max_length(self) -> int:
        """Tokens of the context window."""
        return self.session.max_context

    @property
    def tokenizer_name(self) -> str:
        """Digest of the chat template and what it reads: the key of built requests, here and in lm-eval."""
        template = self.tokenizer.chat_template
        return digest_value({"sources": template.sources, "special_tokens": template.special_tokens})

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja source of the template that is applied; None where none is.

        Args:
            chat_template: Whether one is applied, or its name.

        Raises:
            ConfigurationError: The tokenizer has no template.
            UnknownNameError: It has none of that name.
        """
        match chat_template:
            case False | None:
                return None
            case str() as name:
                return self.tokenizer.chat_template.named(name)
            case _:
                return self.tokenizer.chat_template.source(tools=False)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        **kwargs: object,
    ) -> list[int]:
        """The ids of a text; None adds BOS as the checkpoint's record says, or none in a conversation."""
        return self.tokenizer.encode(
            string, add_bos=self._add_bos if add_special_tokens is None else add_special_tokens
        )

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation.

        A template without a system role loses the system message, as with `hf`; there it can only be the
        `description` of an lm-eval task, because the harness checks the ladder's system prompt first.

        Raises:
            ConfigurationError: There is no template, or it refuses these messages.
        """
        try:
            return self._render(chat_history, add_generation_prompt=add_generation_prompt)
        except ConfigurationError:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            return self._render(others, add_generation_prompt=add_generation_prompt)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability and greediness of each (context, continuation)."""
        pairs = [request.args for request in requests]
        return [_pair(likelihood) for likelihood in self._score(self._continuations(pairs))]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows that do not overlap."""
        texts = self._encode([request.args[0] for request in requests])
        windows: list[Continuation] = []
        owners: list[int] = []
        for owner, tokens in enumerate(texts):
            for pair in get_rolling_token_windows(
                token_list=tokens,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(Continuation(*make_disjoint_window(pair)))
                owners.append(owner)
        totals = [0.0] * len(texts)
        for owner, likelihood in zip(owners, self._score(windows), strict=True):
            totals[owner] += likelihood.log_probability
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text generated for each (context, settings), cut before its first stop string.

        Raises:
            EvaluationError: The settings ask for sampling or anything else beyond greedy decoding.
        """
        contexts = self._encode([request.args[0] for request in requests])
        prompts = [
            self._prompt(tokens, request.args[1]) for tokens, request in zip(contexts, requests, strict=True)
        ]
        rows = decode_greedily(self._rows, prompts, tokenizer=self.tokenizer, progress=self.progress)
        self.tokens += sum(map(len, rows))
        texts = self.tokenizer.decode_batch(rows)
        return [
            postprocess_generated_text(text, list(prompt.stops), None)
            for text, prompt in zip(texts, prompts, strict=True)
        ]

    def _render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        return self.tokenizer.render_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.encode_batch(texts, add_bos=self._add_bos)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        scored = self._score([Continuation(context, tokens) for _, context, tokens in requests])
        return [_pair(likelihood) for likelihood in scored]

    def _score(self, continuations: list[Continuation]) -> list[Likelihood]:
        self.tokens += sum(len(continuation.tokens) for continuation in continuations)
        return score_continuations(self._rows, continuations, progress=self.progress)

    def _continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """Each pair's tokens as `TemplateLM.loglikelihood` splits them, tokenized in two calls."""
        moved = [_move_spaces(context, continuation) for context, continuation in pairs]
        unique = list(dict.fromkeys(context for context, _ in moved if context))
        heads = dict(zip(unique, self._encode(unique), strict=True))
        with_context = [context + continuation for context, continuation in moved if context]
        wholes = iter(self._encode(with_context))
        continuations = []
        for context, continuation in moved:
            if context:
                head = heads[context]
                continuations.append(Continuation(head, next(wholes)[len(head) :]))
                continue
            tokens = self.tokenizer.encode(continuation, add_bos=False)
            if tokens and tokens[0] == self.prefix_token_id:
                continuations.append(Continuation(tokens[:1], tokens[1:]))
            else:
                continuations.append(Continuation([self.prefix_token_id], tokens))
        return continuations

    def _prompt(self, tokens: list[int], settings: Mapping[str, Any]) -> Prompt:
        wanted = normalize_gen_kwargs(dict(settings), _DEFAULT_NEW_TOKENS)
        if wanted.get("do_sample"):
            raise EvaluationError(
                f"the task asks for sampling: {dict(settings)}",
                hint="set `do_sample: false` in its generation_kwargs: evaluation decodes greedily",
            )
        beyond = {k: v for k, v in wanted.items() if k not in _INERT and (k, v) != ("num_beams", 1)}
        if beyond:
            raise EvaluationError(
                f"the task's generation_kwargs hold {beyond}, which greedy decoding does not honour",
                hint=f"keep to {sorted(_INERT)}",
            )
        new_tokens = wanted["max_gen_toks"]
        room = self.max_length - new_tokens
        if new_tokens < 1 or room < 1:
            raise EvaluationError(
                f"max_gen_toks is {new_tokens}, the context window {self.max_length}",
                hint="set max_gen_toks in generation_kwargs between 1 and one less than the window",
            )
        if not tokens:
            raise EvaluationError(
                "a generation task has a prompt without tokens", hint="check its doc_to_text, or set add_bos"
            )
        stops = [stop for stop in wanted["until"] if stop]
        eos = self.eot_token_id
        if eos is not None:
            stops.append(self.tokenizer.token_text(eos))
        return Prompt(tokens[-room:], new_tokens, tuple(dict.fromkeys(stops)))


def _pair(likelihood: Likelihood) -> tuple[float, bool]:
    return likelihood.log_probability, likelihood.is_greedy


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the context's end belong to the continuation, as in `TemplateLM._encode_pair`."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
