"""SENA: image-only self-evolution (Tan et al., "Beyond Human Data", arXiv 2412.15650, AAAI 2025).

From an image alone the model asks itself a question, describes the image, answers, betters its
answers with the description (chosen) and answers again on a corrupted image (rejected). Defaults
follow the paper, and the released code where the paper is silent; :meth:`Sena.as_released` does all
that the released code does. PAPERS.md lists the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from PIL.Image import Image

from methods.interface import (
    JSON,
    VLM,
    Completion,
    Decoding,
    Dropped,
    Field,
    Item,
    Judge,
    PreferencePair,
    Prompt,
    Recipe,
    Scorer,
)
from methods.sena.corruption import STEPS, Corruption, corruption, key_seed
from methods.sena.enhancement import enhanced_answer, enhancement_text
from methods.sena.filters import NAME, NO_QUESTION, Case, NameFilter, asks_for_name, drop_reason
from methods.sena.prompts import REAL, SenaPrompts, with_request
from methods.sena.questions import Asked, Check, ask_questions

Kind = Literal["description", "question"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PUBLISHED = Recipe(
    lr=2e-6,
    epochs=1.0,
    global_batch=128,
    warmup=0.0,
    schedule="cosine",
    beta=0.1,
    alignment_weight=1.0,
)
"""The published training: full fine-tuning of LLaVA-1.5-7B; ``alignment_weight`` is the paper's
lambda."""


@dataclass(frozen=True)
class _Request:
    """One prompt of an item on its way to a pair; ``key`` is the pair's key."""

    key: str
    item: Item
    kind: Kind
    prompt: str
    asked: Asked
    question: str
    description_key: str


@dataclass(frozen=True, kw_only=True)
class Sena:
    """SENA's settings.

    ``check``: the self-check of a question sees the image ("seen"), does not ("blind", as
    released) or is left out ("none").
    ``enhance``: better the first answers. ``corruption`` and ``noise_step`` (1..999, of
    "diffusion"): what the rejected answers are given on; another image size wants another step.
    ``pair_kinds``: which prompts become pairs.
    ``keep_yes_no``: keep pairs with a bare Yes or No. ``name_filter`` and ``case``: as sound or as
    released code reads text. The token limits are those of the released code."""

    name: ClassVar[str] = "sena"
    needs: ClassVar[frozenset[Field]] = frozenset({"image"})

    prompts: SenaPrompts = REAL
    check: Check = "seen"
    enhance: bool = True
    corruption: Corruption = "diffusion"
    noise_step: int = 600
    pair_kinds: tuple[Kind, ...] = KINDS
    keep_yes_no: bool = False
    name_filter: NameFilter = "whole_word"
    case: Case = "ignored"
    question_tokens: int = 512
    check_tokens: int = 1024
    answer_tokens: int = 512
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        for name, allowed in (
            ("check", Check),
            ("corruption", Corruption),
            ("name_filter", NameFilter),
            ("case", Case),
        ):
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(map(repr, get_args(allowed)))
                raise ValueError(
                    f"Sena.{name} is {getattr(self, name)!r}; choose one of {choices}."
                )
        for name in ("enhance", "keep_yes_no"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"Sena.{name} is {getattr(self, name)!r}; it must be True or False."
                )
        for name, most in (
            ("noise_step", STEPS - 1),
            ("question_tokens", None),
            ("check_tokens", None),
            ("answer_tokens", None),
        ):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or value < 1
                or (most is not None and value > most)
            ):
                allowed_range = f"from 1 to {most}" if most else "of at least 1"
                raise ValueError(
                    f"Sena.{name} is {value!r}; it must be a whole number {allowed_range}."
                )
        kinds = self.pair_kinds
        if (
            not isinstance(kinds, tuple)
            or not kinds
            or not set(kinds) <= set(KINDS)
            or len(set(kinds)) < len(kinds)
        ):
            raise ValueError(
                f"Sena.pair_kinds is {kinds!r}; it must be a tuple of 'description', 'question' or"
                " both, each once."
            )

    @classmethod
    def as_released(cls, **changes: Any) -> Sena:
        """Every setting as the released code has it (in our wording, unless ``prompts`` is
        changed), then ``changes``."""
        return replace(
            cls(check="blind", name_filter="substring_drops_image", case="released"), **changes
        )

    def pairs(
        self,
        vlm: VLM,
        items: Sequence[Item],
        seed: int,
        *,
        scorer: Scorer | None = None,  # noqa: ARG002 - of the protocol; SENA needs none
        judge: Judge | None = None,  # noqa: ARG002
    ) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop for each prompt made of each item, in the items' order.

        All items go through each of the five steps in one call of the model. A prompt's randomness
        comes from its key, so the result does not depend on which items share a call."""
        if not items:
            return
        asked = ask_questions(
            vlm,
            items,
            seed,
            prompts=self.prompts,
            check=self.check,
            question_tokens=self.question_tokens,
            check_tokens=self.check_tokens,
        )
        made = [record for each in asked for record in self._requests(each, seed)]
        requests = [record for record in made if isinstance(record, _Request)]
        used = [request for request in requests if request.kind in self.pair_kinds]
        # The description is answered even where it becomes no pair: the enhancement reads it.
        answered = [
            r
            for r in requests
            if r.kind in self.pair_kinds or (self.enhance and r.kind == "description")
        ]
        first = self._answers(vlm, answered, "answer")
        better: Mapping[str, Completion] = {}
        if self.enhance:
            texts = {
                request.key: enhancement_text(
                    self.prompts,
                    description=first[request.description_key].text.strip(),
                    prompt=request.prompt,
                    answer=first[request.key].text.strip(),
                )
                for request in used
            }
            better = self._answers(vlm, used, "enhance", texts)
        rejected = self._answers(vlm, used, "reject")
        for record in made:
            if isinstance(record, Dropped):
                yield record
            elif record.kind in self.pair_kinds:
                yield self._judge(record, seed, first, better, rejected)

    def _requests(self, asked: Asked, seed: int) -> Iterator[_Request | Dropped]:
        """The two prompts of each question, or a drop for each prompt that is lost with its
        question."""
        item = asked.item
        # An item without a question loses one prompt of each kind.
        for index, question in enumerate(asked.questions or (None,)):
            keys = {kind: f"{seed}/{item.id}/{kind}/{index}" for kind in KINDS}
            # The released code looks for "name" in the whole answer of the check and drops all of
            # it.
            named_in = (
                (asked.checked or asked.asked)
                if self.name_filter == "substring_drops_image"
                else question or ""
            )
            if question is None or asks_for_name(named_in, self.name_filter):
                reason = NO_QUESTION if question is None else NAME
                trace: dict[str, JSON] = {
                    "seed": seed,
                    "asked": asked.asked,
                    "checked": asked.checked,
                    "question": question,
                }
                for kind in self.pair_kinds:
                    yield Dropped(
                        key=keys[kind], item=item.id, reason=reason, kind=kind, trace=trace
                    )
                continue
            describe = self.prompts.describe[
                key_seed(keys["description"]) % len(self.prompts.describe)
            ]
            texts = {
                "description": with_request(describe, self.prompts.brief),
                "question": with_request(question, self.prompts.word),
            }
            for kind in KINDS:
                yield _Request(
                    keys[kind], item, kind, texts[kind], asked, question, keys["description"]
                )

    def _answers(
        self,
        vlm: VLM,
        requests: Sequence[_Request],
        step: str,
        texts: Mapping[str, str] | None = None,
    ) -> dict[str, Completion]:
        """Greedy answers by the requests' keys: to their prompts, or to ``texts``; on corrupted
        images in step "reject"."""
        wrong = step == "reject"
        shown = _other_pictures(requests) if wrong and self.corruption == "another" else {}
        prompts = [
            Prompt(
                key=f"{r.key}/{step}",
                text=r.prompt if texts is None else texts[r.key],
                image=shown.get(r.item.id, r.item.image),
            )
            for r in requests
        ]
        if not prompts:
            return {}
        corrupt = (
            corruption(self.corruption, self.noise_step)
            if wrong and self.corruption != "another"
            else None
        )
        answers = vlm.generate(
            prompts, Decoding(max_new_tokens=self.answer_tokens), corrupt=corrupt
        )
        return {request.key: answer for request, answer in zip(requests, answers, strict=True)}

    def _judge(
        self,
        request: _Request,
        seed: int,
        first: Mapping[str, Completion],
        better: Mapping[str, Completion],
        rejected: Mapping[str, Completion],
    ) -> PreferencePair | Dropped:
        """The pair of a request, or its drop, with every text on the way in the trace."""
        answer, wrong = first[request.key], rejected[request.key]
        description, bettered = first.get(request.description_key), better.get(request.key)
        enhanced = enhanced_answer(bettered.text, self.prompts.enhance_lead) if bettered else None
        chosen, worse = enhanced or answer.text.strip(), wrong.text.strip()
        trace: dict[str, JSON] = {
            "seed": seed,
            "asked": request.asked.asked,
            "checked": request.asked.checked,
            "question": request.question,
            "description": description.text.strip() if description else None,
            "first": _told(answer),
            "enhanced": _told(bettered),
            "enhancement_used": enhanced is not None,
            "rejected": _told(wrong),
            "corruption": self.corruption,
            "noise_step": self.noise_step if self.corruption == "diffusion" else None,
            "noise_key": f"{request.key}/reject",
        }
        reason = drop_reason(chosen, worse, keep_yes_no=self.keep_yes_no, case=self.case)
        if reason is not None:
            trace |= {"prompt": request.prompt, "chosen": chosen}
            return Dropped(
                key=request.key, item=request.item.id, reason=reason, kind=request.kind, trace=trace
            )
        return PreferencePair(
            key=request.key,
            item=request.item.id,
            prompt=request.prompt,
            chosen=chosen,
            rejected=worse,
            anchored=request.kind == "description",
            kind=request.kind,
            trace=trace,
        )


def _other_pictures(requests: Sequence[_Request]) -> dict[str, Image]:
    """Another image of the round for each item, by its id: one image for all its prompts.

    Raises:
        ValueError: the round has no other image.
    """
    readers = {request.item.id: request.item.another for request in requests}
    if None in readers.values():
        raise ValueError(
            'Sena.corruption "another" needs two images a round or more; give more --images.'
        )
    return {id: read() for id, read in readers.items() if read is not None}


def _told(answer: Completion | None) -> JSON:
    """An answer as the trace keeps it: the raw text, its log-probability (nats), length and whether
    it ended by itself."""
    if answer is None:
        return None
    return {
        "text": answer.text,
        "logp": answer.logp,
        "n_tokens": answer.n_tokens,
        "finished": answer.finished,
    }
