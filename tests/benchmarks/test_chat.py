"""Pacing, back-off and Retry-After, without a server."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from typing import Any

import pytest

from benchmarks import chat


class Clock:
    """Time that passes only when somebody waits; stands in for the event that ends the judging,
    too."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


def test_requests_start_at_the_pace_and_wait_when_the_server_says_so() -> None:
    clock: Any = Clock()
    pace, starts = chat.Pace(30, clock), []
    for place in range(5):
        pace.turn(clock)
        starts.append(clock.now)
        if place == 2:
            pace.hold(17.0)
    assert starts == [0, 2, 4, 21, 23]
    stop = threading.Event()
    stop.set()
    with pytest.raises(chat.Stopped):
        pace.turn(stop)


def test_back_off_grows_and_a_server_s_wish_is_a_lower_bound() -> None:
    for attempt in range(12):
        grown = min(60.0, 2.0**attempt)
        assert all(grown / 2 <= chat.wait_seconds(attempt, 1.0, None) <= grown for _ in range(20))
        assert all(7 <= chat.wait_seconds(attempt, 1.0, 7.0) <= 8 for _ in range(20))
    assert len({chat.wait_seconds(3, 1.0, None) for _ in range(20)}) > 1
    assert chat.retry_after("2.5") == 2.5
    assert 100 < (chat.retry_after(formatdate(time.time() + 120, usegmt=True)) or 0) <= 120
    assert chat.retry_after(formatdate(0, usegmt=True)) == 0
    assert [chat.retry_after(value) for value in (None, "", "soon", "nan", "inf")] == [None] * 5
