"""CSR: calibrated self-rewarding (Zhou et al., "Calibrated Self-Rewarding Vision Language Models",
arXiv 2405.14622).

The model answers a question about an image in many ways, sentence by sentence; each step is
rewarded by the model's own probability and by an image-text model's relevance. The best whole
answer is chosen, the worst rejected. Defaults follow the paper but for the reward (``ranks``: the
published numbers come from the released code's); PAPERS.md lists the differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from methods.csr.reward import Reward, best_and_worst, paths, relate
from methods.csr.search import Keep, Search, Tree
from methods.interface import (
    JSON,
    VLM,
    BeamSearchVLM,
    Branching,
    Dropped,
    Field,
    Item,
    Judge,
    Lora,
    PreferencePair,
    Prompt,
    Recipe,
    Scorer,
)

Ending = Literal["scored", "released"]

NO_SENTENCE = "no sentence end within the token limit"
FEW = "fewer than two finished texts"
EQUAL_COST = "best and worst text cost the same"

PUBLISHED = Recipe(
    lr=1e-7,
    epochs=1.0,
    global_batch=1,
    warmup=0.03,
    schedule="cosine",
    projector_lr=2e-5,
    beta=0.1,
    lora=Lora(r=128, alpha=256, dropout=0.05),
)
"""The published training of LLaVA-1.5-7B: LoRA, a pair a step."""


@dataclass(frozen=True, kw_only=True)
class Csr:
    """CSR's settings.

    ``lam`` is the paper's lambda, the weight of the image's relevance in the ``reward``.
    ``candidates`` sentences continue a node, found by diverse beam search in ``groups`` groups with
    ``penalty``, counted in a node's score where
    ``penalty_in_score``; or, at a ``temperature`` above 0, by sampling. ``keep``: which open nodes
    of a level go on. A sentence ends at one of ``sentence_ends`` or after ``sentence_tokens``
    tokens, a text at the model's end token or at ``max_chars`` characters, its prompt's included
    where ``count_prompt``. ``repeats``: a text may say a sentence again; an image-text model finds
    a true sentence relevant the second time too. ``ending``: the end of the text is a candidate
    beside the sentences with a score of its own ("scored"), or a token that the search reads past
    ("released"). ``scorer`` names the image-text model; empty: the one that goes with the base."""

    name: ClassVar[str] = "csr"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "scorer"})

    lam: float = 0.9
    reward: Reward = "ranks"
    candidates: int = 5
    groups: int = 5
    penalty: float = 3.0
    penalty_in_score: bool = True
    temperature: float = 0.0
    keep: Keep = "best_and_worst"
    sentence_ends: tuple[str, ...] = (".",)
    sentence_tokens: int = 74
    max_chars: int = 1024
    count_prompt: bool = False
    repeats: bool = True
    ending: Ending = "scored"
    scorer: str = ""
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        for name, allowed in (("reward", Reward), ("keep", Keep), ("ending", Ending)):
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(map(repr, get_args(allowed)))
                raise ValueError(f"Csr.{name} is {getattr(self, name)!r}; choose one of {choices}.")
        for name in ("penalty_in_score", "count_prompt", "repeats"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"Csr.{name} is {getattr(self, name)!r}; it must be True or False."
                )
        for name, least in (
            ("candidates", 2),
            ("groups", 1),
            ("sentence_tokens", 1),
            ("max_chars", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"Csr.{name} is {value!r}; it must be a whole number of at least {least}."
                )
        if not 0 <= self.lam <= 1:
            raise ValueError(
                f"Csr.lam is {self.lam!r}; it must lie between 0 (the model's own score) and 1"
                " (relevance) alone."
            )
        ends = self.sentence_ends
        if (
            not isinstance(ends, tuple)
            or not ends
            or not all(isinstance(end, str) and end for end in ends)
        ):
            raise ValueError(
                f"Csr.sentence_ends is {ends!r}; it must be a tuple of texts such as ('.',), none"
                " of them empty."
            )
        self.branching(0)  # the other settings' limits, in its words

    @classmethod
    def as_released(cls, **changes: Any) -> Csr:
        """Every setting as the released code has it, then ``changes``."""
        return replace(cls(sentence_tokens=70, count_prompt=True, ending="released"), **changes)

    def branching(self, seed: int) -> Branching:
        """How a node's candidates are found."""
        # Samples draw the end as they draw any token: its score needs no search of its own.
        scored: Literal["stop", "apart"] = "stop" if self.temperature else "apart"
        return Branching(
            candidates=self.candidates,
            groups=self.groups,
            diversity_penalty=self.penalty,
            max_new_tokens=self.sentence_tokens,
            stop=self.sentence_ends,
            end="token" if self.ending == "released" else scored,
            temperature=self.temperature,
            seed=seed,
        )

    def pairs(
        self,
        vlm: VLM,
        items: Sequence[Item],
        seed: int,
        *,
        scorer: Scorer | None = None,
        judge: Judge | None = None,  # noqa: ARG002 - of the protocol; CSR needs none
    ) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop an item, in the items' order.

        Raises:
            ValueError: no scorer is given, the model cannot branch, or an item has no question.
        """
        if scorer is None:
            raise ValueError(
                "CSR was given no scorer; pass scorer=, a model of image-text relevance such as"
                " CLIP."
            )
        if not isinstance(vlm, BeamSearchVLM):
            raise ValueError(
                "CSR searches with branch(), which this model has not; use the harness's own"
                " engine."
            )
        asked = []
        for item in items:
            if item.question is None:
                raise ValueError(
                    f"Item {item.id!r} has no question, and CSR answers one; use a pool with"
                    " questions."
                )
            asked.append(Prompt(key=f"{seed}/{item.id}", text=item.question, image=item.image))
        search = Search(
            branching=self.branching(seed),
            keep=self.keep,
            penalty_in_score=self.penalty_in_score,
            max_chars=self.max_chars,
            count_prompt=self.count_prompt,
            repeats=self.repeats,
        )
        trees = search.grow(vlm, asked)
        relate(trees, [item.image for item in items], scorer)
        for item, prompt, tree in zip(items, asked, trees, strict=True):
            yield self._judge(item, prompt, tree, seed)

    def _judge(self, item: Item, prompt: Prompt, tree: Tree, seed: int) -> PreferencePair | Dropped:
        """The pair of an item's tree, or its drop, with the tree in the trace."""
        finished = paths(tree, self.reward, self.lam)
        trace: dict[str, JSON] = {
            "seed": seed,
            "prompt": prompt.text,
            "tree": tree.told(),
            "expanded": sum(node.kept for node in tree.nodes),
            "finished": len(finished),
            "dropped": dict(tree.dropped),
        }
        reason = None
        if len(tree.nodes) > 1 and all(node.how == "cut" for node in tree.nodes[1:]):
            reason = NO_SENTENCE
        elif len(finished) < 2:
            reason = FEW
        else:
            best, worst = best_and_worst(finished)
            trace |= {"chosen": best.leaf, "rejected": worst.leaf, "costs": [best.cost, worst.cost]}
            if best.cost == worst.cost:
                reason = EQUAL_COST
        if reason is not None:
            return Dropped(key=prompt.key, item=item.id, reason=reason, trace=trace)
        return PreferencePair(
            key=prompt.key,
            item=item.id,
            prompt=prompt.text,
            chosen=best.text,
            rejected=worst.text,
            trace=trace,
        )
