"""The statistics of pairs, on pairs counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.synthetic.scene import scene
from harness.data.open_pool import open_pool
from harness.reporting.pair_stats import pair_stats
from methods.interface import PreferencePair


class Balls:
    """Every "ball" is an error."""

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:  # noqa: ARG002
        return [float(answer.split().count("ball")) for answer in answers]


def pair(key: str, chosen: str, rejected: str, kind: str = "answer") -> PreferencePair:
    return PreferencePair(
        key=key, item="a", prompt="?", chosen=chosen, rejected=rejected, kind=kind
    )


PAIRS = [
    pair("1", "a box", "a ball ball"),
    pair("2", "ball", "box"),
    pair("3", "cup", "box"),
    pair("4", "yes", "no", "question"),
]


def test_lengths_and_truth_by_kind() -> None:
    assert pair_stats(PAIRS, Balls()) == {
        "answer": {
            "pairs": 3,
            "chosen_words": 1.3333,
            "rejected_words": 1.6667,
            "chosen_shorter": 0.3333,
            "chosen_errors": 0.3333,
            "rejected_errors": 0.6667,
            "judged": 2,
            "right": 0.5,
        },
        "question": {
            "pairs": 1,
            "chosen_words": 1.0,
            "rejected_words": 1.0,
            "chosen_shorter": 0.0,
        },
    }


def test_a_short_answer_leaves_nothing_out() -> None:
    pool = open_pool("synthetic")
    item = pool.read(pool.ids[0])
    assert pool.ground_truth is not None
    things = len(scene("pool", 0).categories)
    # To the truth, an answer that names no thing is a description that leaves out all of them.
    assert pool.ground_truth.errors(item.id, ["red ."]) == [float(things)]
    pairs = [
        replace(pair(kind, "red .", "blue ."), kind=kind, item=item.id)
        for kind in ("description", "question")
    ]
    stats = pair_stats(pairs, pool.ground_truth)
    assert stats["description"]["chosen_errors"] == float(things)
    assert "chosen_errors" not in stats["question"]


def test_without_a_judge_only_lengths_are_told() -> None:
    assert set(pair_stats(PAIRS, None)["answer"]) == {
        "pairs",
        "chosen_words",
        "rejected_words",
        "chosen_shorter",
    }
    assert pair_stats([], None) == {}
