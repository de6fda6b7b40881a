"""The references on a scripted model: GT-DPO, and the oracle that chooses SIMA's responses by exact
truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from methods.interface import Completion, Decoding, Dropped, PreferencePair, Prompt, Tools
from methods.references import EQUAL as EQUALS_TRUTH
from methods.references import TIE, GtDpo, Oracle
from methods.sima.method import PUBLISHED, Sima
from methods.sima.prompts import SYNTHETIC
from methods.sima.responses import EMPTY, EQUAL
from tests.methods.scripted import ITEMS, ScriptedVLM


class Words:
    """An answer has one error for each word that the item's reference lacks. Calls are recorded."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:
        self.asked.append(item)
        truth = next(set(str(each.reference).split()) for each in ITEMS if each.id == item)
        return [float(len(set(answer.split()) - truth)) for answer in answers]


def scripted(texts: dict[str, str]) -> ScriptedVLM:
    return ScriptedVLM(
        lambda prompt, _: next((text for part, text in texts.items() if part in prompt.key), None)
    )


def test_the_truth_is_chosen_over_the_greedy_answer() -> None:
    model = ScriptedVLM()
    records = list(GtDpo().pairs(ITEMS, Tools(vlm=model)))
    ((prompts, decoding),) = model.calls
    assert decoding == Decoding(max_new_tokens=1024)
    assert records == [
        record for item in ITEMS for record in GtDpo().pairs([item], Tools(vlm=ScriptedVLM()))
    ]
    for record, item, prompt in zip(records, ITEMS, prompts, strict=True):
        assert isinstance(record, PreferencePair)
        answer: Completion = ScriptedVLM().generate([prompt], Decoding(max_new_tokens=8))[0]
        assert (record.prompt, record.chosen, record.rejected) == (
            item.question,
            item.reference,
            answer.text,
        )
        assert prompt == Prompt(key=prompt.key, text=str(item.question), image=item.image)
    assert not list(GtDpo().pairs([], Tools(vlm=ScriptedVLM())))


def test_an_answer_that_is_right_or_empty_is_dropped() -> None:
    right = str(ITEMS[0].reference).replace(" .", ".")  # the words and marks of the truth
    model = scripted({"picture/0/": right, "picture/1/": " "})
    records = list(GtDpo().pairs(ITEMS[:3], Tools(vlm=model)))
    assert [getattr(record, "reason", "pair") for record in records] == [
        EQUALS_TRUTH,
        EMPTY,
        "pair",
    ]


def test_the_oracle_chooses_the_response_with_fewer_errors() -> None:
    judge = Words()
    oracle = Oracle(samples=2)
    records = list(oracle.pairs(ITEMS, Tools(vlm=ScriptedVLM(), ground_truth=judge)))
    assert len(records) == 2 * len(ITEMS)
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    for pair in pairs:
        trace: Any = pair.trace
        better, worse = judge.errors(pair.item, [pair.chosen, pair.rejected])
        assert better < worse
        assert sorted(trace["errors"].values()) == [better, worse]
        assert trace["greedy_won"] == (pair.chosen == trace["responses"]["greedy"]["text"])
    assert {pair.trace["greedy_won"] for pair in pairs} == {True, False}
    # The same responses as SIMA's, and no reference is needed for them.
    sima = list(Sima(prompts=SYNTHETIC, samples=2).pairs(ITEMS, Tools(vlm=ScriptedVLM())))
    assert [record.trace["responses"] for record in records] == [
        record.trace["responses"] for record in sima
    ]
    assert (
        list(
            oracle.pairs(
                [replace(item, reference=None) for item in ITEMS],
                Tools(vlm=ScriptedVLM(), ground_truth=judge),
            )
        )
        == records
    )


def test_equally_wrong_and_equal_responses_are_counted_apart() -> None:
    texts = {
        "picture/0/": "a red cup .",
        "picture/1/greedy": "a key .",
        "picture/1/sample": "a moon .",
    }
    judge = Words()
    records = list(Oracle().pairs(ITEMS[:2], Tools(vlm=scripted(texts), ground_truth=judge)))
    assert [record.reason for record in records if isinstance(record, Dropped)] == [EQUAL, TIE]
    assert judge.asked == ["picture/1"]
    assert records[1].trace["errors"] == {"greedy": 1.0, "sample": 1.0}


def test_the_references_have_simas_recipe_and_name_their_needs() -> None:
    assert GtDpo().recipe == Oracle().recipe == PUBLISHED
    assert GtDpo.needs == {"image", "question", "reference"}
    assert Oracle.needs == {"image", "question", "ground_truth"}
    with pytest.raises(ValueError, match="needs the exact ground truth"):
        list(Oracle().pairs(ITEMS, Tools(vlm=ScriptedVLM())))
    with pytest.raises(ValueError, match=r"Oracle.response_tokens is 0"):
        Oracle(response_tokens=0)
    with pytest.raises(ValueError, match=r"GtDpo.answer_tokens is 0"):
        GtDpo(answer_tokens=0)
    for item in (replace(ITEMS[0], reference=None), replace(ITEMS[0], question=None)):
        with pytest.raises(ValueError, match="has no"):
            list(GtDpo().pairs([item], Tools(vlm=ScriptedVLM())))
