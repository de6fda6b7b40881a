"""Toys for the harness's own tests: the smallest method and benchmark that use a real model, and a
base of random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from benchmarks.grading import percent, ratio
from benchmarks.interface import Grade, Metric, Question, Report, report
from harness.models.base_cards import LLAMA_LINEARS, BaseCard
from methods.interface import (
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
from tests.tiny_models import picture, tiny_llava

RECIPE = Recipe(lr=1e-3, epochs=1, global_batch=4)


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """Chosen: the greedy answer; rejected: a sampled one. An item whose two answers are equal is
    dropped."""

    name: ClassVar[str] = "toy"
    needs: ClassVar[frozenset[Field]] = frozenset({"image"})
    text: str = "describe the picture ."
    temperature: float = 1.0
    tokens: int = 6
    recipe: Recipe = RECIPE

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        prompts = [Prompt(key=item.id, text=self.text, image=item.image) for item in items]
        greedy = tools.vlm.generate(prompts, Decoding(max_new_tokens=self.tokens))
        decoding = Decoding(
            max_new_tokens=self.tokens, temperature=self.temperature, seed=tools.seed
        )
        sampled = tools.vlm.generate(prompts, decoding)
        for item, chosen, rejected in zip(items, greedy, sampled, strict=True):
            if chosen.text == rejected.text:
                yield Dropped(key=item.id, item=item.id, reason="equal")
            else:
                trace = {"logp": chosen.logp}
                yield PreferencePair(
                    key=item.id,
                    item=item.id,
                    prompt=self.text,
                    chosen=chosen.text,
                    rejected=rejected.text,
                    trace=trace,
                )


@dataclass(frozen=True, kw_only=True)
class Words:
    """Counts the words of an answer; two questions an image, the first with a cap of its own."""

    name: str = "words"
    version: str = "1"
    pictures: int = 3
    group: Literal["hallucination", "general"] = "general"
    metrics: tuple[Metric, ...] = (
        ratio("words", "words", "answers", "none", unit="words", primary=True),
        percent("the", "the", "words", "lower"),
    )

    def questions(self) -> Iterator[Question]:
        for index in range(self.pictures):
            for place, text in enumerate(("describe the picture .", "what colour is the ball ?")):
                image = picture(1000 + index)
                yield Question(
                    id=f"{index}-{place}",
                    images=(image,),
                    text=text,
                    max_new_tokens=4 + place,
                    cluster=f"picture {index}",
                )

    def grade(self, answers: Mapping[str, str]) -> Report:
        grades = []
        for question in self.questions():
            where = {"question": question.id, "cluster": question.cluster}
            if question.id not in answers:
                grades.append(Grade(**where, value=None, read_as=""))
                continue
            words = answers[question.id].split()
            counts = {"answers": 1.0, "words": float(len(words)), "the": float(words.count("the"))}
            grades.append(Grade(**where, value=float(len(words)), read_as="words", counts=counts))
        return report(self.metrics, grades)


def save_base(folder: Path) -> BaseCard:
    """A base card whose weights are the tiny LLaVA, saved to ``folder``."""
    model, processor = tiny_llava()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return card_of(folder)


def card_of(folder: Path) -> BaseCard:
    """The card of the tiny LLaVA in ``folder``."""
    return BaseCard(
        name="tiny",
        source=folder,
        revision=None,
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="synthetic",
        dtype="float32",
    )


def save_pictures(folder: Path, count: int) -> Path:
    """A folder of ``count`` small images, ``00.png`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture(index).save(folder / f"{index:02d}.png")
    return folder


OUTPUTS = (
    "pairs.jsonl",
    "drops.jsonl",
    "items.jsonl",
    "answers.jsonl",
    "questions.jsonl",
    "grades.parquet",
    "report.json",
)


def outputs(out: Path) -> dict[str, bytes]:
    """Every file that a result rests on, weights included."""
    found = [
        path
        for path in sorted(out.rglob("*"))
        if path.name in OUTPUTS or path.suffix in (".png", ".safetensors")
    ]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}
