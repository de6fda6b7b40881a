"""SIMA's first step, response self-generation (Wang et al., arXiv 2405.15973, section 3.1): a
greedy and a sampled answer to each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from methods.interface import JSON, VLM, Completion, Decoding, Dropped, Item, Prompt, Tools
from methods.text import tokens

EQUAL = "equal responses"
REPEATED = "sample repeated"
EMPTY = "empty response"


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Two different answers to an item's question."""

    key: str
    """The key of the pair."""
    item: Item
    question: str
    seed: int
    greedy: Completion
    sample: Completion

    def trace(self) -> dict[str, JSON]:
        """The first entries of the pair's or drop's trace."""
        return {
            "seed": self.seed,
            "question": self.question,
            "responses": {"greedy": self.greedy.as_json(), "sample": self.sample.as_json()},
        }


class Sampling(Protocol):
    """The settings that draw responses; :class:`methods.sima.method.Sima` explains them."""

    @property
    def samples(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def response_tokens(self) -> int: ...


def respond(
    items: Sequence[Item], tools: Tools, settings: Sampling, *, keep_equal: bool = False
) -> list[Responses | Dropped]:
    """The greedy and a sampled response, for each sample of each item in the items' order; a drop
    where the two cannot be compared. The tools' seed is part of every key. ``keep_equal`` keeps
    equal responses.

    Raises:
        ValueError: an item has no question.
    """
    if not items:
        return []
    vlm, seed = tools.vlm, tools.seed
    decoding = Decoding(
        max_new_tokens=settings.response_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seed=seed,
    )
    questions = [item.required("question") for item in items]
    greedy = greedy_answers(items, vlm, seed, decoding.max_new_tokens)
    sample_prompts = [
        Prompt(key=f"{seed}/{item.id}/sample/{index}", text=question, image=item.image)
        for item, question in zip(items, questions, strict=True)
        for index in range(settings.samples)
    ]
    sampled = iter(vlm.generate(sample_prompts, decoding))
    outcomes: list[Responses | Dropped] = []
    for item, question, answer in zip(items, questions, greedy, strict=True):
        earlier: list[str] = []
        for index in range(settings.samples):
            responses = Responses(
                key=f"{seed}/{item.id}/response/{index}",
                item=item,
                question=question,
                seed=seed,
                greedy=answer,
                sample=next(sampled),
            )
            reason = _drop_reason(responses, earlier)
            earlier.append(responses.sample.text)
            if reason is None or (keep_equal and reason == EQUAL):
                outcomes.append(responses)
            else:
                key, trace = responses.key, responses.trace()
                outcomes.append(Dropped(key=key, item=item.id, reason=reason, trace=trace))
    return outcomes


def greedy_answers(
    items: Sequence[Item], vlm: VLM, seed: int, max_new_tokens: int
) -> list[Completion]:
    """The greedy answer to each item's question."""
    prompts = [
        Prompt(key=f"{seed}/{item.id}/greedy", text=item.required("question"), image=item.image)
        for item in items
    ]
    return vlm.generate(prompts, Decoding(max_new_tokens=max_new_tokens)) if prompts else []


def _drop_reason(responses: Responses, earlier: Sequence[str]) -> str | None:
    """Why the two responses cannot be compared; ``earlier`` are the item's other samples."""
    greedy, sample = responses.greedy.text, responses.sample.text
    if not greedy.strip() or not sample.strip():
        return EMPTY
    if same_text(greedy, sample):
        return EQUAL
    return REPEATED if any(same_text(sample, text) for text in earlier) else None


def same_text(text: str, other: str) -> bool:
    """Whether two texts have the same words and marks. White space comes from the tokenizer, so it
    is ignored."""
    return tokens(text) == tokens(other)
