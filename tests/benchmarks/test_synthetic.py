"""Synthetic images: they are reproducible, splits share none, noise has its stated rates, captions
can be read back."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageFont

from benchmarks.objects import ObjectTable
from benchmarks.synthetic import language, show
from benchmarks.synthetic.render import SIDE, render
from benchmarks.synthetic.scene import SPLITS, SYNTHETIC_VERSION, Scene, Thing, scene
from benchmarks.synthetic.truth import Mention, account_errors, read_account
from benchmarks.synthetic.words import (
    CATEGORIES,
    COLUMNS,
    COMPANION,
    PRIOR,
    ROWS,
    SYNONYMS,
    TYPICAL_COLOUR,
    vocabulary,
)

FROZEN = {
    "train": "0501bbb2bb54359e711564960f8e694e9227b5e28c1498e1e38709fe76ad660b",
    "pool": "90deac0766acd8acd19eb3912c31d994c798de0e1520ff342f503e5f4af1c794",
    "test": "603969c3b15ec04f3b462db79afc2a113da84662471e4ba45c9e98f45bb6b7c0",
}


@pytest.mark.parametrize("split", FROZEN)
def test_images_are_what_they_were_when_this_version_was_made(split: str) -> None:
    image = render(scene(split, 7))
    assert image.mode == "RGB"
    assert image.size == (SIDE, SIDE)
    assert hashlib.sha256(image.tobytes()).hexdigest() == FROZEN[split], (
        f"the images changed: raise SYNTHETIC_VERSION {SYNTHETIC_VERSION}"
    )


def test_splits_share_no_image_and_no_crowded_scene() -> None:
    images: dict[str, set[bytes]] = {}
    crowded: dict[str, set[object]] = {}
    for split in SPLITS:
        scenes = [scene(split, index) for index in range(100)]
        images[split] = {render(true).tobytes() for true in scenes}
        assert len(images[split]) == len(scenes)
        # Scenes of one or two things recur by chance, drawn anew; with four things there are too
        # many to meet again.
        crowded[split] = {(true.theme, true.things) for true in scenes if len(true.things) >= 4}
        assert len(crowded[split]) > 20
    for first, other in combinations(SPLITS, 2):
        assert not images[first] & images[other]
        assert not crowded[first] & crowded[other]


def test_scenes_are_well_formed() -> None:
    for index in range(300):
        true = scene("dev", index)
        assert 1 <= len(true.things) <= 6
        assert len(true.categories) == len(true.things)
        assert len({(thing.row, thing.column) for thing in true.things}) == len(true.things)


def test_strength_zero_tells_the_truth_and_full_strength_never_hides_a_thing() -> None:
    for index in range(200):
        true = scene("train", index)
        assert language.noisy_scene(true, 0.0) == true
        assert true.categories <= language.noisy_scene(true).categories


def test_a_stronger_telling_keeps_what_a_weaker_one_adds() -> None:
    for index in range(200):
        true = scene("train", index)
        assert language.noisy_scene(true, 0.35).categories <= language.noisy_scene(true).categories


def within(hits: int, trials: int, rate: float) -> bool:
    """Inside four standard errors of a binomial."""
    return abs(hits - trials * rate) <= 4 * math.sqrt(trials * rate * (1 - rate))


def test_companions_and_colours_are_told_wrong_at_their_stated_rates() -> None:
    lone = dict.fromkeys(CATEGORIES, 0)
    added = dict.fromkeys(CATEGORIES, 0)
    untypical = recoloured = 0
    for index in range(3000):
        true = scene("train", index)
        noisy = language.noisy_scene(true)
        for thing in true.lone_things():
            lone[thing.category] += 1
            added[thing.category] += COMPANION[thing.category] in noisy.categories
        for thing in true.things:
            named = noisy.find(thing.category)
            assert named is not None
            if thing.colour == TYPICAL_COLOUR[thing.category]:
                assert named.colour == thing.colour
            else:
                untypical += 1
                recoloured += named.colour == TYPICAL_COLOUR[thing.category]
        ghosts = noisy.categories - true.categories
        assert ghosts <= {COMPANION[thing.category] for thing in true.lone_things()}
    for category in CATEGORIES:
        assert lone[category] > 100
        assert within(added[category], lone[category], PRIOR[category]), category
    expected = sum(lone[category] * PRIOR[category] for category in CATEGORIES) / sum(lone.values())
    assert within(sum(added.values()), sum(lone.values()), expected)
    assert within(recoloured, untypical, language.COLOUR_NOISE)


def test_every_word_of_captions_and_questions_is_in_the_vocabulary() -> None:
    known = set(vocabulary())
    words: set[str] = set(" ".join(language.DETAIL_PROMPTS).split())
    for index in range(300):
        true = scene("train", index)
        rng = Random(index)
        for noisy in (true, language.noisy_scene(true)):
            words |= set(language.brief_caption(noisy.things).split())
            for style in range(len(language.STYLES)):
                words |= set(language.detailed_caption(noisy.things, style).split())
            for kind in language.KINDS:
                asked = language.question(noisy, kind, rng)
                if asked is not None:
                    words |= set(asked.text.split()) | set(asked.answer.split())
        words |= set(language.unanswerable(true, rng).split())
    assert words <= known


def test_unanswerable_questions_presuppose_something_absent() -> None:
    table = ObjectTable(SYNONYMS)
    kinds = {"empty place": 0, "absent thing": 0}
    for index in range(500):
        true = scene("dev", index)
        text = language.unanswerable(true, Random(index))
        named = table.mentions(text)
        if named:
            assert set(named) - true.categories, (text, true)
            kinds["absent thing"] += 1
        else:
            row, column = text.removesuffix(" ?").split()[-2:]
            assert true.at(3 * ROWS.index(row) + COLUMNS.index(column)) is None, (text, true)
            kinds["empty place"] += 1
    assert min(kinds.values()) > 50


def test_answerable_questions_presuppose_only_what_is_there() -> None:
    for index in range(200):
        true = scene("dev", index)
        for kind in language.KINDS:
            asked = language.question(true, kind, Random(index))
            assert asked is None or set(asked.about) <= true.categories


def test_captions_read_back_into_their_things() -> None:
    for index in range(200):
        noisy = language.noisy_scene(scene("dev", index))
        full = tuple(
            Mention(category=t.category, colour=t.colour, cell=(t.row, t.column))
            for t in noisy.things
        )
        for style in range(len(language.STYLES)):
            text = language.detailed_caption(noisy.things, style)
            assert read_account(text) == full
            assert (
                read_account(text.replace(" .", ".").capitalize()) == full
            )  # as a tokenizer decodes it
        assert read_account(language.brief_caption(noisy.things)) == tuple(
            replace(mention, cell=None) for mention in full
        )


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("", ()),
        ("a scene in the garden .", ()),
        ("two balls", (Mention(category="ball"),)),
        ("the ball is red .", (Mention(category="ball", colour="red"),)),
        ("red . ball", (Mention(category="ball"),)),
        (
            "at the top left there is a blue zzz boat",
            (Mention(category="boat", colour="blue", cell=(0, 0)),),
        ),
        (
            "a ball at the left , a cup at the bottom",
            (Mention(category="ball"), Mention(category="cup")),
        ),
        ("a red ball and cup", (Mention(category="ball", colour="red"), Mention(category="cup"))),
        (
            "a ball and a red ball",
            (Mention(category="ball"), Mention(category="ball", colour="red")),
        ),
        ("an orange orange boxes", (Mention(category="box", colour="orange"),)),
    ],
)
def test_reading_is_tolerant(text: str, things: tuple[Mention, ...]) -> None:
    assert read_account(text) == things


def test_account_errors_equal_the_errors_of_the_things_told() -> None:
    for index in range(200):
        true = scene("dev", index)
        noisy = language.noisy_scene(true)
        assert account_errors(language.detailed_caption(true.things, index), true) == 0
        assert account_errors(
            language.detailed_caption(noisy.things, index), true
        ) == language.errors(noisy.things, true)
        assert account_errors(language.brief_caption(noisy.things), true) == language.errors(
            noisy.things, true
        )  # places are right
        assert account_errors("", true) == len(true.things)


def test_account_errors_by_hand() -> None:
    true = replace(
        scene("dev", 0), things=tuple(_thing(text) for text in ("red ball 0 0", "blue cup 1 1"))
    )
    assert (
        account_errors("a red ball at the top left . a blue cup at the middle centre .", true) == 0
    )
    assert account_errors("a ball and a cup .", true) == 0
    assert account_errors("a green ball at the top right . a cup .", true) == 2
    assert (
        account_errors("a red ball and a brown box .", true) == 3
    )  # the box is not there (2), the cup is left out (1)


def _thing(text: str) -> Thing:
    colour, category, row, column = text.split()
    return Thing(category=category, colour=colour, row=int(row), column=int(column))


def test_the_contact_sheet_fits_its_text(tmp_path: Path) -> None:
    font = ImageFont.load_default(size=show.FONT_SIZE)
    crowded: list[Scene] = sorted(
        (scene("dev", index) for index in range(200)), key=lambda true: -len(true.things)
    )
    for true in crowded[:8]:
        rows = show.describe(true).split("\n")
        assert max(font.getlength(row) for row in rows) <= show.TEXT_WIDTH
        assert len(rows) <= 21
        for needed in ("True:", "Training texts tell:", "existence:", "unanswerable:"):
            assert any(row.startswith(needed) for row in rows)
    show.write_contact_sheet(tmp_path / "sheet.png", count=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1720, 2 * (SIDE * show.ZOOM + 16))


def test_an_empty_contact_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        show.write_contact_sheet(tmp_path / "sheet.png", count=0)
