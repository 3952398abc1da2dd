from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.engine.stop import StopMatcher

TEXT = st.text("ab.", max_size=24)
STOPS = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3)


def run(pieces, stops):
    matcher = StopMatcher(stops)
    out = "".join(matcher.push(piece) for piece in pieces)
    return out + matcher.finish(), matcher.stopped


@given(text=TEXT, stops=STOPS, cuts=st.lists(st.integers(0, 24)))
def test_the_same_text_comes_through_however_it_is_cut(text, stops, cuts):
    borders = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    assert run(pieces, stops) == run(list(text), stops) == run([text], stops)


@given(text=TEXT, stops=STOPS)
def test_no_stop_string_comes_through_and_nothing_else_is_lost(text, stops):
    out, stopped = run(list(text), stops)
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in out for stop in stops)
    assert text.startswith(out)
    assert stopped or out == text
