"""CSR's calibrated reward (Zhou et al., arXiv 2405.14622, section 3.1). It combines the model's
score of a step (a sentence) with the step's relevance to the image.

"scores", as in the paper: R = lambda * R_I + (1 - lambda) * R_T, where R_T is the product of the
step's token probabilities and R_I = max(100 cos(image, sentence), 0). "ranks", as in the released
code: score and relevance are replaced by their ranks among siblings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

from methods.csr.cleaning import plain_text
from methods.csr.search import Tree
from methods.interface import Scorer

Reward = Literal["ranks", "scores"]


@dataclass(frozen=True, kw_only=True)
class FinishedText:
    """A complete text in the search tree."""

    leaf: int
    """The index of its last node."""
    text: str
    cost: float
    """Rounded to six digits; lower is better."""


def set_relevance(
    trees: Sequence[Tree],
    images: Sequence[Image],
    scorer: Scorer,
    first: Sequence[int] | None = None,
) -> None:
    """Set the relevance R_I of nodes to their tree's image. All sentences are scored together.

    Args:
        first: the first node of each tree to score; those before it have their relevance. None:
            all nodes are scored.

    The end of a text has no words to compare with the image. Its relevance is the mean over the
    sentences of the text, so it ranks above sentences below this mean and under those above it."""
    first = first or [1] * len(trees)
    scored = [
        (node, image)
        for tree, image, start in zip(trees, images, first, strict=True)
        for node in tree.nodes[start:]
        if plain_text(node.sentence)
    ]
    values: Sequence[float] = []
    if scored:
        sentences = [plain_text(node.sentence) for node, _ in scored]
        values = scorer.relevance([image for _, image in scored], sentences)
    for (node, _), value in zip(scored, values, strict=True):
        # Rounded: batches differ by rounding errors, and equal relevances must stay equal.
        node.relevance = round(max(value, 0.0), 3)
    for tree, start in zip(trees, first, strict=True):
        for node in tree.nodes[start:]:
            if not plain_text(node.sentence):
                steps = [tree.nodes[index].relevance for index in tree.path(node.parent)]
                node.relevance = round(sum(steps) / len(steps), 3) if steps else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1/n (the highest of n values) to 1 (the lowest). Of equal values, the first gets
    the smaller rank."""
    order = sorted(range(len(values)), key=lambda index: -values[index])
    ranked = [0.0] * len(values)
    for rank, index in enumerate(order, 1):
        ranked[index] = rank / len(values)
    return ranked


def step_costs(tree: Tree, reward: Reward, lam: float) -> list[float]:
    """The cost of each node's step (lower is better); the root costs 0.

    "ranks": lambda * rank of the relevance + (1 - lambda) * rank of the score, both among siblings.
    "scores": -R."""
    costs = [0.0] * len(tree.nodes)
    for siblings in tree.children():
        nodes = [tree.nodes[index] for index in siblings]
        if reward == "ranks":
            score_ranks = ranks([node.score for node in nodes])
            relevance_ranks = ranks([node.relevance for node in nodes])
            for index, score_rank, relevance_rank in zip(
                siblings, score_ranks, relevance_ranks, strict=True
            ):
                costs[index] = (1 - lam) * score_rank + lam * relevance_rank
        else:
            for index, node in zip(siblings, nodes, strict=True):
                costs[index] = -(lam * node.relevance + (1 - lam) * math.exp(node.logp))
    return costs


def path_costs(tree: Tree, reward: Reward, lam: float) -> list[float]:
    """The summed cost of the steps from the root to each node (lower is better)."""
    costs = step_costs(tree, reward, lam)
    for index, node in enumerate(tree.nodes[1:], 1):
        costs[index] += costs[node.parent]
    return costs


def finished_texts(tree: Tree, reward: Reward, lam: float) -> list[FinishedText]:
    """The tree's finished texts in depth-first order; of equal texts, only the first.

    The cost of a text is the mean cost of its steps; with "ranks" the root counts as a step too. A
    sum would favour long texts with "scores", because relevance is never negative."""
    children, costs = tree.children(), path_costs(tree, reward, lam)
    texts: dict[str, FinishedText] = {}
    stack = [0]
    while stack:
        index = stack.pop()
        node = tree.nodes[index]
        stack += reversed(children[index])
        if node.final:
            cost = costs[index] / (len(tree.path(index)) + (reward == "ranks"))
            text = FinishedText(leaf=index, text=node.text, cost=round(cost, 6))
            texts.setdefault(node.text, text)
    return list(texts.values())


def best_and_worst(finished: Sequence[FinishedText]) -> tuple[FinishedText, FinishedText]:
    """The texts with the lowest and the highest cost. Ties: the first of the lowest, the last of
    the highest."""
    ranked = sorted(finished, key=lambda text: text.cost)
    return ranked[0], ranked[-1]
