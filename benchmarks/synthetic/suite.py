"""The synthetic world as a source of benchmarks: CHAIR, POPE and visual questions with exact truth,
and items for the pools.

Questions come from the splits dev and test. An image's questions are drawn by a generator seeded
with its scene's id, so a limit changes how many images there are and nothing about any of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random

from PIL.Image import Image

from benchmarks.chair import chair_benchmark
from benchmarks.grading import Graded, Item
from benchmarks.objects import ObjectTable
from benchmarks.pope import Probe, pope_benchmark
from benchmarks.synthetic import language
from benchmarks.synthetic.render import render
from benchmarks.synthetic.scene import WORLD_VERSION, Scene, scene
from benchmarks.synthetic.words import CATEGORIES, COMPANION, SYNONYMS
from benchmarks.visual_questions import Expected, question_benchmark
from benchmarks.visual_questions import guess_rates as rates_by_kind

SIZE = 1000
"""Images of a full benchmark."""
QUESTIONS_VERSION = "1"
"""Changes whenever this file asks another question of a scene."""
SOURCE = f"world-{WORLD_VERSION}.{QUESTIONS_VERSION}"

WORD = "answer with a single word or phrase ."
SHORT_PROMPT = "describe the image briefly .\nanswer in one short sentence ."
POPULAR_SCENES = 2000
POPULAR_CHOICE = 3

Picture = Callable[[], Image]


def synthetic_item(split: str, index: int) -> tuple[str, Image, str, str]:
    """Scene id, image, a detailed-caption prompt and the exact detailed caption of the true
    scene; always the same."""
    true = scene(split, index)
    rng = Random(f"item {true.id}")
    prompt = rng.choice(language.DETAIL_PROMPTS)
    return (
        true.id,
        render(true),
        prompt,
        language.detailed(true.things, rng.randrange(len(language.STYLES))),
    )


def chair(split: str, limit: int | None = None) -> Graded[frozenset[str]]:
    """Detailed captions, one an image."""
    return _chair("synthetic_chair", language.DETAIL_PROMPTS[0], 96, True, split, limit)


def chair_short(split: str, limit: int | None = None) -> Graded[frozenset[str]]:
    """Brief captions, one an image."""
    return _chair("synthetic_chair_short", SHORT_PROMPT, 64, False, split, limit)


def pope(split: str, limit: int | None = None) -> Graded[Probe]:
    """Up to six yes/no questions an image, half of them about what is there."""
    scenes = _scenes(split, limit)

    def items() -> Iterator[Item[Probe]]:
        for true in scenes():
            picture = cache(partial(render, true))
            for setting, category, present in pope_probes(true):
                yield Item(
                    id=f"{true.id}/{setting}/{category}",
                    cluster=true.id,
                    text=f"is there a {category} in the image ?\n{WORD}",
                    truth=Probe(present=present, setting=setting),
                    picture=picture,
                )

    return pope_benchmark(name="synthetic_pope", source=SOURCE, items=items)


def visual_questions(split: str, limit: int | None = None) -> Graded[Expected]:
    """One question of each kind an image, where its scene allows one."""
    scenes = _scenes(split, limit)

    def items() -> Iterator[Item[Expected]]:
        for true in scenes():
            picture = cache(partial(render, true))
            for kind in language.KINDS:
                asked = language.question(true, kind, Random(f"question {kind} {true.id}"))
                if asked is not None:
                    yield Item(
                        id=f"{true.id}/{kind}",
                        cluster=true.id,
                        text=f"{asked.text}\n{WORD}",
                        truth=Expected(kind=kind, answer=asked.answer),
                        picture=picture,
                    )

    return question_benchmark(
        name="synthetic_vqa", source=SOURCE, items=items, kinds=language.KINDS
    )


def guess_rates(split: str, limit: int | None = None) -> dict[str, float]:
    """By kind, the share (%) of synthetic_vqa's questions that always saying the kind's most
    frequent answer gets right."""
    rates = rates_by_kind(visual_questions(split, limit))
    return {kind: rates[kind] for kind in language.KINDS if kind in rates}


def pope_probes(true: Scene) -> list[tuple[str, str, bool]]:
    """The scene's POPE questions as (setting, category, present): a present and an absent category
    a setting.

    Absent ones: any absent category (random); one of the three most frequent absent categories
    (popular; POPE asks all three); the absent companion of a present thing (adversarial; left out
    with its positive where no companion is absent). Present ones differ between the settings as far
    as the scene's things reach."""
    rng = Random(f"pope {true.id}")
    present = [thing.category for thing in true.things]
    rng.shuffle(present)
    absent = [category for category in popularity() if category not in true.categories]
    expected = [COMPANION[thing.category] for thing in true.lone()]
    pools = {"random": sorted(absent), "popular": absent[:POPULAR_CHOICE], "adversarial": expected}
    probes = []
    for place, (setting, pool) in enumerate(pools.items()):
        if pool:
            probes += [
                (setting, present[place % len(present)], True),
                (setting, rng.choice(pool), False),
            ]
    return probes


@cache
def popularity() -> tuple[str, ...]:
    """All categories, most frequent first, counted over the first training scenes; ties in the
    order of the word list."""
    counts = Counter(
        thing.category for index in range(POPULAR_SCENES) for thing in scene("train", index).things
    )
    return tuple(sorted(CATEGORIES, key=lambda category: -counts[category]))


def _chair(
    name: str, prompt: str, max_new_tokens: int, primary: bool, split: str, limit: int | None
) -> Graded[frozenset[str]]:
    scenes = _scenes(split, limit)

    def items() -> Iterator[Item[frozenset[str]]]:
        for true in scenes():
            yield Item(
                id=true.id,
                cluster=true.id,
                text=prompt,
                truth=true.categories,
                picture=partial(render, true),
            )

    return chair_benchmark(
        name=name,
        source=SOURCE,
        items=items,
        table=ObjectTable(SYNONYMS),
        max_new_tokens=max_new_tokens,
        primary=primary,
    )


def _scenes(split: str, limit: int | None) -> Callable[[], Iterator[Scene]]:
    """The split's first ``limit`` scenes, drawn anew each time (nothing is kept)."""
    if split not in ("dev", "test"):
        raise ValueError(f"A benchmark's split is {split!r}; it must be dev (tuning) or test.")
    if limit is not None and limit < 1:
        raise ValueError(
            f"A benchmark's limit is {limit} images; it must be at least 1, or None for all {SIZE}."
        )
    size = SIZE if limit is None else min(limit, SIZE)
    return lambda: (scene(split, index) for index in range(size))
