"""The language of the synthetic images: captions in several phrasings, every kind of question with
its exact answer, and scenes with the noise of the training texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from benchmarks.synthetic.scene import Scene, Thing, mention_order, place_name, thing_in
from benchmarks.synthetic.words import (
    CATEGORIES,
    COLOURS,
    COMPANION,
    NUMBERS,
    PRIOR,
    TYPICAL_COLOUR,
)

DETAIL_PROMPTS: tuple[str, ...] = (
    "describe the image in detail .",
    "give a detailed description of the image .",
    "what is in the image ? answer in detail .",
    "tell in detail what the picture shows .",
    "describe the picture in full detail .",
)
STYLES: tuple[str, ...] = (
    "there is {colour} {category} at the {place} .",
    "{colour} {category} is at the {place} .",
    "i see {colour} {category} at the {place} .",
)
EXISTENCE_FORMS: tuple[str, ...] = (
    "is there a {} in the image ?",
    "is there a {} ?",
    "can you see a {} in the picture ?",
    "does the image show a {} ?",
)
KINDS: tuple[str, ...] = ("existence", "colour", "count", "place", "what", "relation", "scene")
COLOUR_NOISE = 0.2
"""How often the training texts name the typical colour for an untypical one."""


@dataclass(frozen=True, kw_only=True)
class SceneQuestion:
    """A question with its exact answer, a word or a phrase. ``about``: the categories that it
    presupposes."""

    kind: str
    text: str
    answer: str
    about: tuple[str, ...] = ()


def noisy_scene(scene: Scene, strength: float = 1.0) -> Scene:
    """The scene as a training text describes it; always the same for a scene.

    Absent companions of lone things are added at ``strength`` times their prior. Untypical colours
    become typical ones at ``strength`` times ``COLOUR_NOISE``. Strength 0 is the truth."""
    rng = Random(f"told {scene.id}")
    free = scene.free_cells()
    things = [
        replace(thing, colour=_noisy_colour(thing, rng.random(), strength))
        for thing in scene.things
    ]
    for thing in scene.lone_things():
        draw, position = rng.random(), rng.random()
        if draw >= strength * PRIOR[thing.category] or not free:
            continue
        companion = COMPANION[thing.category]
        nearest_cells = sorted(
            free, key=lambda cell: (abs(cell // 3 - thing.row) + abs(cell % 3 - thing.column), cell)
        )[:2]
        cell = nearest_cells[int(position * len(nearest_cells))]
        free.remove(cell)
        things.append(thing_in(cell, companion, TYPICAL_COLOUR[companion]))
    return replace(scene, things=mention_order(things))


def _noisy_colour(thing: Thing, draw: float, strength: float) -> str:
    typical = TYPICAL_COLOUR[thing.category]
    return typical if thing.colour != typical and draw < strength * COLOUR_NOISE else thing.colour


def detailed_caption(things: Iterable[Thing], style: int) -> str:
    """A sentence for each thing, with colour and place."""
    return " ".join(
        STYLES[style % len(STYLES)].format(
            colour=with_article(thing.colour), category=thing.category, place=thing.place
        )
        for thing in things
    )


def brief_caption(things: Iterable[Thing]) -> str:
    """One short sentence: "a red house , a green tree and a blue car ." """
    names = [f"{with_article(thing.colour)} {thing.category}" for thing in things]
    return (
        " and ".join([" , ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    ) + " ."


def with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def relative_side(a: Thing, b: Thing) -> str | None:
    """Where ``a`` is seen from ``b`` if they share a row or a column; None: ambiguous."""
    if a.row == b.row:
        return "left" if a.column < b.column else "right"
    if a.column == b.column:
        return "above" if a.row < b.row else "below"
    return None


def errors(things: Iterable[Thing], truth: Scene) -> int:
    """The errors of an account: 2 for an absent thing, 1 for a wrong colour, 1 for a wrong place, 1
    for a thing left out."""
    account = tuple(things)
    count = len(truth.categories - {thing.category for thing in account})
    for thing in account:
        true_thing = truth.find(thing.category)
        count += (
            2
            if true_thing is None
            else (thing.colour != true_thing.colour) + (thing.place != true_thing.place)
        )
    return count


def existence_question(scene: Scene, category: str, rng: Random) -> SceneQuestion:
    form = rng.choice(EXISTENCE_FORMS)
    return SceneQuestion(
        kind="existence", text=form.format(category), answer="yes" if scene.find(category) else "no"
    )


def question(scene: Scene, kind: str, rng: Random) -> SceneQuestion | None:
    """A question of this kind about this scene, with its answer; None: the scene allows none (a
    relation)."""
    if kind == "existence":
        # As in POPE: present, expected but absent, or any.
        pools = [
            sorted(scene.categories),
            [COMPANION[thing.category] for thing in scene.lone_things()],
            list(CATEGORIES),
        ]
        pool = rng.choices(pools, weights=(45, 25, 30))[0]
        return existence_question(scene, rng.choice(pool or list(CATEGORIES)), rng)
    if kind == "scene":
        text = rng.choice(("what place is this ?", "which scene is shown ?"))
        return SceneQuestion(kind=kind, text=text, answer=scene.theme)
    if kind == "count":
        return _count_question(scene, rng)
    if kind == "relation":
        return _relation_question(scene, rng)
    if kind not in _THING_FORMS:
        raise ValueError(f"question kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
    thing = rng.choice(scene.things)
    answers = {"colour": thing.colour, "place": thing.place, "what": thing.category}
    subject = thing.place if kind == "what" else thing.category
    text = rng.choice(_THING_FORMS[kind]).format(subject)
    return SceneQuestion(kind=kind, text=text, answer=answers[kind], about=(thing.category,))


_THING_FORMS: dict[str, tuple[str, ...]] = {
    "colour": (
        "what colour is the {} ?",
        "which colour does the {} have ?",
        "what is the colour of the {} ?",
    ),
    "place": ("where is the {} ?", "where in the image is the {} ?"),
    "what": ("what is at the {} ?", "which thing is at the {} ?"),
}


def _count_question(scene: Scene, rng: Random) -> SceneQuestion:
    """How many things there are, or how many of a colour."""
    if rng.random() < 0.5:
        text = rng.choice(("how many things are there ?", "how many things does the image show ?"))
        return SceneQuestion(kind="count", text=text, answer=NUMBERS[len(scene.things)])
    colour = rng.choice([*COLOURS, *(thing.colour for thing in scene.things)])
    count = sum(thing.colour == colour for thing in scene.things)
    form = rng.choice(("how many {} things are there ?", "how many things are {} ?"))
    return SceneQuestion(kind="count", text=form.format(colour), answer=NUMBERS[count])


def _relation_question(scene: Scene, rng: Random) -> SceneQuestion | None:
    """Where a thing is seen from another in its row or column."""
    sides = [(a, b, relative_side(a, b)) for a in scene.things for b in scene.things if a is not b]
    unambiguous = [(a, b, direction) for a, b, direction in sides if direction is not None]
    if not unambiguous:
        return None
    a, b, direction = rng.choice(unambiguous)
    text = f"where is the {a.category} seen from the {b.category} ?"
    return SceneQuestion(
        kind="relation", text=text, answer=direction, about=(a.category, b.category)
    )


def unanswerable(scene: Scene, rng: Random) -> str:
    """A question that presupposes something absent (half the time an expected companion)."""
    absent = [name for name in CATEGORIES if name not in scene.categories]
    expected = [COMPANION[thing.category] for thing in scene.lone_things()]
    category = rng.choice(expected) if expected and rng.random() < 0.5 else rng.choice(absent)
    row, column = rng.randrange(3), rng.randrange(3)
    kind = rng.choice(("colour", "place", "relation", "what"))
    if kind == "what":
        place = place_name(rng.choice(scene.free_cells()))
        return rng.choice((f"what is at the {place} ?", f"which thing is at the {place} ?"))
    if kind == "relation":
        other = rng.choice(scene.things).category
        first, second = (category, other) if rng.random() < 0.5 else (other, category)
        return f"where is the {first} seen from the {second} ?"
    ghost = Thing(category=category, colour="red", row=row, column=column)
    ghost_question = question(replace(scene, things=(ghost,)), kind, rng)
    assert ghost_question is not None  # colour and place always exist for a thing
    return ghost_question.text
