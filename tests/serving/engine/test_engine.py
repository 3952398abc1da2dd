"""The engine over a session whose next token is a hash of everything its row holds.

One token that is lost, doubled or taken from another row changes all that follow.
"""

import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.contract.problems import EngineStoppedError, OverloadedError
from serving.engine.engine import Engine, Limits
from serving.engine.sampling import Sampling
from serving.engine.sequence import Generation, GenerationFailure

VOCAB = 50
EOS = 7
GREEDY = Sampling(temperature=0.0)


class HashCache:
    def __init__(self, rows, capacity):
        self.rows, self.capacity = rows, capacity
        self.held = [[] for _ in range(rows)]

    def length(self, row):
        return len(self.held[row])

    def truncate(self, row, *, length):
        del self.held[row][length:]

    def copy(self, *, source, row, length):
        assert length <= len(self.held[source])
        self.held[row] = self.held[source][:length]


class HashSession:
    vocab_size = VOCAB
    max_context = 64

    def __init__(self):
        self.widths = []
        self.read = 0

    def new_cache(self, *, rows, capacity):
        return HashCache(rows, capacity)

    def forward(self, cache, segments):
        rows = [segment.row for segment in segments]
        assert rows == list(range(rows[0], rows[0] + len(rows)))
        self.widths.append([len(segment.tokens) for segment in segments])
        return [self.append(cache, segment) for segment in segments]

    def append(self, cache, segment):
        found = []
        for token in segment.tokens:
            cache.held[segment.row].append(int(token))
            found.append(logits(cache.held[segment.row]))
        assert cache.length(segment.row) <= cache.capacity
        self.read += len(segment.tokens)
        return np.stack(found if segment.logits == "all" else found[-1:])


class Letters:
    """As much of a tokenizer as the engine uses: one letter for each token."""

    eos_token_ids = (EOS,)

    def decode(self, ids):
        return "".join(chr(65 + i) for i in ids if i != EOS)

    decode_raw = decode

    def clean_whole(self, text):
        return text

    def clean_length(self, text):
        return len(text)

    def is_pending(self, text, *, last=None):
        return False

    def names_special_token(self, text):
        return False

    def special_text(self, token):
        return None


def logits(history):
    seed = zlib.crc32(bytes(history))
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(VOCAB).astype(np.float32)


def expected(generation):
    history, out = list(generation.prompt), []
    while len(out) < generation.max_tokens:
        token = int(logits(history).argmax())
        if token == EOS:
            break
        history.append(token)
        out.append(token)
    return Letters().decode(out)


class Listener:
    def __init__(self, count, *, engine=None, cancel_at=None):
        self.texts = [""] * count
        self.ends = [None] * count
        self.scores = [[] for _ in range(count)]
        self.reused = [0] * count
        self.done = threading.Event()

    def __call__(self, place, event):
        if isinstance(event, GenerationFailure):
            self.ends[place] = event.error
        else:
            self.texts[place] += event.text
            self.scores[place] += event.prompt_logprobs
            self.reused[place] = event.reused_tokens
            self.ends[place] = event.finish
        if all(self.ends):
            self.done.set()


PROMPTS = st.builds(
    lambda shared, own: tuple([1, 2, 3, 4, 5] * 5)[:shared] + tuple(own),
    st.integers(0, 25),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
)
GENERATIONS = st.builds(
    Generation,
    prompt=PROMPTS,
    max_tokens=st.integers(1, 20),
    sampling=st.just(GREEDY),
    stream=st.booleans(),
    top_logprobs=st.sampled_from([None, None, 1]),
    score_prompt=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(GENERATIONS, min_size=1, max_size=6), min_size=1, max_size=3),
    slots=st.integers(1, 4),
    kept=st.integers(0, 3),
    budget=st.integers(1, 40),
    cancelled=st.sets(st.integers(0, 5), max_size=2),
)
def test_every_sequence_gets_what_it_would_get_alone(batches, slots, kept, budget, cancelled):
    limits = Limits(
        slots=slots,
        capacity=64,
        kept=kept,
        prompt_tokens_per_step=budget,
        shared_prompt_tokens_per_step=max(1, budget // 3),
    )
    engine = Engine(HashSession(), Letters(), limits=limits)
    try:
        listeners = []
        for number, batch in enumerate(batches):
            listener = Listener(len(batch))
            sequences = engine.submit(batch, emit=listener)
            listeners.append((batch, listener))
            if number == 0:
                doomed = Listener(len(batch))
                sequences = engine.submit(batch, emit=doomed)
                engine.cancel([s for place, s in enumerate(sequences) if place in cancelled])
                listeners.append((batch, None))
        for batch, listener in listeners:
            if listener is None:
                continue
            assert listener.done.wait(20)
            assert listener.texts == [expected(generation) for generation in batch]
            for generation, scores in zip(batch, listener.scores, strict=True):
                wanted = generation.score_prompt and generation.top_logprobs is not None
                assert [score.token for score in scores] == (list(generation.prompt) if wanted else [])
        wait_for(lambda: engine.stats().running + engine.stats().waiting == 0)
    finally:
        engine.close()


def test_the_next_turn_starts_from_what_the_last_one_held():
    session = HashSession()
    engine = Engine(session, Letters(), limits=Limits(slots=2, capacity=64, kept=2))
    first = Generation(prompt=tuple(range(10, 35)), max_tokens=5, sampling=GREEDY, ignore_eos=True)
    [text] = run(engine, [first]).texts
    answer = tuple(ord(letter) - 65 for letter in text)
    session.read = 0
    second = Generation(prompt=first.prompt + answer + (3, 4), max_tokens=2, sampling=GREEDY, ignore_eos=True)
    got = run(engine, [second])
    assert got.reused == [29], "all but the last token, which was never read"
    assert session.read == 1 + 2 + 1
    engine.close()


def test_choices_of_one_prompt_read_it_once():
    session = HashSession()
    engine = Engine(session, Letters(), limits=Limits(slots=4, capacity=64))
    prompt = tuple(range(10, 40))
    asked = [Generation(prompt=prompt, max_tokens=4, sampling=Sampling(seed=1, stream=i)) for i in range(4)]
    assert run(engine, asked).reused == [0, 29, 29, 29]
    assert [sum(widths) for widths in session.widths if 30 in widths] == [30]
    engine.close()


def test_a_long_prompt_does_not_stop_those_that_decode():
    session = HashSession()
    limits = Limits(slots=2, capacity=64, prompt_tokens_per_step=8, shared_prompt_tokens_per_step=4)
    engine = Engine(session, Letters(), limits=limits)
    asked = [
        Generation(prompt=(1,), max_tokens=30, sampling=GREEDY, ignore_eos=True),
        Generation(prompt=tuple(range(8, 48)), max_tokens=1, sampling=GREEDY),
    ]
    run(engine, asked)
    chunks = [at for at, widths in enumerate(session.widths) if widths == [4]]
    assert len(chunks) >= 8
    assert all(session.widths[at + 1] == [1] for at in chunks[:-1]), (
        "after each part of the prompt all others decode"
    )
    engine.close()


def test_a_long_prompt_alone_is_read_in_larger_parts():
    session = HashSession()
    limits = Limits(slots=2, capacity=64, prompt_tokens_per_step=8, shared_prompt_tokens_per_step=4)
    engine = Engine(session, Letters(), limits=limits)
    run(engine, [Generation(prompt=tuple(range(8, 48)), max_tokens=1, sampling=GREEDY)])
    assert session.widths == [[8]] * 5
    engine.close()


def test_a_full_queue_refuses_all_of_a_request():
    session = HashSession()
    engine = Engine(session, Letters(), limits=Limits(slots=1, capacity=64, queued=2))
    hold = threading.Event()
    forward = session.forward
    session.forward = lambda cache, segments: (hold.wait(), forward(cache, segments))[1]
    one = Generation(prompt=(1,), max_tokens=1, sampling=GREEDY)
    listener = Listener(3)
    engine.submit([one] * 3, emit=listener)
    with pytest.raises(OverloadedError, match="limit is 2"):
        engine.submit([one], emit=Listener(1))
    hold.set()
    assert listener.done.wait(20)
    run(engine, [one])
    engine.close()
    with pytest.raises(EngineStoppedError, match="shutting down"):
        engine.submit([one], emit=Listener(1))


def test_closing_fails_what_still_runs():
    session = HashSession()
    engine = Engine(session, Letters(), limits=Limits(slots=1, capacity=64))
    slow = session.forward
    session.forward = lambda cache, segments: (time.sleep(0.01), slow(cache, segments))[1]
    listener = Listener(2)
    engine.submit(
        [Generation(prompt=(1,), max_tokens=60, sampling=GREEDY, ignore_eos=True)] * 2, emit=listener
    )
    engine.close()
    assert listener.done.is_set()
    assert all(isinstance(end, EngineStoppedError) for end in listener.ends)
    assert not engine.healthy


def test_an_engine_that_cannot_recover_says_so():
    session = HashSession()
    engine = Engine(session, Letters(), limits=Limits(slots=1, capacity=64))

    def broken(*_, **__):
        raise MemoryError("no memory")

    session.forward = session.new_cache = broken
    listener = Listener(1)
    engine.submit([Generation(prompt=(1,), max_tokens=2, sampling=GREEDY)], emit=listener)
    assert listener.done.wait(20)
    assert "no memory" in str(listener.ends[0])
    wait_for(lambda: not engine.healthy)
    with pytest.raises(EngineStoppedError, match="broken down"):
        engine.submit([Generation(prompt=(1,), max_tokens=2, sampling=GREEDY)], emit=Listener(1))
    engine.close()


def run(engine, generations):
    listener = Listener(len(generations))
    engine.submit(generations, emit=listener)
    assert listener.done.wait(20)
    return listener


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
