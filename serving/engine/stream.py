"""Streaming: passes generated text from the engine's thread to the request that waits on the event loop.

Events of one step reach the loop in one wake-up. Whoever stops waiting, because the caller has gone or the
answer is there, cancels what still runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Self

from serving.contract.problems import OverloadedError
from serving.engine.engine import Engine
from serving.engine.sequence import Event, Generation, GenerationFailure, Sequence, TextPiece

WAIT_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of one of the generations."""

    place: int
    """Which of them."""
    piece: TextPiece


class Answer:
    """The generations of one request, running."""

    def __init__(self, engine: Engine, *, count: int) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events: deque[tuple[int, Event]] = deque()
        self._awake = asyncio.Event()
        self._woken = False
        self._open = count
        self._sequences: list[Sequence] = []

    @classmethod
    async def start(cls, engine: Engine, generations: list[Generation], *, wait_s: float) -> Self:
        """Submit generations; for up to `wait_s` seconds wait for room in the queue.

        Raises:
            OverloadedError: There was no room.
            EngineStoppedError: The engine takes no more.
        """
        answer = cls(engine, count=len(generations))
        deadline = time.monotonic() + wait_s
        while True:
            try:
                answer._sequences = engine.submit(generations, emit=answer._emit)
                return answer
            except OverloadedError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(WAIT_POLL_S)

    async def parts(self) -> AsyncGenerator[Part]:
        """Every piece as it comes, until all generations have ended.

        Raises:
            RungError: A generation failed.
        """
        while self._open:
            await self._awake.wait()
            self._awake.clear()
            with self._lock:
                self._woken = False
                events = list(self._events)
                self._events.clear()
            for place, event in events:
                if isinstance(event, GenerationFailure):
                    raise event.error
                self._open -= event.finish is not None
                yield Part(place=place, piece=event)

    async def whole(self) -> list[TextPiece]:
        """Every generation as one piece.

        Raises:
            RungError: A generation failed.
        """
        pieces: dict[int, TextPiece] = {}
        async for part in self.parts():
            before = pieces.get(part.place)
            pieces[part.place] = part.piece if before is None else _join(before, part.piece)
        return [pieces[place] for place in sorted(pieces)]

    def cancel(self) -> None:
        """Stop what still runs."""
        if self._open:
            self._engine.cancel(self._sequences)

    def _emit(self, place: int, event: Event) -> None:
        with self._lock:
            self._events.append((place, event))
            if self._woken:
                return
            self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._awake.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _join(first: TextPiece, second: TextPiece) -> TextPiece:
    return replace(
        second,
        text=first.text + second.text,
        logprobs=first.logprobs + second.logprobs,
        prompt_logprobs=first.prompt_logprobs + second.prompt_logprobs,
    )
