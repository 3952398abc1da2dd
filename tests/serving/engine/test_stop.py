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


MARKED = st.lists(st.sampled_from(["a", "b", ".", "<x>", "<y>"]), max_size=16)
MARKS = st.lists(
    st.lists(st.sampled_from(["a", "b", "<x>", "<y>"]), min_size=1, max_size=3).map("".join), max_size=3
)


def is_mark(piece):
    return piece.startswith("<")


def run_marked(pieces, stops):
    matcher = StopMatcher(stops, is_hidden=lambda stop: "<" in stop)
    out = ""
    for piece in pieces:
        out += matcher.push_special(piece) if is_mark(piece) else matcher.push(piece)
        if matcher.stopped:
            break
    return out + matcher.finish(), matcher.stopped


def expected_marked(pieces, stops):
    """Letter by letter over the whole text: the first stop string that is complete, in its kind of text."""
    for count in range(1, len(pieces) + 1):
        whole = "".join(pieces[:count])
        seen = "".join(piece for piece in pieces[:count] if not is_mark(piece))
        starts = []
        for stop in stops:
            if "<" in stop and whole.endswith(stop):
                before = whole.removesuffix(stop)
                starts.append(len(before.replace("<x>", "").replace("<y>", "")))
            elif "<" not in stop and not is_mark(pieces[count - 1]) and seen.endswith(stop):
                starts.append(len(seen) - len(stop))
        if starts:
            return seen[: min(starts)], True
    return "".join(piece for piece in pieces if not is_mark(piece)), False


@given(pieces=MARKED, stops=MARKS)
def test_stops_with_special_tokens_are_found_in_the_text_with_them(pieces, stops):
    assert run_marked(pieces, stops) == expected_marked(pieces, stops)
