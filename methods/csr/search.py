"""CSR's sentence-level search (arXiv 2405.14622, section 3.1): a tree of texts an item, grown level
by level for all items.

A node is a text that ends with a sentence. It is continued by candidates for the next sentence; its
score is its parent's and its candidate's. A level's open nodes are cut down to both ends of the
range, so that chosen and rejected texts lie apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from methods.csr.cleaning import unclean
from methods.interface import JSON, BeamSearchVLM, Branch, Branching, Prompt

Keep = Literal["best_and_worst", "best"]
How = Literal["root", "sentence", "end", "cut"]

EQUAL = "equal sentence"
SAID = "sentence said before"
UNLIKELY = "unlikely end"


@dataclass(kw_only=True)
class Node:
    """A text and the step to it.

    ``sentence`` is what the step adds, the white space before it included, and ``how`` it came to
    its end: at a sentence's end, at the text's end, or cut at the limit of tokens. ``score`` is the
    sum of beam scores from the root on; ``logp`` and
    ``n_tokens`` are the step's own. ``final``: the text is finished. ``kept``: it was continued.
    ``relevance`` is filled in later (:mod:`methods.csr.reward`)."""

    parent: int
    text: str
    sentence: str
    how: How
    score: float
    logp: float
    n_tokens: int
    final: bool
    kept: bool = False
    relevance: float = 0.0


@dataclass(kw_only=True)
class Tree:
    """Nodes, parents before children, the root (the empty text) first; and the candidates thrown
    away, by reason."""

    nodes: list[Node]
    dropped: Counter[str] = field(default_factory=Counter)

    def children(self) -> list[list[int]]:
        """The places of each node's children."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for place, node in enumerate(self.nodes[1:], 1):
            found[node.parent].append(place)
        return found

    def lineage(self, place: int) -> list[int]:
        """The places from the first sentence to this node; empty for the root."""
        found = []
        while place > 0:
            found.append(place)
            place = self.nodes[place].parent
        return found[::-1]

    def told(self) -> Mapping[str, JSON]:
        """The tree as columns, one entry a node, for the trace; numbers are rounded."""
        nodes = self.nodes
        return {
            "parent": [node.parent for node in nodes],
            "text": [node.sentence.strip() for node in nodes],
            "how": [node.how for node in nodes],
            "final": [int(node.final) for node in nodes],
            "kept": [int(node.kept) for node in nodes],
            "score": [round(node.score, 4) for node in nodes],
            "logp": [round(node.logp, 4) for node in nodes],
            "n_tokens": [node.n_tokens for node in nodes],
            "relevance": [round(node.relevance, 3) for node in nodes],
        }


@dataclass(frozen=True, kw_only=True)
class Search:
    """``branching`` gives a node's candidates. ``penalty_in_score``: diversity penalties count in a
    node's score. A text of
    ``max_chars`` characters is final, its prompt's included where ``count_prompt``. ``repeats``: a
    text may say a sentence again."""

    branching: Branching
    keep: Keep
    penalty_in_score: bool
    max_chars: int
    count_prompt: bool
    repeats: bool

    def grow(self, vlm: BeamSearchVLM, prompts: Sequence[Prompt]) -> list[Tree]:
        """A tree for each prompt; each level of all of them is one call of the model."""
        root = Node(
            parent=-1,
            text="",
            sentence="",
            how="root",
            score=0.0,
            logp=0.0,
            n_tokens=0,
            final=False,
        )
        trees = [Tree(nodes=[replace(root)]) for _ in prompts]
        level = [(number, 0) for number in range(len(trees))]
        while level:
            asked = []
            for number, place in level:
                node, prompt = trees[number].nodes[place], prompts[number]
                node.kept = True
                asked.append(replace(prompt, key=f"{prompt.key}/{place}", prefix=node.text))
            fresh: dict[int, list[int]] = {}
            for (number, place), branches in zip(
                level, vlm.branch(asked, self.branching), strict=True
            ):
                fresh.setdefault(number, []).extend(
                    self.add(trees[number], place, branches, prompts[number])
                )
            level = [
                (number, place)
                for number, places in fresh.items()
                for place in self.prune(trees[number], places)
            ]
        return trees

    def add(self, tree: Tree, parent: int, branches: Sequence[Branch], prompt: Prompt) -> list[int]:
        """Put a node's candidates into its tree; the places of those that are not final."""
        before, opened = tree.nodes[parent], []
        texts: set[str] = set()
        said = {tree.nodes[place].sentence.strip() for place in tree.lineage(parent)}
        for branch in self.compete(tree, before, branches):
            ends_here = branch.ended and not branch.text.strip()
            reason = None if ends_here and before.text else unclean(branch.text)
            if reason is None and branch.text in texts:
                reason = EQUAL
            elif reason is None and not self.repeats and branch.text.strip() in said:
                reason = SAID
            if reason is not None:
                tree.dropped[reason] += 1
                continue
            texts.add(branch.text)
            text = before.text + branch.text
            length = len(text) + (len(prompt.text) if self.count_prompt else 0)
            node = Node(
                parent=parent,
                text=text,
                sentence=branch.text,
                how="end" if branch.ended else "sentence" if branch.finished else "cut",
                score=before.score + self.score(branch),
                logp=branch.logp,
                n_tokens=branch.n_tokens,
                final=branch.ended or length >= self.max_chars,
            )
            if not node.final:
                opened.append(len(tree.nodes))
            tree.nodes.append(node)
        return opened

    def score(self, branch: Branch) -> float:
        return branch.score if self.penalty_in_score else branch.logp / branch.n_tokens

    def compete(self, tree: Tree, before: Node, branches: Sequence[Branch]) -> Sequence[Branch]:
        """With the text's end apart: the best of all candidates, as many as there are sentences.
        The end takes the place of the worst sentence if it is likelier, and is none otherwise; an
        empty text cannot end."""
        if self.branching.end != "apart":
            return branches
        *sentences, end = branches
        worst = min(sentences, key=self.score)
        if not before.text:
            return sentences
        if self.score(end) <= self.score(worst):
            tree.dropped[UNLIKELY] += 1
            return sentences
        return [*(each for each in sentences if each is not worst), end]

    def prune(self, tree: Tree, opened: Sequence[int]) -> list[int]:
        """The nodes of a level to be continued: all of them, or with n candidates a node and at
        least n open nodes the best n/2 - 1 and the worst n/2 (rounded down; at least the best one);
        with ``keep`` "best" as many of the best."""
        many = self.branching.candidates
        if len(opened) < many:
            return list(opened)
        ranked = sorted(opened, key=lambda place: -tree.nodes[place].score)
        top, bottom = max(1, many // 2 - 1), many // 2
        if self.keep == "best" or len(ranked) <= top + bottom:
            return ranked[: top + bottom]
        return ranked[:top] + ranked[len(ranked) - bottom :]
