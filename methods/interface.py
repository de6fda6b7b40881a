"""The words methods and harness share: items, prompts, completions, pairs, recipes and the
protocols between them.

A method sees images and a model. It is handed items and a :class:`VLM`, and yields preference pairs
or reasons for having none; training on the pairs, rounds and evaluation belong to the harness, so
that the comparison stays fair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from PIL.Image import Image

if TYPE_CHECKING:  # reading these words needs no torch: answers can be graded where there is none
    import torch

Field = Literal["image", "question", "reference", "scorer", "judge"]
"""What a method may ask for, printed as its supervision: parts of an item, an image-text relevance
model (``scorer``), exact truth (``judge``)."""

Corrupt = Callable[["torch.Tensor", str], "torch.Tensor"]
"""Maps a normalised image ``(C, H, W)`` and a prompt's key to an image of the same shape."""

JSON = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]
"""What a trace may hold: it is written to JSONL beside the pair."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of the pool. ``question`` and ``reference`` are None unless the method declares
    that it needs them.

    ``another`` reads one more of the round's images, drawn by this item's id (never by what
    shares a call with it), for methods that want a wrong image; None where there is no other."""

    id: str
    image: Image
    question: str | None = None
    reference: str | None = None
    another: Callable[[], Image] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("Item.id is empty; give each image of the pool an id of its own.")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request to a model.

    ``key`` names the prompt and seeds all its randomness (sampling, corruption), so batch, order
    and resume change nothing.
    ``image`` None sends text alone. ``prefix`` is the part of the answer already written;
    generation continues behind it."""

    key: str
    text: str
    image: Image | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError(
                "Prompt.key is empty; the key seeds the prompt's randomness and must be unique in a"
                " call."
            )


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode: greedy at ``temperature`` 0, else sampling; ``stop`` strings end the answer
    and are kept in it."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or above.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1].")
        if any(not text for text in self.stop):
            raise ValueError(
                "stop holds an empty string; each stop string needs at least one character."
            )


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer: its text without special tokens, the sum ``logp`` (nats) of the log-probabilities
    of its ``n_tokens`` generated tokens (the end token included where it was generated), and
    whether it ended by itself (end token or stop)."""

    text: str
    logp: float
    n_tokens: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Branching:
    """How to continue each prompt in ``candidates`` ways.

    At ``temperature`` 0 by diverse beam search (Vijayakumar et al., arXiv 1610.02424): as many
    beams in ``groups`` groups, a token's log-probability lowered by ``diversity_penalty`` for each
    beam of an earlier group that took it in the same step. Above 0 by as many independent samples.
    ``stop`` strings end a continuation and are kept in it. ``end``: the end token ends a
    continuation as a stop does ("stop"); it does, but ending at once is left out of the search and
    comes as one branch more, the last, an empty text with a score of its own ("apart"); or it is a
    token like any other ("token")."""

    candidates: int
    groups: int
    diversity_penalty: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    end: Literal["stop", "apart", "token"] = "stop"
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.groups < 1 or self.candidates % self.groups:
            raise ValueError(
                f"{self.candidates} candidates in {self.groups} groups; both must be at least 1 and"
                " the groups of equal size."
            )
        if self.diversity_penalty < 0:
            raise ValueError(
                f"diversity_penalty is {self.diversity_penalty}; it must be 0 or above."
            )
        if self.end == "apart" and self.temperature > 0:
            raise ValueError(
                'end is "apart" at a temperature above 0; among samples the end is drawn like any'
                ' token: use "stop".'
            )
        Decoding(  # the same limits, in the same words
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
        )


@dataclass(frozen=True, kw_only=True)
class Branch(Completion):
    """One of a prompt's continuations: prefix + ``text`` is the answer so far, white space between
    them included.

    ``score`` is what the search ranked it by: the sum of its log-probabilities, diversity penalties
    taken off, divided by
    ``n_tokens``. ``ended``: it holds the end token, so nothing is to follow.
    """

    score: float
    ended: bool


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two answers to one prompt about one item's (clean) image.

    ``anchored`` pairs carry SENA's image content alignment term. ``trace`` holds every intermediate
    text and score.
    ``key`` is unique within a run's round.
    """

    key: str
    item: str
    prompt: str
    chosen: str
    rejected: str
    anchored: bool = False
    kind: str = "answer"
    trace: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """An item, or one prompt of it, that gave no pair, and why; counted by ``reason`` in the
    result."""

    key: str
    item: str
    reason: str
    kind: str = "answer"
    trace: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on the base card's target modules."""

    r: int
    alpha: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA needs r >= 1, alpha >= 1 and dropout in [0, 1), not {self}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How pairs become a model. ``global_batch`` counts pairs an optimiser step; ``warmup`` is a
    share of all steps;
    ``lora`` None trains every parameter but the vision tower's."""

    lr: float
    epochs: float = 1.0
    global_batch: int = 128
    warmup: float = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    projector_lr: float | None = None
    objective: Literal["dpo", "sft", "rejected_from_argmax"] = "dpo"
    beta: float = 0.1
    alignment_weight: float = 0.0
    lora: Lora | None = None

    def __post_init__(self) -> None:
        for name, ok, allowed in (
            ("lr", self.lr > 0, "above 0"),
            ("epochs", self.epochs > 0, "above 0"),
            ("global_batch", self.global_batch >= 1, "at least 1"),
            ("warmup", 0 <= self.warmup < 1, "in [0, 1)"),
            ("projector_lr", self.projector_lr is None or self.projector_lr > 0, "None or above 0"),
            ("beta", self.beta > 0, "above 0"),
            ("alignment_weight", self.alignment_weight >= 0, "0 or above"),
        ):
            if not ok:
                raise ValueError(f"Recipe.{name} is {getattr(self, name)}; it must be {allowed}.")


class VLM(Protocol):
    """A vision-language model that answers and scores. Answers come in the order of the prompts."""

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]: ...

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Sum of log-probabilities (nats) of each completion and its end token, given its
        prompt."""
        ...


@runtime_checkable
class BeamSearchVLM(VLM, Protocol):
    """A model that also continues a prompt in several ways at once."""

    def branch(self, prompts: Sequence[Prompt], branching: Branching) -> list[list[Branch]]:
        """Each prompt's branches, best score first; in the order of the prompts, and the same
        whatever else is asked."""
        ...


class Scorer(Protocol):
    """Image-text relevance, such as 100 * cosine of CLIP embeddings."""

    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]: ...


class Judge(Protocol):
    """Exact truth about answers, where a pool has it (the synthetic world): what an upper bound may
    use and no method."""

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:
        """How wrong each answer about the item is; fewer is better, 0 is right."""
        ...


@runtime_checkable
class Method(Protocol):
    """A method *is* its settings: a frozen dataclass with one verb. ``recipe`` None means: nothing
    is trained."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Field]]

    @property
    def recipe(self) -> Recipe | None: ...

    def pairs(
        self,
        vlm: VLM,
        items: Sequence[Item],
        seed: int,
        *,
        scorer: Scorer | None = None,
        judge: Judge | None = None,
    ) -> Iterator[PreferencePair | Dropped]:
        """Pairs and drops for these items; must not depend on which items share a call."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A method that says more of a round than its numbers of pairs and drops, such as what a critic
    did; kept in the record."""

    def report(self, records: Sequence[PreferencePair | Dropped]) -> Mapping[str, JSON]: ...
