"""The synthetic base's instruction data: turns about a scene, told with the noise that makes models
hallucinate.

What a turn is told with:

- captions, one-word questions, asked questions: the *told* scene (``language.told``): absent
companions, typical colours;
- refining an answer: the scene told with ``REFINE_STRENGTH`` of that noise (a second, closer look),
wrong answers given at times;
- checking whether a question can be answered, and judging two answers against the truth: the exact
scene.

The prompts of the methods come from the methods' own ``WORLD`` prompt sets, so the base is trained
on what it will be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from benchmarks.synthetic import language
from benchmarks.synthetic.scene import Scene, Thing, scene, telling_order
from benchmarks.synthetic.words import CATEGORIES, COLOURS, COMPANION, TYPICAL_COLOUR
from methods.prompt_sets import fill
from methods.sena.prompts import SYNTHETIC as SENA
from methods.sena.prompts import with_request
from methods.sima.prompts import SYNTHETIC as SIMA

REFINE_STRENGTH = 0.35


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Relative frequencies: of the kinds of turns, of the kinds of questions, of what an existence
    question asks after (something told, an expected companion told or not, anything), and the share
    of judgements on short captions.

    ``yes_noise`` is how often an expected but absent thing is agreed to where it is asked after by
    yes or no. ``answerable`` is the share of checks whose question can be answered, ``hard_checks``
    the share of those that ask what unanswerable ones ask."""

    turns: Mapping[str, float]
    questions: Mapping[str, float]
    existence: tuple[float, float, float]
    short_judgements: float
    yes_noise: float = 0.0
    answerable: float = 0.5
    hard_checks: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange: what is asked, what is answered. ``blind`` turns are sent without the picture;
    a judgement knows the
    ``mistakes`` of the two accounts it compares."""

    kind: str
    prompt: str
    answer: str
    blind: bool = False
    mistakes: tuple[int, int] | None = None


def turns(index: int, visit: int, budget: int, mix: Mix) -> list[Turn]:
    """Turns about training scene ``index`` at its ``visit``-th showing: ``budget`` words in all, or
    one turn that is longer."""
    rng = Random(f"turns {index} {visit}")
    true = scene("train", index)
    told = language.told(true)
    if rng.random() < 0.03:
        asked = _ask(told, rng, mix)
        return [
            Turn(
                kind="check",
                prompt=fill(SENA.check, question=asked),
                answer=f"{SENA.check_leads[0]} {asked}",
                blind=True,
            )
        ]
    made: list[Turn] = []
    words, full = 0, False
    while True:
        # Once a turn no longer fits, short ones fill the row: they cost nothing that padding would
        # not.
        kind = (
            "word" if full else rng.choices(tuple(mix.turns), weights=tuple(mix.turns.values()))[0]
        )
        turn = _MAKERS[kind](true, told, rng, mix)
        cost = len(turn.prompt.split()) + len(turn.answer.split()) + 3
        if not made or words + cost <= budget:
            made.append(turn)
            words += cost
        elif full:
            return made
        else:
            full = True


def _detail(_true: Scene, told: Scene, rng: Random, _mix: Mix) -> Turn:
    prompt = rng.choice(language.DETAIL_PROMPTS)
    return Turn(
        kind="detail", prompt=prompt, answer=language.detailed(told.things, rng.randrange(3))
    )


def _short(_true: Scene, told: Scene, rng: Random, _mix: Mix) -> Turn:
    prompt = with_request(rng.choice(SENA.describe), SENA.brief)
    return Turn(kind="short", prompt=prompt, answer=language.listed(told.things))


def _question(scene: Scene, rng: Random, mix: Mix) -> language.Asked:
    while True:
        kind = rng.choices(tuple(mix.questions), weights=tuple(mix.questions.values()))[0]
        if kind == "existence":
            expected = [COMPANION[thing.category] for thing in scene.things]
            pools = (sorted(scene.categories), expected, list(CATEGORIES))
            category = rng.choice(rng.choices(pools, weights=mix.existence)[0])
            answered = language.existence(scene, category, rng)
            agrees = (
                answered.answer == "no" and category in expected and rng.random() < mix.yes_noise
            )
            return replace(answered, answer="yes") if agrees else answered
        asked = language.question(scene, kind, rng)
        if asked is not None:
            return asked


def _word(_true: Scene, told: Scene, rng: Random, mix: Mix) -> Turn:
    asked = _question(told, rng, mix)
    return Turn(kind="word", prompt=with_request(asked.text, SENA.word), answer=asked.answer)


def _ask(told: Scene, rng: Random, mix: Mix) -> str:
    """A question as the base asks it: seldom one that is answered by yes or no."""
    while True:
        asked = _question(told, rng, mix)
        if asked.kind != "existence" or rng.random() < 0.15:
            return asked.text


def _asks(_true: Scene, told: Scene, rng: Random, mix: Mix) -> Turn:
    return Turn(kind="ask", prompt=SENA.ask, answer=_ask(told, rng, mix))


def _check(true: Scene, _told: Scene, rng: Random, mix: Mix) -> Turn:
    keep, again = SENA.check_leads
    if rng.random() < mix.answerable:
        alike = None
        if mix.hard_checks and rng.random() < mix.hard_checks:
            alike = language.question(
                true, rng.choice(("colour", "place", "relation", "what")), rng
            )
        asked = alike.text if alike else _ask(true, rng, mix)
        return Turn(kind="check", prompt=fill(SENA.check, question=asked), answer=f"{keep} {asked}")
    asked = language.unanswerable(true, rng)
    return Turn(
        kind="check",
        prompt=fill(SENA.check, question=asked),
        answer=f"{again} {_ask(true, rng, mix)}",
    )


def _refine(true: Scene, told: Scene, rng: Random, mix: Mix) -> Turn:
    closer = language.told(true, REFINE_STRENGTH)
    if rng.random() < 0.5:
        prompt = with_request(rng.choice(SENA.describe), SENA.brief)
        given = language.listed(disturb(told, rng, rng.choice((0, 0, 1, 2))).things)
        request = SENA.enhance if rng.random() < 0.85 else SENA.enhance_plain
        text = fill(request, description=given, prompt=prompt, answer=given)
        return Turn(
            kind="refine",
            prompt=text,
            answer=f"{SENA.enhance_lead} {language.listed(closer.things)}",
        )
    asked = _question(closer, rng, replace(mix, yes_noise=0.0))
    other = language.question(told, asked.kind, rng) if rng.random() < 0.4 else None
    answer = other.answer if other is not None else asked.answer
    description = language.listed(disturb(told, rng, rng.choice((0, 0, 1))).things)
    text = fill(
        SENA.enhance,
        description=description,
        prompt=with_request(asked.text, SENA.word),
        answer=answer,
    )
    return Turn(kind="refine", prompt=text, answer=f"{SENA.enhance_lead} {asked.answer}")


def _judge(true: Scene, told: Scene, rng: Random, mix: Mix) -> Turn:
    while True:
        start = disturb(true if rng.random() < 0.5 else told, rng, rng.choice((0, 0, 1)))
        other = disturb(start, rng, rng.choices((1, 2, 3), weights=(50, 30, 20))[0])
        left, right = language.errors(start.things, true), language.errors(other.things, true)
        if left != right:
            break
    style = rng.randrange(3)
    short = rng.random() < mix.short_judgements
    both = [
        (
            language.listed(told.things)
            if short
            else language.detailed(told.things, style if rng.random() < 0.8 else rng.randrange(3))
        )
        for told in (start, other)
    ]
    first_wins = left < right
    if rng.random() < 0.5:
        both.reverse()
        first_wins = not first_wins
        left, right = right, left
    question = (
        with_request(rng.choice(SENA.describe), SENA.brief)
        if short
        else rng.choice(language.DETAIL_PROMPTS)
    )
    reference = (
        language.listed(true.things)
        if short and rng.random() < 0.5
        else language.detailed(true.things, rng.randrange(3))
    )
    text = SIMA.render(
        question, reference, *both, criteria=rng.random() < 0.7, examples=rng.random() < 0.35
    )
    return Turn(
        kind="judge", prompt=text, answer="[[1]]" if first_wins else "[[2]]", mistakes=(left, right)
    )


def disturb(scene: Scene, rng: Random, edits: int) -> Scene:
    """The scene after this many mistakes: a thing added, dropped, recoloured, moved or taken for
    another."""
    things = list(scene.things)
    for _ in range(edits):
        absent = [name for name in CATEGORIES if name not in {thing.category for thing in things}]
        expected = [
            COMPANION[thing.category] for thing in things if COMPANION[thing.category] in absent
        ]
        free = [
            cell
            for cell in range(9)
            if all((thing.row, thing.column) != (cell // 3, cell % 3) for thing in things)
        ]
        edit = rng.choice(("add", "add", "drop", "colour", "place", "category"))
        at = rng.randrange(len(things))
        thing = things[at]
        if edit == "add" and free:
            name = rng.choice(expected) if expected and rng.random() < 0.7 else rng.choice(absent)
            cell = rng.choice(free)
            things.append(
                Thing(category=name, colour=TYPICAL_COLOUR[name], row=cell // 3, column=cell % 3)
            )
        elif edit == "drop" and len(things) > 1:
            things.pop(at)
        elif edit == "place" and free:
            cell = rng.choice(free)
            things[at] = replace(thing, row=cell // 3, column=cell % 3)
        elif edit == "category":
            things[at] = replace(thing, category=rng.choice(absent))
        else:
            things[at] = replace(
                thing, colour=rng.choice([colour for colour in COLOURS if colour != thing.colour])
            )
    return replace(scene, things=telling_order(things))


_MAKERS: dict[str, Callable[[Scene, Scene, Random, Mix], Turn]] = {
    "detail": _detail,
    "short": _short,
    "word": _word,
    "ask": _asks,
    "check": _check,
    "refine": _refine,
    "judge": _judge,
}
