"""SENA end to end on a scripted model, which is a pure function of the prompt's text and pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from methods.catalogue import METHODS
from methods.interface import (
    Dropped,
    Item,
    Method,
    PreferencePair,
    Prompt,
    Recipe,
    Tools,
)
from methods.sena import filters
from methods.sena.method import Sena
from methods.sena.prompts import SYNTHETIC
from methods.untrained import Untrained
from tests.methods.scripted_sena import ITEMS, Script, ScriptedVLM
from tests.tiny_models import picture

SETTINGS: dict[str, Sena] = {
    "default": Sena(prompts=SYNTHETIC),
    "released": Sena.as_released(prompts=SYNTHETIC),
    "unchecked": Sena(prompts=SYNTHETIC, check="none"),
    "plain": Sena(prompts=SYNTHETIC, enhance=False, keep_yes_no=True),
    "questions": Sena(prompts=SYNTHETIC, pair_kinds=("question",)),
    "descriptions": Sena(prompts=SYNTHETIC, pair_kinds=("description",), corruption="crop"),
    "another": Sena(prompts=SYNTHETIC, corruption="another"),
}


def run(
    sena: Sena, items: Sequence[Item] = ITEMS, seed: int = 0, script: Script | None = None
) -> list[PreferencePair | Dropped]:
    return list(sena.pairs(items, Tools(vlm=ScriptedVLM(script), seed=seed)))


@pytest.mark.parametrize("name", SETTINGS)
def test_all_items_in_one_call_equal_one_item_a_call(name: str) -> None:
    together = run(SETTINGS[name])
    assert together == [record for item in ITEMS for record in run(SETTINGS[name], [item])]
    assert Counter(map(repr, together)) == Counter(map(repr, run(SETTINGS[name], ITEMS[::-1])))


@pytest.mark.parametrize("name", SETTINGS)
def test_pairs_and_drops_add_up(name: str) -> None:
    sena = SETTINGS[name]
    records = run(sena)
    assert len({record.key for record in records}) == len(records)
    for item in ITEMS:
        mine = [record for record in records if record.item == item.id]
        text = mine[0].trace["asked"] if sena.check == "none" else mine[0].trace["checked"]
        made = str(text).count("?") or 1
        assert Counter(record.kind for record in mine) == dict.fromkeys(sena.pair_kinds, made)
    assert any(isinstance(record, PreferencePair) for record in records)
    assert {filters.NO_QUESTION, filters.NAME} <= {
        r.reason for r in run(Sena(prompts=SYNTHETIC, check="none")) if isinstance(r, Dropped)
    }


def test_the_seed_decides() -> None:
    sena = SETTINGS["default"]
    assert run(sena) == run(sena)
    first, other = (
        {
            record.key.split("/", 1)[1]: record
            for record in run(sena, seed=seed)
            if isinstance(record, PreferencePair)
        }
        for seed in (0, 1)
    )
    shared = first.keys() & other.keys()
    assert any(first[key].prompt != other[key].prompt for key in shared)
    assert any(
        first[key].prompt == other[key].prompt and first[key].rejected != other[key].rejected
        for key in shared
    )


def test_five_calls_serve_all_items_in_order() -> None:
    model = ScriptedVLM()
    records = list(SETTINGS["default"].pairs(ITEMS, Tools(vlm=model)))
    assert [corrupted for _, _, corrupted in model.calls] == [False, False, False, False, True]
    assert [decoding.max_new_tokens for _, decoding, _ in model.calls] == [512, 1024, 512, 512, 512]
    assert all(decoding.temperature == 0 for _, decoding, _ in model.calls)
    keys = [prompt.key for prompts, _, _ in model.calls for prompt in prompts]
    assert len(set(keys)) == len(keys)
    order = [item.id for item in ITEMS]
    assert [record.item for record in records] == sorted(
        (record.item for record in records), key=order.index
    )
    assert not list(SETTINGS["default"].pairs([], Tools(vlm=ScriptedVLM())))


def test_keys_stay_unique_whatever_the_ids() -> None:
    ids = [
        "a",
        "a/ask",
        "a/description/0",
        "a/description/0/answer",
        "description/0",
        "a/0/question",
    ]
    model = ScriptedVLM()
    records = list(
        SETTINGS["unchecked"].pairs(
            [Item(id=each, image=picture(0)) for each in ids], Tools(vlm=model)
        )
    )
    keys = [prompt.key for prompts, _, _ in model.calls for prompt in prompts]
    assert len(set(keys)) == len(keys)
    assert len({record.key for record in records}) == len(records)


@pytest.mark.parametrize(
    ("check", "shown"), [("seen", [True, True]), ("blind", [True, False]), ("none", [True])]
)
def test_the_check_sees_the_image_or_not(check: Any, shown: list[bool]) -> None:
    model = ScriptedVLM()
    list(Sena(prompts=SYNTHETIC, check=check).pairs(ITEMS[:3], Tools(vlm=model)))
    asking = [
        prompts for prompts, _, _ in model.calls if prompts[0].key.endswith(("/ask", "/check"))
    ]
    assert [prompts[0].image is not None for prompts in asking] == shown


def test_a_trace_has_every_text() -> None:
    pairs = [record for record in run(SETTINGS["default"]) if isinstance(record, PreferencePair)]
    for pair in pairs:
        request = SYNTHETIC.brief if pair.kind == "description" else SYNTHETIC.word
        assert pair.prompt.endswith(request)
        assert pair.aligned == (pair.kind == "description")
        trace: Any = pair.trace
        assert trace["noise_key"] == f"{pair.key}/reject"
        assert trace["corruption"] == "diffusion"
        assert trace["noise_step"] == 600
        assert trace["rejected"]["text"] == pair.rejected
        raw = trace["enhanced"]["text"]
        assert trace["enhancement_used"] == raw.startswith("precise answer :")
        assert pair.chosen == (
            raw.removeprefix("precise answer : ")
            if trace["enhancement_used"]
            else trace["first"]["text"]
        )
        if pair.kind == "question":
            assert pair.prompt == f"{trace['question']}\n{SYNTHETIC.word}"
            assert trace["question"] in trace["checked"]
        else:
            assert pair.prompt.split("\n")[0] in SYNTHETIC.describe
            assert trace["description"] == trace["first"]["text"]
    assert {pair.kind for pair in pairs} == {"description", "question"}
    assert len({pair.trace["enhancement_used"] for pair in pairs}) == 2


def test_the_enhancement_reads_description_prompt_and_answer() -> None:
    braces = "{answer} is {0}"

    def script(prompt: Prompt, corrupted: bool, _: int) -> str | None:
        if prompt.text == SYNTHETIC.ask:
            return "what is it?"
        if "/description/" in prompt.key and prompt.key.endswith("/answer") and not corrupted:
            return "Yes" if "picture/1/" in prompt.key else braces
        return "two cups" if prompt.key.endswith("/answer") else None

    model = ScriptedVLM(script)
    list(Sena(prompts=SYNTHETIC, check="none").pairs(ITEMS[:2], Tools(vlm=model)))
    first, last = (
        [p.text for p in model.calls[2][0] if f"picture/{index}/" in p.key] for index in (0, 1)
    )
    assert len(first) == len(last) == 2
    assert all(text.startswith(f"description : {braces} question : ") for text in first)
    assert all(text.startswith("question : ") for text in last)
    assert f"answer in one short sentence . answer : {braces} give" in first[0]
    assert "what is it?\nanswer with a single word or phrase . answer : two cups give" in first[1]


def test_an_enhancement_with_nothing_after_its_lead_is_not_used() -> None:
    def script(prompt: Prompt, _corrupted: bool, _number: int) -> str | None:
        return "Precise answer:" if prompt.key.endswith("/enhance") else None

    used = [
        record.trace["enhancement_used"]
        for record in run(SETTINGS["default"], script=script)
        if "first" in record.trace
    ]
    assert used
    assert not any(used)


def test_every_prompt_has_its_own_noise() -> None:
    seen: dict[str, int] = {}

    def script(prompt: Prompt, corrupted: bool, number: int) -> str | None:
        if corrupted:
            seen[prompt.key] = number
        return "what is it? what is it?" if prompt.text == SYNTHETIC.ask else None

    # One question twice: the same text and image, so that only the noise can make two answers
    # differ.
    sena = Sena(prompts=replace(SYNTHETIC, describe=("describe it .",)), check="none")
    run(sena, ITEMS[:1], script=script)
    assert len(seen) == len(set(seen.values())) == 4


def test_only_what_is_used_is_generated() -> None:
    def kinds(**changes: Any) -> list[set[str]]:
        model = ScriptedVLM(
            lambda prompt, *_: "what is it?" if prompt.text == SYNTHETIC.ask else None
        )
        list(Sena(prompts=SYNTHETIC, check="none", **changes).pairs(ITEMS[:2], Tools(vlm=model)))
        return [
            {prompt.key.split("/")[-3] for prompt in prompts} for prompts, _, _ in model.calls[1:]
        ]

    both = {"description", "question"}
    assert kinds() == [both] * 3
    assert kinds(pair_kinds=("question",)) == [both, {"question"}, {"question"}]
    assert kinds(pair_kinds=("question",), enhance=False) == [{"question"}] * 2
    assert kinds(pair_kinds=("description",)) == [{"description"}] * 3


def test_a_name_drops_its_question_or_as_released_the_image() -> None:
    def script(prompt: Prompt, _corrupted: bool, _number: int) -> str | None:
        return (
            "is this a tournament? what is its name? where is it?"
            if prompt.text == SYNTHETIC.ask
            else None
        )

    def named(name_filter: Any) -> int:
        records = run(
            Sena(prompts=SYNTHETIC, check="none", name_filter=name_filter), ITEMS[:1], script=script
        )
        assert len(records) == 6
        return sum(
            isinstance(record, Dropped) and record.reason == filters.NAME for record in records
        )

    assert named("whole_word") == 2
    assert named("substring_drops_image") == 6


def test_as_released_differs_only_where_papers_md_says() -> None:
    ours, released = Sena(), Sena.as_released()
    changed = {
        f.name: getattr(released, f.name)
        for f in fields(Sena)
        if getattr(ours, f.name) != getattr(released, f.name)
    }
    assert changed == {
        "check": "blind",
        "name_filter": "substring_drops_image",
        "case": "released",
        "recipe": replace(ours.recipe, shuffles=8),
    }
    assert Sena.as_released(noise_step=500, check="seen") == replace(
        released, noise_step=500, check="seen"
    )


def test_the_published_recipe() -> None:
    assert Sena().recipe == Recipe(
        lr=2e-6,
        epochs=1,
        global_batch=128,
        warmup=0.03,
        schedule="constant",
        objective="dpo",
        beta=0.1,
        alignment_weight=1.0,
        lora=None,
    )
    assert asdict(Sena())["noise_step"] == 600


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"check": "later"}, "check is 'later'; it must be 'seen', 'blind' or 'none'"),
        ({"corruption": "fog"}, "it must be 'diffusion', 'blank', 'crop', 'blur' or 'another'"),
        ({"name_filter": ""}, "it must be 'whole_word'"),
        ({"case": "upper"}, "it must be 'ignored' or 'released'"),
        ({"noise_step": 0}, "noise_step is 0; it must be a whole number from 1 to 999"),
        ({"noise_step": 1000}, "noise_step is 1000"),
        ({"noise_step": 60.5}, "noise_step is 60.5"),
        ({"noise_step": True}, "noise_step is True"),
        ({"answer_tokens": 0}, "answer_tokens is 0; it must be a whole number of at least 1"),
        ({"pair_kinds": ()}, "pair_kinds"),
        ({"pair_kinds": "question"}, "pair_kinds"),
        ({"pair_kinds": ("question", "question")}, "no entry twice"),
        ({"pair_kinds": ("answers",)}, "'description' or 'question'"),
        ({"enhance": "no"}, "enhance is 'no'; it must be True or False"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        Sena(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_catalogue_names_each_method_as_it_names_itself() -> None:
    for name, entry in METHODS.items():
        for method in (entry.published, entry.synthetic):
            assert isinstance(method, Method)
            assert method.name == name
    assert Sena.needs == {"image"}


def test_the_untrained_row_needs_nothing_and_makes_nothing() -> None:
    assert Untrained.needs == frozenset()
    assert Untrained().recipe is None
    assert list(Untrained().pairs(ITEMS, Tools(vlm=ScriptedVLM()))) == []


def test_another_image_is_shown_for_the_rejected_answers_alone() -> None:
    vlm = ScriptedVLM()
    list(Sena(prompts=SYNTHETIC, corruption="another").pairs(ITEMS[:3], Tools(vlm=vlm)))
    own, others = (
        {image.tobytes() for image in images}
        for images in (map(picture, range(3)), map(picture, range(100, 103)))
    )
    for prompts, _, corrupted in vlm.calls:
        assert not corrupted
        for prompt in prompts:
            if prompt.image is not None:
                assert prompt.image.tobytes() in (others if prompt.key.endswith("/reject") else own)
    alone = [replace(item, another=None) for item in ITEMS]
    with pytest.raises(ValueError, match="needs two images a round or more"):
        list(Sena(prompts=SYNTHETIC, corruption="another").pairs(alone, Tools(vlm=vlm)))
