"""SIMA, the oracle and GT-DPO on a tiny real LLaVA in the real engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from harness.engine.engine import Engine
from methods.interface import Dropped, Item, Method, PreferencePair, Prompt, Tools
from methods.references import GtDpo, Oracle
from methods.sima.critic import FIRST, SECOND
from methods.sima.method import Sima
from methods.sima.prompts import SYNTHETIC
from tests.tiny_models import picture, tiny_llava

ITEMS = [
    Item(
        id=f"p{index}",
        image=picture(index),
        question="describe the image .",
        reference="there is a red ball .",
    )
    for index in range(5)
]
MARGIN = Sima(prompts=SYNTHETIC, verdict="margin", order="both", samples=2, response_tokens=8)
METHODS: tuple[Method, ...] = (
    MARGIN,
    Sima(prompts=SYNTHETIC, order="random", response_tokens=8, critic_tokens=4, examples=False),
    Oracle(response_tokens=8),
    GtDpo(answer_tokens=8),
)


class Lengths:
    """Ground truth by which an answer has as many errors as characters."""

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:  # noqa: ARG002
        return [float(len(answer)) for answer in answers]


@cache
def engine(batch_size: int) -> Engine:
    model, processor = tiny_llava(8)
    return Engine(model, processor, batch_size=batch_size)


def run(
    method: Method, items: Sequence[Item], batch_size: int = 64
) -> list[PreferencePair | Dropped]:
    return list(method.pairs(items, Tools(vlm=engine(batch_size), ground_truth=Lengths())))


def comparable(records: Sequence[PreferencePair | Dropped]) -> list[Any]:
    """The parts that must be equal: all but log-probabilities and margins, whose last digits depend
    on the batch."""

    def exact(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: exact(inner) for name, inner in value.items()}
        return (
            [exact(inner) for inner in value]
            if isinstance(value, list)
            else round(value, 3)
            if isinstance(value, float)
            else value
        )

    return [
        (
            record.key,
            record.item,
            getattr(record, "reason", None),
            getattr(record, "chosen", None),
            exact(dict(record.trace)),
        )
        for record in records
    ]


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize("method", METHODS, ids=["margin", "text", "oracle", "truth"])
def test_batching_changes_nothing(method: Method) -> None:
    together = comparable(run(method, ITEMS))
    assert together == [
        row for item in ITEMS for row in comparable(run(method, [item], batch_size=1))
    ]
    assert len(together) == len(ITEMS) * getattr(method, "samples", 1)


def test_margins_are_the_engines_log_probabilities_in_both_orders() -> None:
    records = run(MARGIN, ITEMS)
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    assert pairs
    for pair in pairs:
        trace: Any = pair.trace
        image = next(item.image for item in ITEMS if item.id == pair.item)
        margins = []
        for opinion in trace["critic"]:
            ask = Prompt(key="alone", text=opinion["prompt"], image=image)
            one, two = (engine(1).logps([ask], [verdict])[0] for verdict in (FIRST, SECOND))
            assert opinion["margin"] == pytest.approx(one - two, abs=1e-4)
            margins.append(one - two)
        assert trace["margin"] == pytest.approx((margins[0] - margins[1]) / 2, abs=1e-4)
        assert trace["greedy_won"] == (trace["margin"] > 0)


def test_the_oracle_chooses_between_simas_own_responses() -> None:
    found = run(Oracle(samples=2, response_tokens=8), ITEMS)
    assert [record.trace["responses"] for record in found] == [
        record.trace["responses"] for record in run(MARGIN, ITEMS)
    ]
    pairs = [record for record in found if isinstance(record, PreferencePair)]
    assert pairs
    assert all(len(pair.chosen) < len(pair.rejected) for pair in pairs)
