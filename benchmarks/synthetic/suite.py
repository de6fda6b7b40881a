"""The benchmarks on synthetic images: CHAIR, POPE and visual questions with exact truth; and the
items of the synthetic pool.

Questions use the splits dev and test. A generator seeded with the scene's id draws the questions of
an image, so a limit changes the number of images and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random

from PIL.Image import Image

from benchmarks.chair import chair_benchmark
from benchmarks.grading import Item, ItemBenchmark, check_limit, check_split
from benchmarks.interface import Benchmark, Group
from benchmarks.objects import ObjectTable
from benchmarks.pope import Probe, pope_benchmark
from benchmarks.spec import Spec, in_memory
from benchmarks.synthetic import language
from benchmarks.synthetic.render import render
from benchmarks.synthetic.scene import SYNTHETIC_VERSION, Scene, scene
from benchmarks.synthetic.words import CATEGORIES, COMPANION, SYNONYMS
from benchmarks.visual_questions import Expected, question_benchmark

SIZE = 1000
"""Images of a full benchmark."""
QUESTIONS_VERSION = "1"
"""Changes whenever this file asks another question about a scene."""
SOURCE = f"world-{SYNTHETIC_VERSION}.{QUESTIONS_VERSION}"
"""The start of every version. It keeps the word that stored results were written with."""

WORD = "answer with a single word or phrase ."
SHORT_PROMPT = "describe the image briefly .\nanswer in one short sentence ."
POPULAR_SCENES = 2000
"""Training scenes over which POPE's popular categories are counted."""
POPULAR_CHOICE = 3
"""POPE's popular absent category is drawn from so many."""


def synthetic_item(split: str, index: int) -> tuple[str, Image, str, str]:
    """Scene id, image, a prompt for a detailed caption, and the exact caption of the true scene;
    always the same."""
    truth = scene(split, index)
    rng = Random(f"item {truth.id}")
    prompt = rng.choice(language.DETAIL_PROMPTS)
    caption = language.detailed_caption(truth.things, rng.randrange(len(language.STYLES)))
    return truth.id, render(truth), prompt, caption


def chair(split: str, limit: int | None = None) -> ItemBenchmark[frozenset[str]]:
    """Detailed captions, one an image."""
    return _chair("synthetic_chair", language.DETAIL_PROMPTS[0], 96, True, split, limit)


def chair_short(split: str, limit: int | None = None) -> ItemBenchmark[frozenset[str]]:
    """Brief captions, one an image."""
    return _chair("synthetic_chair_short", SHORT_PROMPT, 64, False, split, limit)


def pope(split: str, limit: int | None = None) -> ItemBenchmark[Probe]:
    """Up to six yes/no questions an image, half of them about present objects."""
    scenes = _scenes(split, limit)

    def items() -> Iterator[Item[Probe]]:
        for truth in scenes():
            load_image = cache(partial(render, truth))
            for setting, category, present in pope_probes(truth):
                yield Item(
                    id=f"{truth.id}/{setting}/{category}",
                    cluster=truth.id,
                    text=f"is there a {category} in the image ?\n{WORD}",
                    truth=Probe(present=present, setting=setting),
                    load_image=load_image,
                )

    return pope_benchmark(name="synthetic_pope", source=SOURCE, items=items)


def visual_questions(split: str, limit: int | None = None) -> ItemBenchmark[Expected]:
    """One question of each kind an image, where its scene allows one."""
    scenes = _scenes(split, limit)

    def items() -> Iterator[Item[Expected]]:
        for truth in scenes():
            load_image = cache(partial(render, truth))
            for kind in language.KINDS:
                drawn_question = language.question(
                    truth, kind, Random(f"question {kind} {truth.id}")
                )
                if drawn_question is not None:
                    yield Item(
                        id=f"{truth.id}/{kind}",
                        cluster=truth.id,
                        text=f"{drawn_question.text}\n{WORD}",
                        truth=Expected(kind=kind, answer=drawn_question.answer),
                        load_image=load_image,
                    )

    return question_benchmark(
        name="synthetic_vqa", source=SOURCE, items=items, kinds=language.KINDS
    )


def pope_probes(truth: Scene) -> list[tuple[str, str, bool]]:
    """The scene's POPE questions as (setting, category, present): for each setting a present and an
    absent category.

    The absent category is any (random), one of the three most frequent absent ones (popular; POPE
    asks all three), or the absent companion of a present thing (adversarial; no such question where
    no companion is absent). The present ones differ between settings as far as the scene has
    enough things."""
    rng = Random(f"pope {truth.id}")
    present = [thing.category for thing in truth.things]
    rng.shuffle(present)
    absent = [category for category in popularity() if category not in truth.categories]
    expected = [COMPANION[thing.category] for thing in truth.lone_things()]
    pools = {"random": sorted(absent), "popular": absent[:POPULAR_CHOICE], "adversarial": expected}
    probes = []
    for index, (setting, pool) in enumerate(pools.items()):
        if pool:
            probes += [
                (setting, present[index % len(present)], True),
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
) -> ItemBenchmark[frozenset[str]]:
    scenes = _scenes(split, limit)

    def items() -> Iterator[Item[frozenset[str]]]:
        for truth in scenes():
            yield Item(
                id=truth.id,
                cluster=truth.id,
                text=prompt,
                truth=truth.categories,
                load_image=partial(render, truth),
            )

    return chair_benchmark(
        name=name,
        source=SOURCE,
        items=items,
        reader=ObjectTable(SYNONYMS),
        max_new_tokens=max_new_tokens,
        primary=primary,
    )


def _scenes(split: str, limit: int | None) -> Callable[[], Iterator[Scene]]:
    """The split's first ``limit`` scenes; each call draws them again."""
    check_split(split)
    check_limit(limit, f"all {SIZE}")
    size = SIZE if limit is None else min(limit, SIZE)
    return lambda: (scene(split, index) for index in range(size))


def _spec(
    name: str,
    make: Callable[[str, int | None], Benchmark],
    about: str,
    metrics: tuple[str, ...],
    group: Group = "hallucination",
) -> Spec:
    return Spec(
        name=name,
        factory=partial(in_memory, make),
        group=group,
        size=SIZE,
        about=about,
        metrics=metrics,
        licence="Apache-2.0, as this repository",
    )


_CHAIR_METRICS = ("chair_s", "chair_i", "recall")
SPECS = (
    _spec("synthetic_chair", chair, "CHAIR on detailed captions.", _CHAIR_METRICS),
    _spec("synthetic_chair_short", chair_short, "CHAIR on one-sentence captions.", _CHAIR_METRICS),
    _spec(
        "synthetic_pope",
        pope,
        "POPE: yes/no questions on present and absent objects.",
        ("accuracy", "f1", "yes_ratio"),
    ),
    _spec(
        "synthetic_vqa",
        visual_questions,
        "Questions of seven kinds with one exact answer.",
        ("accuracy",),
        group="general",
    ),
)
