from __future__ import annotations

import numpy as np
import pytest

from compilers.check.speed import measure_machine, measure_speed
from registry.errors import LoadError


class CountingCache:
    """A cache that knows its length alone."""

    def __init__(self, capacity):
        self.rows, self.capacity, self.used = 1, capacity, 0

    def length(self, row):
        return self.used

    def truncate(self, row, *, length):
        assert length <= self.used
        self.used = length

    def copy(self, *, source, row, length):
        raise NotImplementedError


class CountingSession:
    """Remembers how many tokens each call appended."""

    def __init__(self, max_context):
        self.vocab_size, self.max_context, self.calls = 32, max_context, []

    def new_cache(self, *, rows, capacity):
        return CountingCache(capacity)

    def forward(self, cache, segments):
        (segment,) = segments
        cache.used += len(segment.tokens)
        assert cache.used <= cache.capacity
        assert all(0 <= token < self.vocab_size for token in segment.tokens)
        self.calls.append(len(segment.tokens))
        return [np.zeros((1, self.vocab_size), dtype=np.float32)]


def test_each_repeat_reads_the_prompt_at_once_and_writes_token_by_token():
    session = CountingSession(max_context=512)
    speed = measure_speed(session, prompt_tokens=64, decode_steps=4, repeats=3, threads=2)
    assert session.calls == [64, 1, 1, 1, 1] * 4, "one repeat more, which is not counted"
    assert (speed.prompt_tokens, speed.decode_steps, speed.context, speed.threads) == (64, 4, 66, 2)
    assert speed.machine is None


def test_a_short_context_shortens_the_prompt():
    session = CountingSession(max_context=16)
    speed = measure_speed(session, prompt_tokens=96, decode_steps=32, repeats=1, threads=1)
    assert (speed.prompt_tokens, speed.decode_steps) == (8, 8)


def test_a_context_of_one_token_cannot_be_timed():
    with pytest.raises(LoadError, match="fewer than 2 tokens"):
        measure_speed(CountingSession(1), prompt_tokens=4, decode_steps=4, repeats=1, threads=1)


def test_the_machine_is_measured_in_a_process_of_its_own():
    machine = measure_machine(threads=1)
    assert machine is not None
    assert machine.memory_bandwidth_gb_per_s > 0.1
    assert machine.flops_per_s > 1e8
