"""SIMA's first step, response self-generation (arXiv 2405.15973, section 3.1): a greedy and a
sampled answer to each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from methods.interface import JSON, VLM, Completion, Decoding, Dropped, Item, Prompt
from methods.text import tokens

EQUAL = "equal responses"
REPEATED = "sample repeated"
EMPTY = "empty response"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are drawn: one greedy, ``samples`` at ``temperature`` and ``top_p``."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int

    def check(self, owner: str) -> None:
        """ValueError, in one sentence about ``owner``'s settings, where a number is out of
        range."""
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(
                f"{owner}.samples is {self.samples!r}; it must be a whole number of at least 1."
            )
        if not self.temperature > 0:
            raise ValueError(
                f"{owner}.temperature is {self.temperature!r}; it must be above 0, or samples are"
                " greedy."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"{owner}.top_p is {self.top_p!r}; it must lie in (0, 1].")
        check_tokens(f"{owner}.response_tokens", self.max_new_tokens)


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Two different answers to an item's question; ``key`` becomes the pair's."""

    key: str
    item: Item
    seed: int
    greedy: Completion
    sample: Completion

    @property
    def question(self) -> str:
        return question(self.item)

    def trace(self) -> dict[str, JSON]:
        """The beginning of the pair's or drop's trace."""
        return {
            "seed": self.seed,
            "question": self.question,
            "responses": {"greedy": told(self.greedy), "sample": told(self.sample)},
        }


def respond(
    vlm: VLM, items: Sequence[Item], seed: int, sampling: Sampling
) -> list[Responses | Dropped]:
    """Two responses a sample of each item, in the items' order, or a drop for what leaves nothing
    to compare."""
    if not items:
        return []
    cap = sampling.max_new_tokens
    asks = [
        Prompt(key=f"{seed}/{item.id}/greedy", text=question(item), image=item.image)
        for item in items
    ]
    greedy = vlm.generate(asks, Decoding(max_new_tokens=cap))
    draws = [
        Prompt(key=f"{seed}/{item.id}/sample/{index}", text=question(item), image=item.image)
        for item in items
        for index in range(sampling.samples)
    ]
    decoding = Decoding(
        max_new_tokens=cap, temperature=sampling.temperature, top_p=sampling.top_p, seed=seed
    )
    drawn = iter(vlm.generate(draws, decoding))
    found: list[Responses | Dropped] = []
    for item, best in zip(items, greedy, strict=True):
        seen: list[str] = []
        for index in range(sampling.samples):
            sample = next(drawn)
            both = Responses(
                key=f"{seed}/{item.id}/response/{index}",
                item=item,
                seed=seed,
                greedy=best,
                sample=sample,
            )
            reason = _nothing_to_compare(both, seen)
            seen.append(sample.text)
            found.append(
                both
                if reason is None
                else Dropped(key=both.key, item=item.id, reason=reason, trace=both.trace())
            )
    return found


def _nothing_to_compare(both: Responses, seen: Sequence[str]) -> str | None:
    greedy, sample = both.greedy.text, both.sample.text
    if not greedy.strip() or not sample.strip():
        return EMPTY
    if same_text(greedy, sample):
        return EQUAL
    return REPEATED if any(same_text(sample, earlier) for earlier in seen) else None


def same_text(one: str, other: str) -> bool:
    """Whether two texts hold the same words and marks: white space is the tokenizer's business, not
    the answer's."""
    return tokens(one) == tokens(other)


def question(item: Item) -> str:
    """
    Raises:
        ValueError: the item has no question.
    """
    if not item.question:
        raise ValueError(f"Item {item.id!r} has no question; give a pool whose lines have one.")
    return item.question


def reference(item: Item) -> str:
    """
    Raises:
        ValueError: the item has no reference answer.
    """
    if not item.reference:
        raise ValueError(
            f"Item {item.id!r} has no reference answer; give a pool whose lines have one."
        )
    return item.reference


def check_tokens(name: str, value: object) -> None:
    """ValueError unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def told(answer: Completion) -> JSON:
    """An answer as the trace keeps it: its text, log-probability (nats), length and whether it
    ended by itself."""
    return {
        "text": answer.text,
        "logp": answer.logp,
        "n_tokens": answer.n_tokens,
        "finished": answer.finished,
    }
