"""The engine: many generations at once over one session.

A session is not safe for concurrent calls, so one thread owns it. At each step that thread admits new
sequences, reads a bounded chunk of their prompts, and advances all decoding sequences by one token in one
forward. New ones join between steps and finished ones leave at once (continuous batching; Yu et al., Orca,
OSDI 2022), and a long prompt delays running answers by no more than one chunk at a time (Agrawal et al.,
Sarathi-Serve, OSDI 2024).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

from compilers.model.tokenizer import Tokenizer
from compilers.runtime import FloatArray, Segment, Session
from registry.errors import RungError
from serving.contract.problems import EngineStoppedError, OverloadedError
from serving.engine.sequence import Event, Generation, GenerationFailure, Sequence
from serving.engine.slots import KvSlots

LOGIT_BYTES = 64 << 20
"""Memory for the logits of one step that scores prompts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the engine takes on."""

    slots: int = 8
    """Sequences that run together."""
    capacity: int = 2048
    """Tokens of one sequence, prompt and answer together."""
    queued: int = 256
    """Sequences that may wait for a slot."""
    kept: int = 0
    """Finished sequences whose keys and values are kept for prompts that begin alike."""
    kept_tokens: int = 1 << 16
    """Tokens that these hold together at most; the ones that were not used for longest are forgotten."""
    prompt_tokens_per_step: int = 1024
    """Prompt tokens read in one step while nothing decodes."""
    shared_prompt_tokens_per_step: int = 256
    """The same while answers are running: what they may be delayed by."""


@dataclass(slots=True)
class Stats:
    """Counters since the start, for metrics and measurements. Written by the engine's thread alone."""

    steps: int = 0
    prompt_tokens: int = 0
    """Read by the session; reused ones are not among them."""
    reused_tokens: int = 0
    completion_tokens: int = 0
    forward_s: float = 0.0
    """Time inside the session."""
    busy_s: float = 0.0
    """Time in steps, the session's included: `busy_s − forward_s` is the engine's own cost."""
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0

    def __add__(self, other: Stats) -> Stats:
        """Those of two engines together."""
        names = [field.name for field in fields(self)]
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Engine:
    """Runs generations over one session, in its own thread.

    Args:
        session: Used by the engine alone from now on.
        tokenizer: Of the same artifact.
        limits: What is taken on; the cache is allocated for it at once.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer, *, limits: Limits) -> None:
        self.limits = limits
        self._session = session
        self._tokenizer = tokenizer
        self._rows = self._new_rows()
        self._waiting: deque[Sequence] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._broken: Exception | None = None
        self._stats = Stats()
        self._thread = threading.Thread(target=self._run, name="rung-engine", daemon=True)
        self._thread.start()

    def submit(self, generations: list[Generation], *, emit: Callable[[int, Event], None]) -> list[Sequence]:
        """Queue generations, all or none.

        Args:
            generations: Each prompt and answer must fit into `limits.capacity`.
            emit: Called in the engine's thread with the place in `generations` and an event; must not block.

        Raises:
            OverloadedError: The queue has no room for them.
            EngineStoppedError: The engine was closed or has broken down.
        """
        sequences = [
            Sequence(generation, tokenizer=self._tokenizer, emit=partial(emit, place))
            for place, generation in enumerate(generations)
        ]
        with self._wake:
            if self._closing or self._broken is not None:
                raise EngineStoppedError.of(self._broken)
            room = self.limits.queued + self.limits.slots - len(self._waiting) - len(self._rows.running)
            if len(sequences) > room:
                raise OverloadedError.of(waiting=len(self._waiting), limit=self.limits.queued)
            self._waiting.extend(sequences)
            self._wake.notify()
        return sequences

    def cancel(self, sequences: list[Sequence]) -> None:
        """Drop sequences that nobody waits for any more; their rows are free after the running step."""
        with self._wake:
            for sequence in sequences:
                sequence.cancelled = True
            self._wake.notify()

    def stats(self) -> Stats:
        """The counters now."""
        with self._wake:
            return replace(self._stats, running=len(self._rows.running), waiting=len(self._waiting))

    @property
    def healthy(self) -> bool:
        """Whether generations are taken."""
        return self._thread.is_alive() and not self._closing and self._broken is None

    def close(self) -> None:
        """Fail what runs and waits, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _new_rows(self) -> KvSlots:
        limits = self.limits
        return KvSlots(
            self._session,
            slots=limits.slots,
            kept=limits.kept,
            capacity=limits.capacity,
            kept_tokens=limits.kept_tokens,
        )

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._rows.running or self._closing):
                    self._wake.wait()
                if self._closing:
                    break
            started = time.perf_counter()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  the edge of the thread: a failed step must not end the server
                self._fail_running(error)
            self._stats.steps += 1
            self._stats.busy_s += time.perf_counter() - started
            if self._broken is not None:
                break
        self._fail_all(EngineStoppedError.of(self._broken))

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        self._read_prompts()
        self._decode()

    def _drop_cancelled(self) -> None:
        rows = self._rows
        for row in range(len(rows.running) - 1, -1, -1):
            if rows.running[row].cancelled:
                rows.release(row)
                self._stats.cancelled += 1
        with self._wake:
            dropped = sum(sequence.cancelled for sequence in self._waiting)
            if dropped:
                self._waiting = deque(s for s in self._waiting if not s.cancelled)
        self._stats.cancelled += dropped

    def _admit(self) -> None:
        """Take in new sequences when no prompt is half read: at most one prompt is ever in parts."""
        rows = self._rows
        if len(rows.running) > rows.decoding:
            return
        budget = self._prompt_budget()
        while rows.free and budget > 0:
            with self._wake:
                if not self._waiting or self._must_wait(self._waiting[0], budget=budget):
                    return
                sequence = self._waiting.popleft()
                rows.admit(sequence)
            self._stats.reused_tokens += sequence.reused
            budget -= self._cost(sequence)

    def _must_wait(self, sequence: Sequence, *, budget: int) -> bool:
        """Whether a sequence cannot join those that are admitted in this step, if there are any."""
        rows = self._rows
        if rows.decoding == len(rows.running):
            return False
        return self._cost(sequence) > budget or rows.is_about_to_be_read(sequence)

    def _cost(self, sequence: Sequence) -> int:
        """Prompt tokens still to read, counted several times where each needs its logits in memory."""
        unread = len(sequence.generation.prompt) - sequence.held
        return unread * self._weight() if sequence.needs_all_logits else unread

    def _weight(self) -> int:
        affordable = max(1, LOGIT_BYTES // (4 * self._session.vocab_size))
        return max(1, -(-self.limits.prompt_tokens_per_step // affordable))

    def _prompt_budget(self) -> int:
        limits = self.limits
        return limits.shared_prompt_tokens_per_step if self._rows.decoding else limits.prompt_tokens_per_step

    def _read_prompts(self) -> None:
        rows = self._rows
        budget = self._prompt_budget()
        segments: list[Segment] = []
        for row in range(rows.decoding, len(rows.running)):
            sequence = rows.running[row]
            weight = self._weight() if sequence.needs_all_logits else 1
            tokens = sequence.generation.prompt[sequence.held : sequence.held + max(1, budget // weight)]
            segments.append(Segment(row, tokens, "all" if sequence.needs_all_logits else "last"))
            budget = max(0, budget - len(tokens) * weight)
        if not segments:
            return
        results = self._forward(segments)
        self._stats.prompt_tokens += sum(len(segment.tokens) for segment in segments)
        for segment, logits in zip(segments, results, strict=True):
            self._advance(rows.running[segment.row], logits, prompt_tokens=len(segment.tokens))
        # Only the last prompt can be in parts, so those that are read are the first of the new rows.
        read = sum(rows.running[s.row].held >= len(rows.running[s.row].generation.prompt) for s in segments)
        rows.decoding += read
        self._release_finished()

    def _decode(self) -> None:
        rows = self._rows
        if not rows.decoding:
            return
        segments = [Segment(row, rows.running[row].tokens[-1:]) for row in range(rows.decoding)]
        results = self._forward(segments)
        for row, logits in enumerate(results):
            self._advance(rows.running[row], logits, prompt_tokens=0)
        self._release_finished()

    def _advance(self, sequence: Sequence, logits: FloatArray, *, prompt_tokens: int) -> None:
        """Let one sequence take its logits; what goes wrong in it is its own failure."""
        before = sequence.generated
        try:
            if prompt_tokens:
                sequence.take_prompt(logits, count=prompt_tokens)
            else:
                sequence.take_token(logits)
        except Exception as error:  # noqa: BLE001  one sequence's failure must not reach its neighbours
            self._stats.failed += 1
            sequence.failed = True
            sequence.emit(GenerationFailure(error))
        self._stats.completion_tokens += sequence.generated - before

    def _release_finished(self) -> None:
        rows = self._rows
        for row in range(len(rows.running) - 1, -1, -1):
            if rows.running[row].finish is not None:
                self._stats.finished += 1
            elif not rows.running[row].failed:
                continue
            rows.release(row)

    def _forward(self, segments: list[Segment]) -> list[FloatArray]:
        started = time.perf_counter()
        try:
            return self._session.forward(self._rows.cache, segments)
        finally:
            self._stats.forward_s += time.perf_counter() - started

    def _fail_running(self, error: Exception) -> None:
        """A step failed: its sequences end, and the cache, whose state is unknown, is made anew."""
        failed = self._rows.running
        try:
            rows = self._new_rows()
        except Exception as second:  # noqa: BLE001  whatever it is, the engine has broken down and says so
            self._broken = second
            return
        with self._wake:
            self._rows = rows
        self._stats.failed += len(failed)
        for sequence in failed:
            if sequence.finish is None and not sequence.failed:
                sequence.emit(GenerationFailure(error))

    def _fail_all(self, error: RungError) -> None:
        with self._wake:
            left = [*self._rows.running, *self._waiting]
            self._waiting.clear()
            self._rows.running.clear()
        for sequence in left:
            sequence.emit(GenerationFailure(error))
