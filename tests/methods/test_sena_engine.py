"""SENA on a tiny real LLaVA in the real engine.

A model with random weights asks no questions, so its questions are replaced. All other answers,
also those on corrupted images, are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from harness.engine.engine import Engine
from methods.interface import (
    Completion,
    Corrupt,
    Decoding,
    Dropped,
    Item,
    PreferencePair,
    Prompt,
    Tools,
)
from methods.sena.corruption import CORRUPTIONS, Corruption
from methods.sena.method import Sena
from methods.sena.prompts import SYNTHETIC
from tests.tiny_models import picture, tiny_llava

ITEMS = [Item(id=f"p{index}", image=picture(index)) for index in range(6)]
SENA = Sena(prompts=SYNTHETIC, check="none", question_tokens=4, check_tokens=4, answer_tokens=8)


class Asking:
    """The engine, with two fixed questions in place of those that it asks or checks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        answers = self.engine.generate(prompts, decoding, corrupt=corrupt)
        asked = "keep : what is in the image ? where is the ball ?"
        return [
            replace(answer, text=asked) if prompt.key.endswith(("/ask", "/check")) else answer
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return self.engine.logps(prompts, completions)


@cache
def asking(batch_size: int) -> Asking:
    model, processor = tiny_llava(8)
    return Asking(Engine(model, processor, batch_size=batch_size))


def comparable(records: Sequence[PreferencePair | Dropped]) -> list[tuple[object, ...]]:
    """The parts that must be equal: all but the log-probabilities, whose last digits depend on the
    batch."""
    rows: list[tuple[object, ...]] = []
    for record in records:
        trace = {
            name: value["text"] if isinstance(value, dict) else value
            for name, value in record.trace.items()
        }
        rows.append((record.key, record.item, record.kind, getattr(record, "reason", None), trace))
    return rows


def rejected(records: Sequence[PreferencePair | Dropped]) -> list[object]:
    return [record.trace["rejected"]["text"] for record in records if "rejected" in record.trace]  # type: ignore[call-overload,index]


@pytest.mark.equality
@pytest.mark.parametrize(
    "sena", [SENA, replace(SENA, check="seen", corruption="crop"), replace(SENA, check="blind")]
)
def test_batching_changes_nothing(sena: Sena) -> None:
    together = comparable(list(sena.pairs(ITEMS, Tools(vlm=asking(64)))))
    alone = [
        row for item in ITEMS for row in comparable(list(sena.pairs([item], Tools(vlm=asking(1)))))
    ]
    assert together == alone


def test_every_prompt_becomes_a_pair_or_a_drop_and_some_become_pairs() -> None:
    records = list(SENA.pairs(ITEMS, Tools(vlm=asking(64))))
    assert len(records) == len(ITEMS) * 2 * 2
    assert any(isinstance(record, PreferencePair) for record in records)


@pytest.mark.thorough
def test_each_corruption_changes_the_answers() -> None:
    def answers(kind: Corruption) -> list[object]:
        return rejected(list(replace(SENA, corruption=kind).pairs(ITEMS, Tools(vlm=asking(64)))))

    clean = [record.trace["first"]["text"] for record in SENA.pairs(ITEMS, Tools(vlm=asking(64)))]  # type: ignore[call-overload,index]
    by_kind = {kind: answers(kind) for kind in CORRUPTIONS}
    for kind, found in by_kind.items():
        assert found != clean, kind
    assert by_kind["diffusion"] != rejected(
        list(replace(SENA, noise_step=999).pairs(ITEMS, Tools(vlm=asking(64))))
    )
    assert by_kind["diffusion"] != rejected(list(SENA.pairs(ITEMS, Tools(vlm=asking(64), seed=1))))
