"""Texts and traces in the page: visible, marked where they differ, cut where they are long."""

from __future__ import annotations

import pytest

from harness.reporting.page import texts, traces


def test_a_search_tree_is_shown_with_its_rewards_and_the_ways_to_both_answers() -> None:
    tree = {
        "parent": [-1, 0, 0, 1, 1, 2],
        "text": ["", "a dog .", "a cat .", "", "a cup .", "a hat ."],
        "how": ["root", "sentence", "sentence", "end", "sentence", "sentence"],
        "final": [0, 0, 0, 1, 1, 0],
        "kept": [1, 1, 1, 0, 0, 0],
        "score": [0.0, -1.5, -2.0, -1.75, -3.0, -4.0],
        "relevance": [0.0, 30.0, 20.0, 0.0, 25.5, 10.0],
    }
    trace = {"prompt": "describe", "tree": tree, "chosen": 3, "rejected": 4, "costs": [-1.5, -2.0]}
    assert traces.tree(trace) == [
        [1, "a dog .", "own score -1.5, relevance to the image 30", "both"],
        [2, "(the end)", "own score -1.75, relevance to the image 0, an end", "chosen"],
        [2, "a cup .", "own score -3, relevance to the image 25.5, an end", "rejected"],
        [1, "a cat .", "own score -2, relevance to the image 20", ""],
        [2, "a hat .", "own score -4, relevance to the image 10, not continued", ""],
    ]
    assert traces.steps(trace) == ([], ["chosen 3", "rejected 4", "costs 1 -1.5", "costs 2 -2"])
    # A trace is untrusted: what points forward, to itself or outside is left out, and nothing runs
    # for ever.
    assert (
        traces.tree(
            {
                "tree": {"parent": [-1, 5, 2, "0"], "text": ["", "a", "b", "c"]},
                "chosen": 2,
                "rejected": 99,
            }
        )
        == []
    )
    assert traces.tree({"tree": {"text": ["a"]}}) == []


def test_a_critics_question_stands_beside_its_verdict_and_margin() -> None:
    asked = {
        "first": "greedy",
        "prompt": "which is better ?",
        "text": None,
        "margin": -4.92,
        "verdict": 2,
        "winner": "sample",
    }
    texts, _ = traces.steps({"critic": [asked, {**asked, "text": "[[1]]"}]})
    note = "first greedy, margin -4.92, verdict 2, winner sample"
    assert texts == [
        ["critic 1: prompt", "which is better ?", note],
        ["critic 2: prompt", "which is better ?", note],
        ["critic 2: answer", "[[1]]", ""],
    ]


def test_a_long_trace_is_cut_and_counted() -> None:
    many, settings = traces.steps({"candidates": [f"number {index}" for index in range(100)]})
    assert len(many) == traces.MAX_STEPS
    assert settings == ["and 40 more texts"]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "a\tb\r\nc",
        "\x1b[31mred",
        "a\u202eb",
        "\ud800",
        "نمی\u200cخواهم",
        "x\u00a0y\u3000z",
    ],
)
def test_visible_text_can_be_printed_and_written(text: str) -> None:
    shown = texts.visible(text)
    shown.encode()
    assert all(char.isprintable() or char in "\n\u200c\u00a0\u3000" for char in shown)
    if text.isprintable():
        assert shown == text


def test_a_very_long_text_is_cut_and_says_so() -> None:
    shown = texts.visible("ab " * 5000)
    assert len(shown) < 6100
    assert shown.endswith("… (15,000 characters)")


@pytest.mark.parametrize(
    ("chosen", "rejected", "first", "second"),
    [
        ("a red car.", "a red car.", [], []),
        ("a red car.", "a blue car.", ["red"], ["blue"]),
        ("two dogs, and a cat", "two dogs", [", and a cat"], []),
        ("", "words", [], ["words"]),
        ("don't", "don’t", ["don't"], ["don’t"]),
        ("红色的车", "蓝色的车", ["红"], ["蓝"]),
        ("one\ntwo", "one\n\nthree", ["two"], ["three"]),
        ("  ", "a", [], ["a"]),
    ],
)
def test_differences_join_to_the_texts(
    chosen: str, rejected: str, first: list[str], second: list[str]
) -> None:
    marked = texts.differences(chosen, rejected)
    assert ["".join(text for text, _ in side) for side in marked] == [chosen, rejected]
    assert [[text for text, differs in side if differs] for side in marked] == [first, second]
