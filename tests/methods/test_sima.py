"""SIMA end to end on a scripted model: responses, the critic's orders and verdicts, drops, traces
and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from methods.interface import Decoding, Dropped, Item, Lora, PreferencePair, Prompt, Recipe, Tools
from methods.sima.critic import (
    INCONSISTENT,
    NO_VERDICT,
    UNCERTAIN,
    Opinion,
    critic_report,
    decide,
    read_verdict,
)
from methods.sima.method import Sima
from methods.sima.prompts import SYNTHETIC
from methods.sima.responses import EMPTY, EQUAL, REPEATED
from tests.methods.scripted import ITEMS, ScriptedVLM
from tests.tiny_models import picture

SETTINGS: dict[str, Sima] = {
    "default": Sima(prompts=SYNTHETIC),
    "released": Sima.as_released(prompts=SYNTHETIC),
    "both": Sima(prompts=SYNTHETIC, order="both", samples=2),
    "margin": Sima(prompts=SYNTHETIC, verdict="margin", least_margin=1.5),
    "margin of both": Sima(prompts=SYNTHETIC, order="both", verdict="margin", samples=3),
}


def run(
    sima: Sima, items: Sequence[Item] = ITEMS, seed: int = 0, model: ScriptedVLM | None = None
) -> list[PreferencePair | Dropped]:
    return list(sima.pairs(items, Tools(vlm=model or ScriptedVLM(), seed=seed)))


def reasons(records: Sequence[PreferencePair | Dropped]) -> Counter[str]:
    return Counter(record.reason if isinstance(record, Dropped) else "pair" for record in records)


@pytest.mark.parametrize("name", SETTINGS)
def test_all_items_in_one_call_equal_one_item_a_call(name: str) -> None:
    together = run(SETTINGS[name])
    assert together == [record for item in ITEMS for record in run(SETTINGS[name], [item])]
    assert Counter(map(repr, together)) == Counter(map(repr, run(SETTINGS[name], ITEMS[::-1])))
    assert (
        len(together)
        == len({record.key for record in together})
        == len(ITEMS) * SETTINGS[name].samples
    )
    assert any(isinstance(record, PreferencePair) for record in together)


def test_the_seed_decides_the_samples_and_nothing_about_the_greedy_response() -> None:
    first, again, other = (run(SETTINGS["default"], seed=seed) for seed in (0, 0, 1))
    assert first == again

    def texts(records: Sequence[Any], name: str) -> list[str]:
        return [record.trace["responses"][name]["text"] for record in records]

    assert texts(first, "greedy") == texts(other, "greedy")
    assert all(
        one != two for one, two in zip(texts(first, "sample"), texts(other, "sample"), strict=True)
    )


def test_three_calls_serve_all_items() -> None:
    model = ScriptedVLM()
    run(SETTINGS["both"], model=model)
    greedy, sample, critic = model.calls
    assert greedy[1] == Decoding(max_new_tokens=1024)
    assert sample[1] == Decoding(max_new_tokens=1024, temperature=0.8, top_p=0.9, top_k=50, seed=0)
    assert critic[1] == Decoding(max_new_tokens=4096)
    assert [len(prompts) for prompts, _ in model.calls] == [10, 20, 40]
    assert all(prompt.image is not None for prompts, _ in model.calls for prompt in prompts)
    keys = [prompt.key for prompts, _ in model.calls for prompt in prompts]
    assert len(set(keys)) == len(keys)
    assert run(SETTINGS["both"], []) == []


def test_a_margin_is_scored_and_nothing_is_written_for_it() -> None:
    model = ScriptedVLM()
    records = run(
        replace(SETTINGS["margin"], prompts=replace(SYNTHETIC, verdict_lead="so :")), model=model
    )
    assert [decoding is None for _, decoding in model.calls] == [False, False, True]
    assert {prompt.prefix for prompt in model.calls[-1][0]} == {"so :"}
    trace: Any = records[0].trace
    assert [one["text"] for one in trace["critic"]] == [None]
    written = ScriptedVLM()
    run(
        replace(SETTINGS["default"], prompts=replace(SYNTHETIC, verdict_lead="so :")), model=written
    )
    assert {prompt.prefix for prompt in written.calls[-1][0]} == {""}


def test_keys_stay_unique_whatever_the_ids() -> None:
    ids = [
        "a",
        "a/greedy",
        "a/sample/0",
        "a/response/0",
        "response/0",
        "a/response/0/critic/greedy",
    ]
    model = ScriptedVLM()
    items = [replace(ITEMS[0], id=each, image=picture(place)) for place, each in enumerate(ids)]
    records = run(SETTINGS["both"], items, model=model)
    keys = [prompt.key for prompts, _ in model.calls for prompt in prompts]
    assert len(set(keys)) == len(keys)
    assert len({record.key for record in records}) == len(records)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_trace_has_every_text(name: str) -> None:
    sima = SETTINGS[name]
    by_id = {item.id: item for item in ITEMS}
    for record in run(sima):
        trace: Any = record.trace
        item = by_id[record.item]
        texts = {side: trace["responses"][side]["text"] for side in ("greedy", "sample")}
        assert trace["question"] == item.question
        if "critic" not in trace:
            continue
        assert trace["reference"] == item.reference
        assert trace["order"] == sima.order
        firsts = [opinion["first"] for opinion in trace["critic"]]
        assert firsts == {"both": ["greedy", "sample"], "fixed": ["sample"]}.get(sima.order, firsts)
        for opinion in trace["critic"]:
            second = "sample" if opinion["first"] == "greedy" else "greedy"
            assert (
                f"first : {texts[opinion['first']]} second : {texts[second]}"
                f" {'which' if sima.request_first else 'compare'}" in opinion["prompt"]
            )
            assert (
                opinion["winner"]
                == {1: opinion["first"], 2: second, None: None}[opinion["verdict"]]
            )
        if isinstance(record, PreferencePair):
            won, lost = ("greedy", "sample") if trace["greedy_won"] else ("sample", "greedy")
            assert (record.chosen, record.rejected) == (texts[won], texts[lost])
            assert record.prompt == item.question
            assert not record.aligned
        else:
            assert trace["greedy_won"] is None


def test_the_order_is_drawn_by_the_pairs_key() -> None:
    firsts = [
        record.trace["critic"][0]["first"]
        for record in run(SETTINGS["default"])
        if "critic" in record.trace
    ]  # type: ignore[call-overload,index]
    assert set(firsts) == {"greedy", "sample"}


def test_position_bias_cancels_where_both_orders_are_asked() -> None:
    def biased(**changes: Any) -> list[PreferencePair | Dropped]:
        return run(Sima(prompts=SYNTHETIC, **changes), model=ScriptedVLM(bias=100.0))

    assert reasons(biased(order="both")) == {INCONSISTENT: len(ITEMS)}
    released = biased(order="fixed")
    assert all(record.trace["greedy_won"] is False for record in released)
    drawn = critic_report(biased())
    assert (drawn.first_wins, drawn.verdict_rate) == (1.0, 1.0)
    assert drawn.greedy_wins is not None
    assert 0 < drawn.greedy_wins < 1
    # The liking cancels out of the mean of both margins, to the last bit of a sum near 100.
    unbiased = run(Sima(prompts=SYNTHETIC, order="both", verdict="margin"))
    cancelled = biased(order="both", verdict="margin")
    assert [record.trace["greedy_won"] for record in cancelled] == [
        record.trace["greedy_won"] for record in unbiased
    ]
    report = critic_report(cancelled)
    assert report.inconsistent == 1.0
    assert report.first_wins == 1.0
    assert reasons(unbiased)["pair"] > 0


def test_the_settings_decide_the_critics_prompt() -> None:
    def prompts(**changes: Any) -> list[str]:
        # The scripted critic reads the truth, so here it answers without reading.
        model = ScriptedVLM(lambda prompt, _: "[[1]]" if "/critic/" in prompt.key else None)
        records = run(Sima(prompts=SYNTHETIC, **changes), model=model)
        assert {record.trace["reference"] is None for record in records} == {
            changes.get("ground_truth") is False
        }
        return [prompt.text for prompt in model.calls[-1][0]]

    for text in prompts():
        assert text.startswith(SYNTHETIC.examples)
        assert text.endswith(f"{SYNTHETIC.criteria} {SYNTHETIC.verdict}")
    assert not any(SYNTHETIC.criteria in text for text in prompts(criteria=False))
    assert not any("example" in text for text in prompts(examples=False))
    for text in prompts(ground_truth=False, examples=False):
        assert "truth" not in text
        assert text.endswith(f"{SYNTHETIC.criteria_alone} {SYNTHETIC.verdict}")


def test_equal_or_empty_responses_are_dropped_without_the_critic() -> None:
    def script(prompt: Prompt, decoding: Decoding) -> str | None:
        place = int(prompt.key.split("/")[2])
        if "/critic/" in prompt.key or place > 3:
            return None
        sample = prompt.key.rsplit("/", 1)[-1] if decoding.temperature else None
        texts = {
            0: "a red ball ." if sample is None else "a  red ball.",  # equal but for white space
            1: " " if sample is None else "a cup .",
            2: (
                "a red ball ."
                if sample is None
                else {"0": "a cup .", "1": "a cup .", "2": " "}[sample]
            ),
            3: "a red ball ." if sample is None else "a Red ball .",
        }
        return texts[place]

    model = ScriptedVLM(script)
    records = run(Sima(prompts=SYNTHETIC, samples=3), ITEMS[:4], model=model)
    found = [record.reason if isinstance(record, Dropped) else "pair" for record in records]
    keeping = Sima(prompts=SYNTHETIC, samples=3, keep_equal=True)
    kept = run(keeping, ITEMS[:4], model=ScriptedVLM(script))
    for record, reason in zip(kept, found, strict=True):  # only equal responses reach the critic
        assert ("critic" in record.trace) == (reason in (EQUAL, "pair", NO_VERDICT))
    assert found[:3] == [EQUAL] * 3
    assert found[3:6] == [EMPTY] * 3
    assert found[6:9][1:] == [REPEATED, EMPTY]
    assert found[9] != EQUAL
    assert found[10:] == [REPEATED] * 2
    assert len(model.calls[-1][0]) == 2
    assert all(record.trace["responses"] for record in records)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[1]]", 1),
        ("The better AI generated response: [[2]].", 2),
        ("first [[1]], then rather [[2]] .", 2),
        ("[[ 1 ]]", 1),
        ("[[2]] [[none]]", None),
        ("[[1", None),
        ("[1]", None),
        ("[[12]]", None),
        ("[[1]] and an open [[", 1),
        ("", None),
    ],
)
def test_the_last_bracketed_verdict_counts(text: str, verdict: int | None) -> None:
    assert read_verdict(text) == verdict


def opinion(first: Any, margin: float | None = None, verdict: Any = None) -> Opinion:
    return Opinion(
        first=first,
        prompt="",
        text=None if margin is not None else "",
        margin=margin,
        verdict=verdict,
    )


def test_written_verdicts_must_agree() -> None:
    assert decide([opinion("greedy", verdict=1)], 0) == "greedy"
    assert decide([opinion("sample", verdict=1)], 0) == "sample"
    assert decide([opinion("sample")], 0) == NO_VERDICT
    assert decide([opinion("greedy", verdict=2), opinion("sample", verdict=1)], 0) == "sample"
    assert decide([opinion("greedy", verdict=1), opinion("sample", verdict=1)], 0) == INCONSISTENT
    assert decide([opinion("greedy", verdict=1), opinion("sample")], 0) == NO_VERDICT


def test_margins_are_averaged_and_held_to_the_threshold() -> None:
    both = [opinion("greedy", 3.0), opinion("sample", 2.0)]  # for the greedy response: 3 and -2
    assert decide(both, 0.0) == decide(both, 0.5) == "greedy"
    assert decide(both, 0.51) == UNCERTAIN
    assert decide([opinion("sample", 0.5)], 0.5) == "sample"
    assert decide([opinion("greedy", 1.0), opinion("sample", 1.0)], 0.0) == UNCERTAIN
    assert decide([opinion("greedy", float("nan"))], 0.0) == UNCERTAIN


def test_unreadable_verdicts_are_counted() -> None:
    model = ScriptedVLM(
        lambda prompt, _: (
            "I cannot say [[either]]"
            if "picture/1/" in prompt.key and "critic" in prompt.key
            else None
        )
    )
    records = run(SETTINGS["default"], ITEMS[:2], model=model)
    assert [
        record.reason
        for record in records
        if isinstance(record, Dropped) and record.item == "picture/1"
    ] == [NO_VERDICT]


def test_as_released_differs_only_where_papers_md_says() -> None:
    ours, released = Sima(), Sima.as_released()
    changed = {
        f.name: getattr(released, f.name)
        for f in fields(Sima)
        if getattr(ours, f.name) != getattr(released, f.name)
    }
    assert changed == {
        "order": "fixed",
        "keep_equal": True,
        "request_first": True,
        "recipe": replace(ours.recipe, objective="rejected_from_argmax"),
    }
    assert Sima.as_released(order="both", samples=2) == replace(released, order="both", samples=2)


def test_the_published_recipe() -> None:
    assert Sima().recipe == Recipe(
        lr=1e-7,
        epochs=3,
        global_batch=1,
        warmup=0.03,
        schedule="cosine",
        projector_lr=0.0,
        max_grad_norm=0.0,
        objective="dpo",
        beta=0.1,
        alignment_weight=0,
        lora=Lora(r=128, alpha=256, dropout=0.0),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order": "first"}, "order is 'first'; it must be 'random', 'fixed' or 'both'"),
        ({"verdict": "number"}, "it must be 'text' or 'margin'"),
        ({"criteria": 1}, "criteria is 1; it must be True or False"),
        ({"examples": None}, "examples is None"),
        ({"ground_truth": "no"}, "ground_truth is 'no'"),
        (
            {"least_margin": -0.1, "verdict": "margin"},
            "least_margin is -0.1; it must be a number of at least 0",
        ),
        ({"least_margin": float("nan"), "verdict": "margin"}, "least_margin is nan"),
        ({"least_margin": 0.1}, 'set verdict="margin"'),
        ({"samples": 0}, "samples is 0; it must be a whole number of at least 1"),
        ({"samples": True}, "samples is True"),
        ({"temperature": 0}, "temperature is 0; it must be a number above 0"),
        ({"top_p": 0}, "top_p is 0; it must be a number above 0 and at most 1"),
        ({"response_tokens": 0}, "Sima.response_tokens is 0"),
        ({"critic_tokens": 1.5}, "Sima.critic_tokens is 1.5"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        Sima(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_item_without_question_or_reference_is_told() -> None:
    with pytest.raises(ValueError, match="'picture/0' has no question"):
        run(Sima(), [replace(ITEMS[0], question=None)])
    with pytest.raises(ValueError, match="'picture/0' has no reference"):
        run(Sima(), [replace(ITEMS[0], reference=None)])
