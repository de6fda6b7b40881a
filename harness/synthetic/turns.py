"""The instruction data of the synthetic base: turns about a scene, with the noise that makes the
base hallucinate.

- Captions, one-word answers and asked questions use the noisy scene (``language.noisy_scene``):
  absent companions, typical colours.
- Refined answers use a scene with ``REFINE_STRENGTH`` of that noise; the given answer is sometimes
  wrong.
- Checks (can this question be answered?) and judgements of two answers use the exact scene.

The methods' prompts come from the methods' own synthetic prompt sets, so the base is trained on the
prompts that it will get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from benchmarks.synthetic import language
from benchmarks.synthetic.scene import Scene, mention_order, scene, thing_in
from benchmarks.synthetic.words import CATEGORIES, COLOURS, COMPANION, TYPICAL_COLOUR
from methods.prompt_sets import fill
from methods.sena.prompts import SYNTHETIC as SENA
from methods.sena.prompts import with_request
from methods.sima.prompts import SYNTHETIC as SIMA

REFINE_STRENGTH = 0.35
"""The share of the noise in refined answers."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Relative frequencies of the turns."""

    turns: Mapping[str, float]
    """By kind of turn."""
    questions: Mapping[str, float]
    """By kind of question."""
    existence: tuple[float, float, float]
    """Of the objects of existence questions: a thing of the noisy scene, a companion of one, any
    category."""
    short_judgements: float
    """The share of judgements on short captions."""
    yes_noise: float = 0.0
    """How often a yes/no question about an expected but absent thing is answered with yes."""
    answerable: float = 0.5
    """The share of checks whose question can be answered."""
    hard_checks: float = 0.0
    """The share of answerable checks whose question is of a kind that unanswerable ones have."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A prompt and its answer."""

    kind: str
    prompt: str
    answer: str
    blind: bool = False
    """Whether the turn is sent without the image."""
    mistakes: tuple[int, int] | None = None
    """Of the two accounts of a judgement."""


def turns(index: int, visit: int, budget: int, mix: Mix) -> list[Turn]:
    """Turns about training scene ``index`` at training step ``visit``: at most ``budget`` words,
    or one longer turn."""
    rng = Random(f"turns {index} {visit}")
    true = scene("train", index)
    noisy = language.noisy_scene(true)
    if rng.random() < 0.03:
        asked = _ask(noisy, rng, mix)
        prompt, answer = fill(SENA.check, question=asked), f"{SENA.check_leads[0]} {asked}"
        return [Turn(kind="check", prompt=prompt, answer=answer, blind=True)]
    chosen: list[Turn] = []
    words, full = 0, False
    while True:
        # When a turn no longer fits, short ones fill the row in place of padding.
        kind = "word" if full else _draw(mix.turns, rng)
        turn = _MAKERS[kind](true, noisy, rng, mix)
        cost = len(turn.prompt.split()) + len(turn.answer.split()) + 3
        if not chosen or words + cost <= budget:
            chosen.append(turn)
            words += cost
        elif full:
            return chosen
        else:
            full = True


def _draw(shares: Mapping[str, float], rng: Random) -> str:
    return rng.choices(tuple(shares), weights=tuple(shares.values()))[0]


def _detail(_true: Scene, noisy: Scene, rng: Random, _mix: Mix) -> Turn:
    prompt = rng.choice(language.DETAIL_PROMPTS)
    caption = language.detailed_caption(noisy.things, rng.randrange(3))
    return Turn(kind="detail", prompt=prompt, answer=caption)


def _short(_true: Scene, noisy: Scene, rng: Random, _mix: Mix) -> Turn:
    prompt = with_request(rng.choice(SENA.describe), SENA.brief)
    return Turn(kind="short", prompt=prompt, answer=language.brief_caption(noisy.things))


def _question(scene: Scene, rng: Random, mix: Mix) -> language.SceneQuestion:
    while True:
        kind = _draw(mix.questions, rng)
        if kind == "existence":
            expected = [COMPANION[thing.category] for thing in scene.things]
            pools = (sorted(scene.categories), expected, list(CATEGORIES))
            category = rng.choice(rng.choices(pools, weights=mix.existence)[0])
            asked = language.existence_question(scene, category, rng)
            if asked.answer == "no" and category in expected and rng.random() < mix.yes_noise:
                return replace(asked, answer="yes")
            return asked
        other = language.question(scene, kind, rng)
        if other is not None:
            return other


def _word(_true: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    asked = _question(noisy, rng, mix)
    return Turn(kind="word", prompt=with_request(asked.text, SENA.word), answer=asked.answer)


def _ask(scene: Scene, rng: Random, mix: Mix) -> str:
    """A question as the base should ask it: seldom a yes/no question."""
    while True:
        asked = _question(scene, rng, mix)
        if asked.kind != "existence" or rng.random() < 0.15:
            return asked.text


def _asks(_true: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    return Turn(kind="ask", prompt=SENA.ask, answer=_ask(noisy, rng, mix))


def _check(true: Scene, _noisy: Scene, rng: Random, mix: Mix) -> Turn:
    keep, again = SENA.check_leads
    if rng.random() < mix.answerable:
        hard = None
        if mix.hard_checks and rng.random() < mix.hard_checks:
            kind = rng.choice(("colour", "place", "relation", "what"))
            hard = language.question(true, kind, rng)
        asked = hard.text if hard else _ask(true, rng, mix)
        answer = f"{keep} {asked}"
    else:
        asked = language.unanswerable(true, rng)
        answer = f"{again} {_ask(true, rng, mix)}"
    return Turn(kind="check", prompt=fill(SENA.check, question=asked), answer=answer)


def _refine(true: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    closer = language.noisy_scene(true, REFINE_STRENGTH)
    if rng.random() < 0.5:
        prompt = with_request(rng.choice(SENA.describe), SENA.brief)
        given = language.brief_caption(disturb(noisy, rng, rng.choice((0, 0, 1, 2))).things)
        request = SENA.enhance if rng.random() < 0.85 else SENA.enhance_plain
        text = fill(request, description=given, prompt=prompt, answer=given)
        refined = language.brief_caption(closer.things)
        return Turn(kind="refine", prompt=text, answer=f"{SENA.enhance_lead} {refined}")
    asked = _question(closer, rng, replace(mix, yes_noise=0.0))
    other = language.question(noisy, asked.kind, rng) if rng.random() < 0.4 else None
    answer = other.answer if other is not None else asked.answer
    description = language.brief_caption(disturb(noisy, rng, rng.choice((0, 0, 1))).things)
    text = fill(
        SENA.enhance,
        description=description,
        prompt=with_request(asked.text, SENA.word),
        answer=answer,
    )
    return Turn(kind="refine", prompt=text, answer=f"{SENA.enhance_lead} {asked.answer}")


def _judge(true: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    while True:
        start = disturb(true if rng.random() < 0.5 else noisy, rng, rng.choice((0, 0, 1)))
        other = disturb(start, rng, rng.choices((1, 2, 3), weights=(50, 30, 20))[0])
        left, right = language.errors(start.things, true), language.errors(other.things, true)
        if left != right:
            break
    style = rng.randrange(3)
    short = rng.random() < mix.short_judgements
    accounts = [
        language.brief_caption(account.things)
        if short
        else language.detailed_caption(
            account.things, style if rng.random() < 0.8 else rng.randrange(3)
        )
        for account in (start, other)
    ]
    first_wins = left < right
    if rng.random() < 0.5:
        accounts.reverse()
        first_wins = not first_wins
        left, right = right, left
    question = (
        with_request(rng.choice(SENA.describe), SENA.brief)
        if short
        else rng.choice(language.DETAIL_PROMPTS)
    )
    reference = (
        language.brief_caption(true.things)
        if short and rng.random() < 0.5
        else language.detailed_caption(true.things, rng.randrange(3))
    )
    text = SIMA.render(
        question, reference, *accounts, criteria=rng.random() < 0.7, examples=rng.random() < 0.35
    )
    return Turn(
        kind="judge", prompt=text, answer="[[1]]" if first_wins else "[[2]]", mistakes=(left, right)
    )


def disturb(scene: Scene, rng: Random, edits: int) -> Scene:
    """The scene after so many mistakes: a thing is added, dropped, recoloured, moved or replaced by
    another."""
    things = list(scene.things)
    for _ in range(edits):
        present = {thing.category for thing in things}
        absent = [name for name in CATEGORIES if name not in present]
        companions = (COMPANION[thing.category] for thing in things)
        expected = [name for name in companions if name in absent]
        occupied = {thing.cell for thing in things}
        free = [cell for cell in range(9) if cell not in occupied]
        edit = rng.choice(("add", "add", "drop", "colour", "place", "category"))
        at = rng.randrange(len(things))
        thing = things[at]
        if edit == "add" and free:
            name = rng.choice(expected) if expected and rng.random() < 0.7 else rng.choice(absent)
            things.append(thing_in(rng.choice(free), name, TYPICAL_COLOUR[name]))
        elif edit == "drop" and len(things) > 1:
            things.pop(at)
        elif edit == "place" and free:
            things[at] = thing_in(rng.choice(free), thing.category, thing.colour)
        elif edit == "category":
            things[at] = replace(thing, category=rng.choice(absent))
        else:
            others = [colour for colour in COLOURS if colour != thing.colour]
            things[at] = replace(thing, colour=rng.choice(others))
    return replace(scene, things=mention_order(things))


_MAKERS: dict[str, Callable[[Scene, Scene, Random, Mix], Turn]] = {
    "detail": _detail,
    "short": _short,
    "word": _word,
    "ask": _asks,
    "check": _check,
    "refine": _refine,
    "judge": _judge,
}
