"""Progress: a moving line on a terminal, a line every few seconds in a log."""

import io

import pytest

from harness.pipeline.progress import Display, span


def test_progress_is_a_line_every_few_seconds_in_a_log() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = Display(stream, clock=lambda: now).stage(2, 7, "toy: pairs")
    for second in range(13):
        now = float(second)
        progress("images", 100 + 10 * second, 300)
    assert stream.getvalue().splitlines() == [
        "[2/7] toy: pairs: 150/300 images, 10.0/s, 15 s left",
        "[2/7] toy: pairs: 200/300 images, 10.0/s, 10 s left",
    ]


def test_progress_is_one_moving_line_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = 0.0
    stream = Terminal()
    display = Display(stream, clock=lambda: now)
    progress = display.stage(1, 1, "a")
    for now in (1.0, 1.01, 2.0):
        progress("images", round(10 * now), 0)
    display.say("[1/1] a: done in 2.0 s")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().split("\r")[-1].strip() == "[1/1] a: done in 2.0 s"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.44, "0.4 s"), (12.3, "12 s"), (200, "3 min 20 s"), (7530, "2 h 5 min")]
)
def test_durations_are_for_people(seconds: float, said: str) -> None:
    assert span(seconds) == said
