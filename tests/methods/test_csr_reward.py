"""CSR's reward and choice of texts equal the released code's (an oracle file); the paper's scores
and the relevance of an end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image

from methods.csr.cleaning import NEW_LINES, REPETITION, SCRIPT, SHORT, drop_reason, plain_text
from methods.csr.reward import best_and_worst, finished_texts, ranks, set_relevance
from methods.csr.search import How, Node, Tree
from tests.tiny_models import picture

ORACLE: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "oracles" / "csr_paths.json").read_text()
)


def node(
    parent: int, sentence: str = "", *, before: str = "", how: How = "sentence", **values: Any
) -> Node:
    given = {"score": 0.0, "logp": 0.0, "n_tokens": 1, "final": False, **values}
    return Node(parent=parent, text=before + sentence, sentence=sentence, how=how, **given)


def grown(told: dict[str, Any], level_order: bool) -> Tree:
    """The oracle's tree in our form; siblings keep their order."""
    tree = Tree(nodes=[])
    waiting = [(told, -1)]
    while waiting:
        one, parent = waiting.pop(0 if level_order else -1)
        tree.nodes.append(
            Node(
                parent=parent,
                text=one["text"],
                sentence="",
                how="sentence",
                score=one["lm_score"],
                logp=0.0,
                n_tokens=1,
                final=one["final"],
                relevance=one["clip_score"] or 0.0,
            )
        )
        children = [(child, len(tree.nodes) - 1) for child in one["children"]]
        waiting += children if level_order else children[::-1]
    return tree


@pytest.mark.parametrize("level_order", [True, False])
def test_ranks_choose_and_cost_as_released(level_order: bool) -> None:
    assert {case["lambda"] for case in ORACLE} == {0.0, 0.5, 0.9, 1.0}
    for case in ORACLE:
        finished = finished_texts(grown(case["tree"], level_order), "ranks", case["lambda"])
        assert len(finished) == case["paths"]
        best, worst = best_and_worst(finished)
        assert (best.text, worst.text) == (case["chosen"], case["rejected"])
        assert (best.cost, worst.cost) == pytest.approx(
            (case["chosen_cost"], case["rejected_cost"]), abs=1e-6
        )


def test_ranks_are_shares_from_the_highest_and_ties_keep_their_order() -> None:
    assert ranks([3.0, 9.0, 3.0, 5.0]) == [0.75, 0.25, 1.0, 0.5]
    assert ranks([]) == []


def test_scores_are_the_mean_of_the_papers_reward() -> None:
    tree = Tree(
        nodes=[
            node(-1, how="root"),
            node(0, "a.", logp=math.log(0.5), relevance=30.0),
            node(0, "b.", logp=math.log(0.25), relevance=20.0, final=True),
            node(1, " c.", before="a.", logp=math.log(0.125), relevance=10.0, final=True),
        ]
    )
    found = {path.text: path.cost for path in finished_texts(tree, "scores", 0.9)}
    assert found == pytest.approx(
        {"a. c.": -(0.9 * 20 + 0.1 * (0.5 + 0.125) / 2), "b.": -(0.9 * 20 + 0.1 * 0.25)}, abs=1e-6
    )
    assert {path.text: path.cost for path in finished_texts(tree, "scores", 0.0)} == pytest.approx(
        {"a. c.": -0.3125, "b.": -0.25}
    )


class Table:
    """A scorer that reads relevances from a table; calls are recorded."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values, self.calls = values, list[list[str]]()

    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:
        assert len(images) == len(sentences)
        self.calls.append(list(sentences))
        return [self.values[sentence] for sentence in sentences]


def test_sentences_are_scored_in_one_call_and_an_end_has_its_texts_mean() -> None:
    one = Tree(
        nodes=[
            node(-1, how="root"),
            node(0, "good."),
            node(1, " bad☃.", before="good."),
            node(2, "", before="good. bad☃.", how="end", final=True),
            node(1, "", before="good.", how="end", final=True),
        ]
    )
    other = Tree(nodes=[node(-1, how="root"), node(0, "against.", final=True)])
    scorer = Table({"good.": 30.0, "bad.": 10.0, "against.": -5.0})
    set_relevance([one, other], [picture(0), picture(1)], scorer)
    assert scorer.calls == [["good.", "bad.", "against."]]
    assert [each.relevance for each in one.nodes[1:]] == [30.0, 10.0, 20.0, 30.0]
    assert other.nodes[1].relevance == 0.0  # the cut at zero
    set_relevance([Tree(nodes=[node(-1, how="root")])], [picture(0)], scorer)
    assert len(scorer.calls) == 1  # nothing to score, nothing asked


def test_only_finished_leaves_are_paths_and_equal_texts_are_one() -> None:
    tree = Tree(
        nodes=[
            node(-1, how="root"),
            node(0, "a.", score=-1.0),
            node(0, "a. b.", score=-2.0, final=True),
            node(1, " b.", before="a.", final=True),
            node(1, " c.", before="a."),
        ]
    )
    finished = finished_texts(tree, "ranks", 0.5)
    assert [(path.text, path.leaf) for path in finished] == [("a. b.", 3)]
    assert finished_texts(Tree(nodes=[node(-1, how="root")]), "ranks", 0.9) == []


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("A cat.", None),
        (" ok.", SHORT),
        ("", SHORT),
        (" Four", None),
        ("Кот на столе.", SCRIPT),
        ("A 고양이 sits.", SCRIPT),
        ("A ねこ sits.", SCRIPT),
        ("Fun 😀.", SCRIPT),
        ("a&nbsp;&nbsp;b.", SCRIPT),
        ("Une forêt à côté, señor.", None),
        ("the the the the the the end.", REPETITION),
        ("the the the the the end.", None),
        ("the theme then there those them they.", None),
        ("Wow" + "!" * 11, REPETITION),
        (", " * 11, REPETITION),
        ("Wow" + "!" * 10, None),
        ("a\nb\nc\nd\ne\nf\ng.", NEW_LINES),
        ("a\nb\nc\nd\ne\nf.", None),
    ],
)
def test_which_sentences_are_dropped(sentence: str, reason: str | None) -> None:
    assert drop_reason(sentence) == reason


def test_the_scorer_gets_plain_text() -> None:
    assert plain_text(" A “red” ball\u200b — 50% off (ok)!  ") == "A red ball  50% off (ok)!"
    assert plain_text("☃") == ""
