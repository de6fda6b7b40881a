"""SENA: image-only self-evolution (Tan et al., "Beyond Human Data", arXiv 2412.15650, AAAI 2025).

From an image alone, the model asks itself a question, describes the image and answers. With the
description it improves its answers (chosen); on a corrupted image it answers again (rejected).
Defaults follow the paper, and the released code where the paper is silent.
:meth:`Sena.as_released` follows the released code everywhere. PAPERS.md lists the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from PIL.Image import Image

from methods.entry import Entry
from methods.interface import (
    JSON,
    VLM,
    Completion,
    Decoding,
    Dropped,
    Field,
    Item,
    Method,
    PreferencePair,
    Prompt,
    Recipe,
    Tools,
)
from methods.keys import torch_seed
from methods.prompt_sets import fill
from methods.sena.corruption import STEPS, Corruption, corruption
from methods.sena.filters import NAME, NO_QUESTION, Case, NameFilter, asks_for_name, drop_reason
from methods.sena.prompts import REAL, SYNTHETIC, SenaPrompts, with_request
from methods.settings import AtLeastOne, between, distinct, not_empty

Check = Literal["seen", "blind", "none"]
Kind = Literal["description", "question"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PUBLISHED = Recipe(
    lr=2e-6,
    epochs=1.0,
    global_batch=128,
    warmup=0.03,
    schedule="constant",
    beta=0.1,
    alignment_weight=1.0,
)
"""The published training: full fine-tuning of LLaVA-1.5-7B. ``alignment_weight`` is the paper's
lambda. The released script (``run/run.sh``) asks for cosine without warm-up, but the DeepSpeed
file's own scheduler replaces it: 3 % warm-up, then a constant rate."""


@dataclass(frozen=True, kw_only=True)
class _ItemQuestions:
    """The questions about one item."""

    item: Item
    proposed: str
    """The model's first text."""
    checked: str | None
    """Its text after the check; None without a check."""

    @property
    def final_text(self) -> str:
        """The text that questions are read from."""
        return self.proposed if self.checked is None else self.checked


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One prompt of an item, which becomes a pair or a drop."""

    key: str
    """The key of the pair."""
    questions: _ItemQuestions
    kind: Kind
    prompt: str
    question: str
    description_key: str
    """The key of the description prompt of the same question."""

    @property
    def item(self) -> Item:
        return self.questions.item


@dataclass(frozen=True, kw_only=True)
class Sena(Method):
    """SENA's settings. The token limits are those of the released code."""

    name: ClassVar[str] = "sena"
    needs: ClassVar[frozenset[Field]] = frozenset({"image"})

    prompts: SenaPrompts = REAL
    """Our wording; the authors' sentences can be read from a file."""
    check: Check = "seen"
    """The model checks its question with the image ("seen", as in the paper), without it ("blind",
    as released) or not at all ("none")."""
    enhance: bool = True
    """Whether the first answers are improved with the description."""
    corruption: Corruption = "diffusion"
    """The image of the rejected answers. Paper: diffusion noise."""
    noise_step: Annotated[int, between(1, STEPS - 1)] = 600
    """Step of the diffusion schedule, used by "diffusion" alone. Released code: 600, at 336 x 336
    pixels. Another image size needs another step."""
    pair_kinds: Annotated[tuple[Kind, ...], not_empty, distinct] = KINDS
    """Which prompts become pairs."""
    keep_yes_no: bool = False
    """Whether pairs with a side that is only "yes" or "no" are kept. Released code: dropped."""
    name_filter: NameFilter = "whole_word"
    """Which questions ask for a name: those with the word, or those with the letters anywhere,
    which drops the whole image (as released)."""
    case: Case = "ignored"
    """Whether the filters ignore the case of letters, or compare as the released code does."""
    question_tokens: AtLeastOne = 512
    """Token limit of a question."""
    check_tokens: AtLeastOne = 1024
    """Token limit of a check."""
    answer_tokens: AtLeastOne = 512
    """Token limit of an answer."""
    recipe: Recipe = PUBLISHED

    @classmethod
    def as_released(cls, **changes: Any) -> Sena:
        """All settings as in the released code (our wording, unless ``prompts`` is changed), then
        ``changes``."""
        released = cls(
            check="blind",
            name_filter="substring_drops_image",
            case="released",
            recipe=replace(PUBLISHED, shuffles=8),
        )
        return replace(released, **changes)

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop for each prompt of each item, in the items' order.

        Each of the five steps is one call of the model for all items. A prompt's randomness comes
        from its key, so the result does not depend on which items share a call.

        Raises:
            ValueError: the corruption is "another" and the round has one image only.
        """
        if not items:
            return
        vlm, seed = tools.vlm, tools.seed
        records = [
            record
            for questions in self._ask(vlm, items, seed)
            for record in self._requests(questions, seed)
        ]
        requests = [record for record in records if isinstance(record, _Request)]
        pair_requests = [request for request in requests if request.kind in self.pair_kinds]
        # The enhancement reads the description, even where it becomes no pair.
        kinds = {*self.pair_kinds, *(["description"] if self.enhance else [])}
        first_answers = self._generate(
            vlm, [record for record in requests if record.kind in kinds], "answer"
        )
        enhanced_answers = self._enhance(vlm, pair_requests, first_answers) if self.enhance else {}
        rejected_answers = self._generate(vlm, pair_requests, "reject")
        for record in records:
            if isinstance(record, Dropped):
                yield record
            elif record.kind in self.pair_kinds:
                yield self._pair(
                    record,
                    seed,
                    first_answers,
                    enhanced_answers.get(record.key),
                    rejected_answers[record.key],
                )

    def _ask(self, vlm: VLM, items: Sequence[Item], seed: int) -> list[_ItemQuestions]:
        """Ask for a question about each image, then let the model keep or replace it."""
        ask_prompts = [
            Prompt(key=f"{seed}/{item.id}/ask", text=self.prompts.ask, image=item.image)
            for item in items
        ]
        answers = vlm.generate(ask_prompts, Decoding(max_new_tokens=self.question_tokens))
        proposals = [answer.text.strip() for answer in answers]
        checked: Sequence[str | None] = [None] * len(items)
        if self.check != "none":
            check_prompts = [
                Prompt(
                    key=f"{seed}/{item.id}/check",
                    text=fill(self.prompts.check, question=text),
                    image=item.image if self.check == "seen" else None,
                )
                for item, text in zip(items, proposals, strict=True)
            ]
            answers = vlm.generate(check_prompts, Decoding(max_new_tokens=self.check_tokens))
            checked = [answer.text.strip() for answer in answers]
        return [
            _ItemQuestions(item=item, proposed=proposal, checked=checked_text)
            for item, proposal, checked_text in zip(items, proposals, checked, strict=True)
        ]

    def _requests(self, questions: _ItemQuestions, seed: int) -> Iterator[_Request | Dropped]:
        """The two prompts of each question, or a drop for each prompt that is lost with its
        question."""
        item = questions.item
        # An item without a question loses one prompt of each kind.
        for index, question in enumerate(self.prompts.questions(questions.final_text) or (None,)):
            keys = {kind: f"{seed}/{item.id}/{kind}/{index}" for kind in KINDS}
            # The released code looks for "name" in the whole text of the check and drops the image.
            released = self.name_filter == "substring_drops_image"
            searched_text = (
                (questions.checked or questions.proposed) if released else question or ""
            )
            if question is None or asks_for_name(searched_text, self.name_filter):
                reason = NO_QUESTION if question is None else NAME
                trace = _trace(questions, question, seed)
                for kind in self.pair_kinds:
                    yield Dropped(
                        key=keys[kind], item=item.id, reason=reason, kind=kind, trace=trace
                    )
                continue
            paraphrases = self.prompts.describe
            description_prompt = paraphrases[torch_seed(keys["description"]) % len(paraphrases)]
            texts = {
                "description": with_request(description_prompt, self.prompts.brief),
                "question": with_request(question, self.prompts.word),
            }
            for kind in KINDS:
                yield _Request(
                    key=keys[kind],
                    questions=questions,
                    kind=kind,
                    prompt=texts[kind],
                    question=question,
                    description_key=keys["description"],
                )

    def _enhance(
        self, vlm: VLM, requests: Sequence[_Request], first_answers: Mapping[str, Completion]
    ) -> dict[str, Completion]:
        """The replies to the request for a more precise answer than the first."""
        texts = {
            request.key: self.prompts.enhancement(
                description=first_answers[request.description_key].text.strip(),
                prompt=request.prompt,
                answer=first_answers[request.key].text.strip(),
            )
            for request in requests
        }
        return self._generate(vlm, requests, "enhance", texts)

    def _generate(
        self,
        vlm: VLM,
        requests: Sequence[_Request],
        step: Literal["answer", "enhance", "reject"],
        texts: Mapping[str, str] | None = None,
    ) -> dict[str, Completion]:
        """Greedy answers to ``texts`` or to the requests' prompts; step "reject" corrupts the
        images."""
        if not requests:
            return {}
        other_images, corrupt = {}, None
        if step == "reject":
            if self.corruption == "another":
                other_images = _other_images(requests)
            else:
                corrupt = corruption(self.corruption, self.noise_step)
        prompts = [
            Prompt(
                key=f"{request.key}/{step}",
                text=request.prompt if texts is None else texts[request.key],
                image=other_images.get(request.item.id, request.item.image),
            )
            for request in requests
        ]
        decoding = Decoding(max_new_tokens=self.answer_tokens)
        answers = vlm.generate(prompts, decoding, corrupt=corrupt)
        return {request.key: answer for request, answer in zip(requests, answers, strict=True)}

    def _pair(
        self,
        request: _Request,
        seed: int,
        first_answers: Mapping[str, Completion],
        enhanced_answer: Completion | None,
        rejected_answer: Completion,
    ) -> PreferencePair | Dropped:
        """The pair of a request, or its drop; the trace holds every text on the way.

        ``first_answers`` are by key; ``rejected_answer`` is that to the corrupted image."""
        first_answer = first_answers[request.key]
        description = first_answers.get(request.description_key)
        enhanced = self.prompts.enhanced(enhanced_answer.text) if enhanced_answer else None
        chosen, rejected = enhanced or first_answer.text.strip(), rejected_answer.text.strip()
        trace: dict[str, JSON] = {
            **_trace(request.questions, request.question, seed),
            "description": description.text.strip() if description else None,
            "first": first_answer.as_json(),
            "enhanced": enhanced_answer.as_json() if enhanced_answer else None,
            "enhancement_used": enhanced is not None,
            "rejected": rejected_answer.as_json(),
            "corruption": self.corruption,
            "noise_step": self.noise_step if self.corruption == "diffusion" else None,
            "noise_key": f"{request.key}/reject",
        }
        reason = drop_reason(chosen, rejected, keep_yes_no=self.keep_yes_no, case=self.case)
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
            rejected=rejected,
            aligned=request.kind == "description",
            kind=request.kind,
            trace=trace,
        )


def _trace(questions: _ItemQuestions, question: str | None, seed: int) -> dict[str, JSON]:
    """The first entries of a pair's or drop's trace."""
    return {
        "seed": seed,
        "asked": questions.proposed,
        "checked": questions.checked,
        "question": question,
    }


def _other_images(requests: Sequence[_Request]) -> dict[str, Image]:
    """Another image of the round for each item's id; all prompts of an item share it.

    Raises:
        ValueError: the round has no other image.
    """
    readers = {request.item.id: request.item.another for request in requests}
    if None in readers.values():
        raise ValueError(
            'Sena.corruption "another" needs two images a round or more; give more --images.'
        )
    return {
        item_id: read_image() for item_id, read_image in readers.items() if read_image is not None
    }


ENTRY = Entry(
    published=Sena(),
    synthetic=Sena(
        prompts=SYNTHETIC,
        noise_step=420,
        question_tokens=24,
        check_tokens=32,
        answer_tokens=72,
        recipe=Recipe(lr=1.4e-4, epochs=2, global_batch=32, alignment_weight=1.0),
    ),
    images=6000,
    rounds=3,
    seconds_per_image=0.045,  # eight short generations
    pairs_per_image=2.0,
)
