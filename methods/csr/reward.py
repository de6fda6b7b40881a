"""CSR's calibrated reward (arXiv 2405.14622, section 3.1): the model's own score of a step and its
relevance to the image.

``scores`` is the paper's: R = lambda * R_I + (1 - lambda) * R_T, R_T the product of the step's
token probabilities and R_I = max(100 cos(image, sentence), 0). ``ranks`` is the released code's:
both are ranked among siblings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

from methods.csr.cleaning import heard
from methods.csr.search import Tree
from methods.interface import Scorer

Reward = Literal["ranks", "scores"]


@dataclass(frozen=True, kw_only=True)
class Path:
    """A finished text, the place of its leaf and what it costs (to six digits): less is better."""

    leaf: int
    text: str
    cost: float


def relate(trees: Sequence[Tree], images: Sequence[Image], scorer: Scorer) -> None:
    """Fill in every node's relevance R_I to its tree's image; all sentences are scored in one
    call.

    The end of a text says nothing that could be compared with an image. Its relevance is that of
    the text it ends, the mean over its sentences: it is a better step than a sentence below the
    text's standard and a worse one than a sentence above it."""
    said = [
        (node, image)
        for tree, image in zip(trees, images, strict=True)
        for node in tree.nodes[1:]
        if heard(node.sentence)
    ]
    values = (
        scorer.relevance([image for _, image in said], [heard(node.sentence) for node, _ in said])
        if said
        else []
    )
    for (node, _), value in zip(said, values, strict=True):
        # What is equal but for arithmetic noise must tie, or the batch would choose between them.
        node.relevance = round(max(value, 0.0), 3)
    for tree in trees:
        for node in tree.nodes[1:]:
            if not heard(node.sentence):
                steps = [tree.nodes[place].relevance for place in tree.lineage(node.parent)]
                node.relevance = round(sum(steps) / len(steps), 3) if steps else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    """1/n for the highest of n values to 1 for the lowest; of equal values the first ranks
    higher."""
    order = sorted(range(len(values)), key=lambda place: -values[place])
    found = [0.0] * len(values)
    for rank, place in enumerate(order, 1):
        found[place] = rank / len(values)
    return found


def paths(tree: Tree, reward: Reward, lam: float) -> list[Path]:
    """The tree's finished texts, in depth-first order; of equal texts the first.

    ``ranks``: the mean over the path's nodes, the root (which costs nothing) counted, of lambda *
    rank of the relevance + (1 - lambda) * rank of the score, each among siblings. ``scores``: minus
    the mean over its steps of R: a sum would favour long texts, for relevance is never negative.
    """
    children = tree.children()
    costs = [0.0] * len(tree.nodes)
    for family in children:
        if reward == "ranks":
            by_score = ranks([tree.nodes[place].score for place in family])
            by_relevance = ranks([tree.nodes[place].relevance for place in family])
            for place, likely, relevant in zip(family, by_score, by_relevance, strict=True):
                costs[place] = (1 - lam) * likely + lam * relevant
        else:
            for place in family:
                costs[place] = -(
                    lam * tree.nodes[place].relevance + (1 - lam) * math.exp(tree.nodes[place].logp)
                )
    found: dict[str, Path] = {}
    stack = [0]
    while stack:
        place = stack.pop()
        node = tree.nodes[place]
        stack += reversed(children[place])
        if node.final:
            steps = tree.lineage(place)
            cost = sum(costs[step] for step in steps) / (len(steps) + (reward == "ranks"))
            found.setdefault(node.text, Path(leaf=place, text=node.text, cost=round(cost, 6)))
    return list(found.values())


def best_and_worst(finished: Sequence[Path]) -> tuple[Path, Path]:
    """The cheapest path and the dearest; among equals the first is best and the last worst."""
    ranked = sorted(finished, key=lambda path: path.cost)
    return ranked[0], ranked[-1]
