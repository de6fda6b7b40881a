"""Progress: a moving line on a terminal, a line every few seconds in a log."""

import io
import time
from types import SimpleNamespace

import pytest

from harness.pipeline.progress import Display, StudyProgress, busy, span


def test_progress_is_a_line_with_the_time_every_few_seconds_in_a_log() -> None:
    now = 0.0
    stream = io.StringIO()
    display = Display(stream, clock=lambda: now, stamp=lambda: f"12:00:{round(now):02}")
    progress = display.stage(2, 7, "toy: pairs")
    for second in range(21):
        now = float(second)
        progress("images", 100 + 10 * second, 300)
    assert stream.getvalue().splitlines() == [
        "12:00:00 [2/7] toy: pairs: 100/300 images",
        "12:00:10 [2/7] toy: pairs: 200/300 images, 10.0/s, 10 s left",
        "12:00:20 [2/7] toy: pairs: 300/300 images, 10.0/s, 0.0 s left",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.thorough
def test_a_terminal_is_never_silent_while_a_line_stands() -> None:
    stream = Terminal()
    display = Display(stream)
    with display.alive():
        display.update("loading")
        while "loading (" not in stream.getvalue():
            time.sleep(0.05)
    assert stream.getvalue().split("\r")[-1] == ""  # no moving line is left behind
    assert "\n" not in stream.getvalue()


def test_the_whole_is_counted_with_what_was_done_before() -> None:
    now, stream = 0.0, io.StringIO()
    display = Display(stream, clock=lambda: now, stamp=lambda: "-")
    progress = StudyProgress(display, weight=lambda _task: 1.0, before=16)
    tasks = [SimpleNamespace(key=f"{number}", title=f"task {number}") for number in range(17)]
    progress.plan(tasks)  # type: ignore[arg-type]
    for now in (20.0, 21.0, 31.0, 100.0):
        progress.finish(tasks[len(progress.done)], 61.0 if now == 100 else 1.0)  # type: ignore[arg-type]
    assert stream.getvalue().splitlines() == [
        "- [17/33] task 0: done in 1.0 s; about 5 min 20 s left",
        "- [19/33] task 2: done in 1.0 s; about 2 min 25 s left",
        "- [20/33] task 3: done in 1 min 1 s; about 5 min 25 s left",
    ]


def test_progress_is_one_moving_line_on_a_terminal() -> None:
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


def test_a_command_that_computes_says_so_on_a_terminal_alone() -> None:
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        with pytest.raises(ValueError, match="end"), busy("computing", stream):
            raise ValueError("end")
    assert "computing" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1] == ""
    assert log.getvalue() == ""
