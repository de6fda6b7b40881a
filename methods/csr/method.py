"""CSR: calibrated self-rewarding (Zhou et al., "Calibrated Self-Rewarding Vision Language Models",
arXiv 2405.14622).

The model answers a question about an image in many ways, sentence by sentence. Each step gets a
reward from the model's own probability and from an image-text model's relevance. The best whole
answer is chosen, the worst rejected. Defaults follow the paper, except the reward: the published
numbers come from the released code's ranks. PAPERS.md lists the differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from methods.csr.reward import Reward, best_and_worst, finished_texts, path_costs, set_relevance
from methods.csr.search import Keep, Search, Tree, by_score
from methods.entry import SYNTHETIC_RECIPE, Entry
from methods.interface import (
    JSON,
    BeamSearch,
    BeamSearchVLM,
    Dropped,
    Field,
    Item,
    Lora,
    Method,
    PreferencePair,
    Prompt,
    Recipe,
    Tools,
)
from methods.settings import AtLeastOne, at_least, between, not_empty

Ending = Literal["scored", "released"]

NO_SENTENCE = "no sentence end within the token limit"
TOO_FEW = "fewer than two finished texts"
EQUAL_COST = "best and worst text cost the same"

PUBLISHED = Recipe(
    lr=1e-7,
    epochs=1.0,
    global_batch=1,
    warmup=0.03,
    schedule="cosine",
    projector_lr=0.0,
    max_grad_norm=0.0,
    beta=0.1,
    lora=Lora(r=128, alpha=256, dropout=0.0),
)
"""The published training of LLaVA-1.5-7B: LoRA, one pair per step. The released script
(``scripts/run_train.sh``) asks for a projector rate of 2e-5 and a dropout of 0.05, but its trainer
freezes the projector and disables dropout. Its DeepSpeed file sets no clipping."""


@dataclass(frozen=True, kw_only=True)
class Csr(Method):
    """CSR's settings."""

    name: ClassVar[str] = "csr"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "scorer"})

    lam: Annotated[float, between(0, 1)] = 0.9
    """The paper's lambda (section 3.1), 0.9: the weight of the image's relevance in the reward. 0
    is the model's own score alone, 1 relevance alone."""
    reward: Reward = "ranks"
    """Ranks among siblings (released code) or the paper's scores."""
    candidates: Annotated[int, at_least(2)] = 5
    """Sentences that continue a node; 5 in the released code."""
    groups: AtLeastOne = 5
    """Groups of the diverse beam search; 5 in the released code."""
    penalty: Annotated[float, at_least(0)] = 3.0
    """Its diversity penalty; 3.0 in the released code."""
    penalty_in_score: bool = True
    """Whether the penalty counts in a node's score, as in the released code."""
    temperature: Annotated[float, at_least(0)] = 0.0
    """Above 0, candidates are sampled instead of searched for."""
    keep: Keep = "best_and_worst"
    """Which open nodes of a level are continued: the best and the worst by the model's own score
    (released code), as many of the best, or the best and the worst by the reward of the text so far
    (paper; ``reward`` and ``lam`` say which)."""
    sentence_ends: Annotated[tuple[Annotated[str, not_empty], ...], not_empty] = (".",)
    """The texts that end a sentence."""
    sentence_tokens: AtLeastOne = 74
    """Token limit of a sentence. Paper: 74; released code: 70."""
    max_chars: AtLeastOne = 1024
    """Characters at which a text is finished; 1,024 in the released code."""
    count_prompt: bool = False
    """Whether ``max_chars`` counts the whole prompt in the base's chat format, as in the released
    code: with ``vicuna_v1``, 183 characters beside the question (there 184, as its tokenizer
    decodes the begin token with a space)."""
    repeats: bool = True
    """Whether a text may repeat a sentence, as published. A true sentence is relevant the second
    time, too."""
    ending: Ending = "scored"
    """The end of the text is a candidate with a score of its own ("scored"), or a token that the
    search reads past ("released")."""
    scorer: str = ""
    """The image-text model: a card, a folder or a hub id. Empty: the one that goes with the base
    (paper: clip-vit-large-patch14-336)."""
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        super().__post_init__()
        self.search(0)  # checks the candidates and groups together

    @classmethod
    def as_released(cls, **changes: Any) -> Csr:
        """All settings as in the released code, then ``changes``."""
        released = cls(
            sentence_tokens=70,
            count_prompt=True,
            ending="released",
            recipe=replace(PUBLISHED, double_wrapped=True),
        )
        return replace(released, **changes)

    def search(self, seed: int) -> BeamSearch:
        """How a node's candidates are found."""
        # Samples draw the end token like any other, so it needs no score of its own.
        scored: Literal["stop", "apart"] = "stop" if self.temperature else "apart"
        return BeamSearch(
            num_beams=self.candidates,
            num_beam_groups=self.groups,
            diversity_penalty=self.penalty,
            max_new_tokens=self.sentence_tokens,
            stop=self.sentence_ends,
            end="token" if self.ending == "released" else scored,
            temperature=self.temperature,
            seed=seed,
        )

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop per item, in the items' order.

        Raises:
            ValueError: there is no scorer, the model cannot branch, or an item has no question.
        """
        if tools.scorer is None:
            raise ValueError(
                "CSR has no scorer; give Tools.scorer, a model of image-text relevance such as"
                " CLIP."
            )
        if not isinstance(tools.vlm, BeamSearchVLM):
            raise ValueError(
                "CSR searches with branch(), which this model does not have; use the harness's own"
                " engine."
            )
        prompts = [
            Prompt(key=f"{tools.seed}/{item.id}", text=item.required("question"), image=item.image)
            for item in items
        ]
        images, scorer = [item.image for item in items], tools.scorer

        def costs(trees: Sequence[Tree], first: Sequence[int]) -> list[list[float]]:
            set_relevance(trees, images, scorer, first)
            return [
                [round(cost, 6) for cost in path_costs(tree, self.reward, self.lam)]
                for tree in trees
            ]

        by_reward = self.keep == "best_and_worst_by_reward"
        search = Search(
            beams=self.search(tools.seed),
            keep=self.keep,
            penalty_in_score=self.penalty_in_score,
            max_chars=self.max_chars,
            prompt_chars=tools.format_chars if self.count_prompt else None,
            repeats=self.repeats,
            costs=costs if by_reward else by_score,
        )
        trees = search.grow(tools.vlm, prompts)
        if not by_reward:
            set_relevance(trees, images, scorer)
        for item, prompt, tree in zip(items, prompts, trees, strict=True):
            yield self._pair(item, prompt, tree, tools.seed)

    def _pair(self, item: Item, prompt: Prompt, tree: Tree, seed: int) -> PreferencePair | Dropped:
        """The pair of an item's tree, or its drop, with the tree in the trace."""
        finished = finished_texts(tree, self.reward, self.lam)
        trace: dict[str, JSON] = {
            "seed": seed,
            "prompt": prompt.text,
            "tree": tree.columns(),
            "expanded": sum(node.kept for node in tree.nodes),
            "finished": len(finished),
            "dropped": dict(tree.dropped),
        }
        reason = None
        if len(tree.nodes) > 1 and all(node.how == "cut" for node in tree.nodes[1:]):
            reason = NO_SENTENCE
        elif len(finished) < 2:
            reason = TOO_FEW
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


ENTRY = Entry(
    published=Csr(),
    # Sampled sentences: with diverse beams, rejected texts are a third longer than chosen ones
    # here, which teaches brevity.
    synthetic=Csr(
        candidates=4,
        groups=4,
        penalty=2.0,
        temperature=0.5,
        repeats=False,
        sentence_tokens=20,
        max_chars=200,
        recipe=SYNTHETIC_RECIPE,
    ),
    images=12856,  # of the released file; the paper: about 13,000
    rounds=3,
    same_images=True,
    seconds_per_image=0.100,  # a tree of about 13 expansions
)
