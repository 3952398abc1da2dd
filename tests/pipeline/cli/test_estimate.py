"""The time left follows from the speed so far, and is not said before there is one."""

from __future__ import annotations

from pipeline.cli.estimate import Estimate


def test_the_time_left_follows_from_the_speed_so_far() -> None:
    estimate = Estimate()
    assert estimate.words("retrieval 0/400", now_s=10.0) == "retrieval 0/400"
    assert estimate.words("retrieval 100/400", now_s=15.0) == "retrieval 100/400, about 15 s left"
    assert estimate.words("retrieval 400/400", now_s=30.0) == "retrieval 400/400"


def test_another_piece_of_work_begins_anew_and_other_texts_stay() -> None:
    estimate = Estimate()
    estimate.words("retrieval 0/10", now_s=0.0)
    assert estimate.words("reasoning 5/10", now_s=100.0) == "reasoning 5/10"
    assert estimate.words("timing", now_s=101.0) == "timing"
