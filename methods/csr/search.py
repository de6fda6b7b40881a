"""CSR's sentence-level search (Zhou et al., arXiv 2405.14622, section 3.1): one tree of texts per
item, grown level by level for all items together.

A node is a text that ends with a sentence. Its children add candidates for the next sentence. A
node's score is its parent's score plus its candidate's. Of a level's open nodes the best and the
worst are continued, so that chosen and rejected texts differ clearly. The order is that of the
score, as in the released code, or of the reward, as in the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from methods.csr.cleaning import drop_reason
from methods.interface import JSON, BeamSearch, BeamSearchVLM, Branch, Prompt

Keep = Literal["best_and_worst", "best", "best_and_worst_by_reward"]
How = Literal["root", "sentence", "end", "cut"]

EQUAL = "equal sentence"
SAID_BEFORE = "sentence said before"
UNLIKELY = "unlikely end"


@dataclass(kw_only=True)
class Node:
    """A text and its last step; without arguments, the root."""

    parent: int = -1
    """The parent's index in the tree; -1 for the root."""
    text: str = ""
    sentence: str = ""
    """What the step adds, with the white space before it."""
    how: How = "root"
    """How the step ended: with the sentence, with the text, or cut at the token limit."""
    score: float = 0.0
    """Sum of the beam scores from the root on."""
    logp: float = 0.0
    """Log-probability (nats) of the step alone."""
    n_tokens: int = 0
    """Tokens of the step alone."""
    final: bool = False
    """Whether the text is finished."""
    kept: bool = False
    """Whether it was continued."""
    relevance: float = 0.0
    """Relevance of the step to the image; set by :func:`methods.csr.reward.set_relevance`."""


@dataclass(kw_only=True)
class Tree:
    """Nodes, parents before children, from the root (the empty text) on."""

    nodes: list[Node]
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped candidates by reason."""

    def children(self) -> list[list[int]]:
        """The indices of each node's children."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes[1:], 1):
            children[node.parent].append(index)
        return children

    def path(self, index: int) -> list[int]:
        """The indices from the first sentence to this node; empty for the root."""
        path = []
        while index > 0:
            path.append(index)
            index = self.nodes[index].parent
        return path[::-1]

    def columns(self) -> Mapping[str, JSON]:
        """The tree for the trace: columns with one entry per node, numbers rounded."""
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


Costs = Callable[[Sequence[Tree], Sequence[int]], list[list[float]]]
"""The costs (lower is better) of the texts that end at each node of each tree. Its arguments are
the trees after a level and the number of nodes that each had before it."""


def by_score(trees: Sequence[Tree], _before: Sequence[int]) -> list[list[float]]:
    """The text with the highest score costs least."""
    return [[-node.score for node in tree.nodes] for tree in trees]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How trees grow; the fields are those of :class:`methods.csr.method.Csr`."""

    beams: BeamSearch
    """Finds a node's candidates."""
    keep: Keep
    penalty_in_score: bool
    max_chars: int
    prompt_chars: int | None
    """Characters of the chat format, which then count beside text and question; None: the text
    alone counts."""
    repeats: bool
    costs: Costs = by_score
    """Orders the open nodes of a level."""

    def grow(self, vlm: BeamSearchVLM, prompts: Sequence[Prompt]) -> list[Tree]:
        """A tree for each prompt; a level of all trees is one call of the model."""
        trees = [Tree(nodes=[Node()]) for _ in prompts]
        level = [(tree_index, 0) for tree_index in range(len(trees))]
        while level:
            requests, old_sizes = [], [len(tree.nodes) for tree in trees]
            for tree_index, node_index in level:
                node, prompt = trees[tree_index].nodes[node_index], prompts[tree_index]
                node.kept = True
                requests.append(replace(prompt, key=f"{prompt.key}/{node_index}", prefix=node.text))
            open_by_tree: dict[int, list[int]] = {}
            candidates = vlm.branch(requests, self.beams)
            for (tree_index, node_index), branches in zip(level, candidates, strict=True):
                open_by_tree.setdefault(tree_index, []).extend(
                    self.add(trees[tree_index], node_index, branches, prompts[tree_index])
                )
            costs = self.costs(trees, old_sizes)
            level = [
                (tree_index, node_index)
                for tree_index, open_nodes in open_by_tree.items()
                for node_index in self.prune(costs[tree_index], open_nodes)
            ]
        return trees

    def add(self, tree: Tree, parent: int, branches: Sequence[Branch], prompt: Prompt) -> list[int]:
        """Add a node's candidates to its tree; returns the indices of those that are not final."""
        parent_node, open_nodes = tree.nodes[parent], []
        texts: set[str] = set()
        earlier = {tree.nodes[index].sentence.strip() for index in tree.path(parent)}
        for branch in self.with_end(tree, parent_node, branches):
            ends_here = branch.ended and not branch.text.strip()
            reason = None if ends_here and parent_node.text else drop_reason(branch.text)
            if reason is None and branch.text in texts:
                reason = EQUAL
            elif reason is None and not self.repeats and branch.text.strip() in earlier:
                reason = SAID_BEFORE
            if reason is not None:
                tree.dropped[reason] += 1
                continue
            texts.add(branch.text)
            text = parent_node.text + branch.text
            other_chars = 0 if self.prompt_chars is None else len(prompt.text) + self.prompt_chars
            node = Node(
                parent=parent,
                text=text,
                sentence=branch.text,
                how="end" if branch.ended else "sentence" if branch.finished else "cut",
                score=parent_node.score + self.score(branch),
                logp=branch.logp,
                n_tokens=branch.n_tokens,
                final=branch.ended or other_chars + len(text) >= self.max_chars,
            )
            if not node.final:
                open_nodes.append(len(tree.nodes))
            tree.nodes.append(node)
        return open_nodes

    def score(self, branch: Branch) -> float:
        """A candidate's share of its node's score."""
        return branch.score if self.penalty_in_score else branch.logp / branch.n_tokens

    def with_end(
        self, tree: Tree, parent_node: Node, branches: Sequence[Branch]
    ) -> Sequence[Branch]:
        """The candidates of a node when the text's end is scored apart.

        The end replaces the worst sentence if it is likelier, else it is dropped; so their number
        stays. An empty text cannot end."""
        if self.beams.end != "apart":
            return branches
        *sentences, end = branches
        worst = min(sentences, key=self.score)
        if not parent_node.text:
            return sentences
        if self.score(end) <= self.score(worst):
            tree.dropped[UNLIKELY] += 1
            return sentences
        return [*(sentence for sentence in sentences if sentence is not worst), end]

    def prune(self, costs: Sequence[float], open_nodes: Sequence[int]) -> list[int]:
        """The nodes of a level that are continued, from the costs of all nodes.

        With n candidates per node and fewer than n open nodes: all. Else the best n/2 - 1 (at least
        one) and the worst n/2, rounded down; with ``keep`` "best", as many of the best."""
        num_beams = self.beams.num_beams
        if len(open_nodes) < num_beams:
            return list(open_nodes)
        ranked = sorted(open_nodes, key=lambda index: costs[index])
        top, bottom = max(1, num_beams // 2 - 1), num_beams // 2
        if self.keep == "best" or len(ranked) <= top + bottom:
            return ranked[: top + bottom]
        return ranked[:top] + ranked[len(ranked) - bottom :]
