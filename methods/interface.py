"""The types that methods and the harness share: items, prompts, completions, preference pairs,
recipes, and the protocols of a method, a model and its tools.

A method receives items (images with their texts) and tools (a model and more), and yields
preference pairs or reasons for having none. Training, rounds and evaluation belong to the harness,
so that all methods are compared under equal conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from PIL.Image import Image

from methods.settings import AtLeastOne, above, at_least, at_most, below, check_settings, not_empty

if TYPE_CHECKING:  # without torch, files can still be exported and graded
    import torch

Field = Literal["image", "question", "reference", "scorer", "ground_truth"]
"""What a method may ask for; the table prints it as the method's supervision. ``image``,
``question`` and ``reference`` are fields of an item. ``scorer`` is a model of image-text relevance,
``ground_truth`` the exact truth about answers."""

Corrupt = Callable[["torch.Tensor", str], "torch.Tensor"]
"""Maps a normalised image ``(C, H, W)`` and a prompt's key to an image of the same shape."""

JSON = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]
"""What a trace may hold. It is written as JSON Lines beside the pair."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of the pool, with the texts that the method declares to need."""

    id: str
    """Unique in the pool."""
    image: Image
    question: str | None = None
    """None unless the method needs ``question``."""
    reference: str | None = None
    """The reference answer; None unless the method needs ``reference``."""
    another: Callable[[], Image] | None = field(default=None, repr=False, compare=False)
    """Reads another image of the round, for methods that want a wrong image. The choice depends on
    this item's id alone, never on the other items of a call. None: the round has no other image."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("Item.id is empty; give each image of the pool an id of its own.")

    def required(self, name: Literal["question", "reference"]) -> str:
        """The item's question or reference answer.

        Raises:
            ValueError: the item has none.
        """
        text = self.question if name == "question" else self.reference
        if not text:
            words = "question" if name == "question" else "reference answer"
            raise ValueError(f"Item {self.id!r} has no {words}; give a pool whose lines have one.")
        return text


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request to a model."""

    key: str
    """Names the prompt and seeds all its randomness (sampling, corruption), so that batches, order
    and a resume change nothing. Unique in a call."""
    text: str
    image: Image | None = None
    """None: a prompt of text alone."""
    prefix: str = ""
    """The part of the answer that is already written; the model continues it."""

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("Prompt.key is empty; give a key that is unique in the call.")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are generated."""

    max_new_tokens: AtLeastOne
    temperature: Annotated[float, at_least(0)] = 0.0
    """0: greedy; above 0: sampling."""
    top_p: Annotated[float, above(0), at_most(1)] = 1.0
    """Nucleus sampling: the smallest set of tokens with this probability."""
    top_k: AtLeastOne | None = None
    """Sampling takes one of this many most likely tokens; ``top_p`` counts among these. None: any
    token."""
    seed: int = 0
    """Of sampling, together with each prompt's key."""
    stop: tuple[Annotated[str, not_empty], ...] = ()
    """Strings that end an answer; they stay in it."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer of a model."""

    text: str
    """Without special tokens."""
    logp: float
    """Sum of the log-probabilities (nats) of the generated tokens."""
    n_tokens: int
    """Generated tokens, the end token included where it was generated."""
    finished: bool
    """Whether the answer ended by an end token or a stop string, not at the token limit."""

    def as_json(self) -> dict[str, JSON]:
        """The answer as a trace keeps it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """How each prompt is continued in several ways.

    At ``temperature`` 0 by diverse beam search (Vijayakumar et al., arXiv 1610.02424), above 0 by
    ``num_beams`` independent samples."""

    num_beams: AtLeastOne
    """Continuations of a prompt."""
    num_beam_groups: AtLeastOne
    """Groups of equal size; beams compete within a group."""
    diversity_penalty: Annotated[float, at_least(0)]
    """Subtracted from a token's log-probability for each beam of an earlier group that took the
    token in the same step."""
    max_new_tokens: AtLeastOne
    stop: tuple[Annotated[str, not_empty], ...] = ()
    """Strings that end a continuation; they stay in it."""
    end: Literal["stop", "apart", "token"] = "stop"
    """The end token. "stop": it ends a continuation as a stop string does. "apart": the same, but
    ending at once is left out of the search and returned as one more branch, the last, with an
    empty text and a score of its own. "token": a token like any other."""
    temperature: Annotated[float, at_least(0)] = 0.0
    top_p: Annotated[float, above(0), at_most(1)] = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.num_beams % self.num_beam_groups:
            raise ValueError(
                f"{self.num_beams} beams cannot form {self.num_beam_groups} groups of equal size;"
                " give a number of groups that divides the number of beams."
            )
        if self.end == "apart" and self.temperature > 0:
            raise ValueError(
                'BeamSearch.end is "apart" at a temperature above 0; samples draw the end token'
                ' like any other, so use "stop".'
            )


@dataclass(frozen=True, kw_only=True)
class Branch(Completion):
    """One continuation of a prompt. The prompt's prefix + ``text`` is the answer so far; white
    space between them is part of ``text``."""

    score: float
    """The rank within the search: the sum of log-probabilities, less diversity penalties, divided
    by ``n_tokens``."""
    ended: bool
    """Whether it holds the end token, so that nothing can follow."""


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two answers to one prompt about the (clean) image of one item."""

    key: str
    """Unique within a run's round."""
    item: str
    """The item's id."""
    prompt: str
    chosen: str
    rejected: str
    aligned: bool = False
    """Whether the pair gets SENA's image content alignment term."""
    kind: str = "answer"
    """Pairs are counted and described by kind."""
    trace: Mapping[str, JSON] = field(default_factory=dict)
    """Every intermediate text and score."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> PreferencePair:
        """A pair from a line of ``pairs.jsonl``. Older files write ``aligned`` as ``anchored``."""
        renamed = {"anchored": "aligned"}
        return cls(**{renamed.get(name, name): value for name, value in row.items()})


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """An item, or one prompt of it, that gave no pair."""

    key: str
    item: str
    """The item's id."""
    reason: str
    """The record counts drops by reason."""
    kind: str = "answer"
    trace: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on the base card's target modules."""

    r: AtLeastOne
    """Rank."""
    alpha: AtLeastOne
    """The update is scaled by alpha / r."""
    dropout: Annotated[float, at_least(0), below(1)] = 0.0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How preference pairs train a model."""

    lr: Annotated[float, above(0)]
    """Peak learning rate of AdamW."""
    epochs: Annotated[float, above(0)] = 1.0
    """Passes over the pairs of a round."""
    global_batch: AtLeastOne = 128
    """Pairs per optimizer step."""
    warmup: Annotated[float, at_least(0), below(1)] = 0.0
    """Share of all steps with a linear warm-up."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """The learning rate after the warm-up."""
    projector_lr: Annotated[float, at_least(0)] | None = None
    """Peak learning rate of the projector; 0: it is frozen. None: ``lr``, but frozen with LoRA.
    SIMA's and CSR's scripts ask for 2e-5, but their trainers freeze it: they wrap the model in LoRA
    twice."""
    max_grad_norm: Annotated[float, at_least(0)] = 1.0
    """The gradient's norm is clipped to this; 0: no clipping. SENA's script: 1.0, transformers'
    default. The DeepSpeed files of SIMA and CSR set none."""
    shuffles: AtLeastOne = 1
    """Independent shufflings of the pairs that an epoch mixes. SENA's released code shuffles its
    list in each of eight processes without a common seed. With 8, about a third of the pairs is
    not in an epoch, and others are in it twice or more."""
    double_wrapped: bool = False
    """Whether the training prompt is put into the chat format twice, and the header of the answer
    (``ASSISTANT:``) is part of the answer. So in CSR's released pairs."""
    objective: Literal["dpo", "sft", "rejected_from_argmax"] = "dpo"
    """Loss; see :mod:`methods.objective`. "sft" trains on the chosen answers alone."""
    beta: Annotated[float, above(0)] = 0.1
    """DPO's beta."""
    alignment_weight: Annotated[float, at_least(0)] = 0.0
    """Weight of SENA's alignment loss (its lambda) on aligned pairs."""
    lora: Lora | None = None
    """None: every parameter but the vision tower's is trained."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def trains_projector(self) -> bool:
        return bool(self.projector_lr) or (self.projector_lr is None and self.lora is None)


class VLM(Protocol):
    """A vision-language model that answers and scores. Results follow the order of the prompts."""

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        """One answer per prompt; ``corrupt`` changes the normalised pixels first."""
        ...

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Sum of the log-probabilities (nats) of each completion and its end token, given its
        prompt."""
        ...


@runtime_checkable
class BeamSearchVLM(VLM, Protocol):
    """A model that also continues a prompt in several ways at once."""

    def branch(self, prompts: Sequence[Prompt], search: BeamSearch, /) -> list[list[Branch]]:
        """The branches of each prompt, best score first. The other prompts of a call do not change
        them."""
        ...


class Scorer(Protocol):
    """Image-text relevance, such as 100 * cosine of CLIP embeddings."""

    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:
        """One number for each image and its sentence; higher is more relevant."""
        ...


class GroundTruth(Protocol):
    """The exact truth about answers, where a pool has it (the synthetic pool). References may use
    it; no method may."""

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:
        """Errors of each answer about the item with this id; 0 is right."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a method works with in one round."""

    vlm: VLM
    """The model that is to improve."""
    seed: int = 0
    """The training seed of the run; part of every key."""
    scorer: Scorer | None = None
    """Given if the method needs ``scorer``."""
    ground_truth: GroundTruth | None = None
    """Given if the method needs ``ground_truth``."""
    format_chars: int = 0
    """Characters of the base's chat format around a question about an image."""


@runtime_checkable
class Method(Protocol):
    """A method is its settings: a frozen dataclass that extends this class and defines ``name``,
    ``needs``, ``recipe`` and :meth:`pairs`. Settings are checked from their annotations."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Field]]
    """What the method is given, beside the model."""
    role: ClassVar[Literal["method", "reference"]] = "method"
    """"reference": a row to compare with that uses supervision which no method may use."""

    @property
    def recipe(self) -> Recipe | None:
        """How the pairs train the model; None: nothing is trained."""
        ...

    @property
    def scorer(self) -> str | None:
        """The image-text model that it needs; None or empty: the one that goes with the base."""
        return None

    def __post_init__(self) -> None:
        check_settings(self)

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """Pairs and drops for these items. They must not depend on which items share a call."""
        ...

    def report(
        self,
        records: Sequence[PreferencePair | Dropped],  # noqa: ARG002 - for methods that report
    ) -> Mapping[str, JSON]:
        """What the round's record says beside the numbers of pairs and drops."""
        return {}
