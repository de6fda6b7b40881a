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
    truth = scene("train", index)
    noisy = language.noisy_scene(truth)
    if rng.random() < 0.03:
        question = _ask_text(noisy, rng, mix)
        prompt, answer = fill(SENA.check, question=question), f"{SENA.check_leads[0]} {question}"
        return [Turn(kind="check", prompt=prompt, answer=answer, blind=True)]
    drawn_turns: list[Turn] = []
    words, short_only = 0, False
    while True:
        # When a turn no longer fits, short ones fill the row in place of padding.
        kind = "word" if short_only else _draw(mix.turns, rng)
        turn = _MAKERS[kind](truth, noisy, rng, mix)
        cost = len(turn.prompt.split()) + len(turn.answer.split()) + 3
        if not drawn_turns or words + cost <= budget:
            drawn_turns.append(turn)
            words += cost
        elif short_only:
            return drawn_turns
        else:
            short_only = True


def _draw(shares: Mapping[str, float], rng: Random) -> str:
    return rng.choices(tuple(shares), weights=tuple(shares.values()))[0]


def _detail_turn(_truth: Scene, noisy: Scene, rng: Random, _mix: Mix) -> Turn:
    prompt = rng.choice(language.DETAIL_PROMPTS)
    caption = language.detailed_caption(noisy.things, rng.randrange(3))
    return Turn(kind="detail", prompt=prompt, answer=caption)


def _short_turn(_truth: Scene, noisy: Scene, rng: Random, _mix: Mix) -> Turn:
    prompt = with_request(rng.choice(SENA.describe), SENA.brief)
    return Turn(kind="short", prompt=prompt, answer=language.brief_caption(noisy.things))


def _draw_question(scene: Scene, rng: Random, mix: Mix) -> language.SceneQuestion:
    while True:
        kind = _draw(mix.questions, rng)
        if kind == "existence":
            expected = [COMPANION[thing.category] for thing in scene.things]
            pools = (sorted(scene.categories), expected, list(CATEGORIES))
            category = rng.choice(rng.choices(pools, weights=mix.existence)[0])
            yes_no_question = language.existence_question(scene, category, rng)
            if (
                yes_no_question.answer == "no"
                and category in expected
                and rng.random() < mix.yes_noise
            ):
                return replace(yes_no_question, answer="yes")
            return yes_no_question
        other_question = language.question(scene, kind, rng)
        if other_question is not None:
            return other_question


def _word_turn(_truth: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    question = _draw_question(noisy, rng, mix)
    return Turn(kind="word", prompt=with_request(question.text, SENA.word), answer=question.answer)


def _ask_text(scene: Scene, rng: Random, mix: Mix) -> str:
    """A question as the base should ask it: seldom a yes/no question."""
    while True:
        question = _draw_question(scene, rng, mix)
        if question.kind != "existence" or rng.random() < 0.15:
            return question.text


def _ask_turn(_truth: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    return Turn(kind="ask", prompt=SENA.ask, answer=_ask_text(noisy, rng, mix))


def _check_turn(truth: Scene, _noisy: Scene, rng: Random, mix: Mix) -> Turn:
    keep_lead, ask_lead = SENA.check_leads
    if rng.random() < mix.answerable:
        hard_question = None
        if mix.hard_checks and rng.random() < mix.hard_checks:
            kind = rng.choice(("colour", "place", "relation", "what"))
            hard_question = language.question(truth, kind, rng)
        question = hard_question.text if hard_question else _ask_text(truth, rng, mix)
        answer = f"{keep_lead} {question}"
    else:
        question = language.unanswerable(truth, rng)
        answer = f"{ask_lead} {_ask_text(truth, rng, mix)}"
    return Turn(kind="check", prompt=fill(SENA.check, question=question), answer=answer)


def _refine_turn(truth: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    refined_scene = language.noisy_scene(truth, REFINE_STRENGTH)
    if rng.random() < 0.5:
        prompt = with_request(rng.choice(SENA.describe), SENA.brief)
        caption = language.brief_caption(disturb(noisy, rng, rng.choice((0, 0, 1, 2))).things)
        request = SENA.enhance if rng.random() < 0.85 else SENA.enhance_plain
        text = fill(request, description=caption, prompt=prompt, answer=caption)
        refined = language.brief_caption(refined_scene.things)
        return Turn(kind="refine", prompt=text, answer=f"{SENA.enhance_lead} {refined}")
    question = _draw_question(refined_scene, rng, replace(mix, yes_noise=0.0))
    noisy_question = language.question(noisy, question.kind, rng) if rng.random() < 0.4 else None
    answer = noisy_question.answer if noisy_question is not None else question.answer
    description = language.brief_caption(disturb(noisy, rng, rng.choice((0, 0, 1))).things)
    text = fill(
        SENA.enhance,
        description=description,
        prompt=with_request(question.text, SENA.word),
        answer=answer,
    )
    return Turn(kind="refine", prompt=text, answer=f"{SENA.enhance_lead} {question.answer}")


def _judge_turn(truth: Scene, noisy: Scene, rng: Random, mix: Mix) -> Turn:
    while True:
        first_scene = disturb(truth if rng.random() < 0.5 else noisy, rng, rng.choice((0, 0, 1)))
        second_scene = disturb(first_scene, rng, rng.choices((1, 2, 3), weights=(50, 30, 20))[0])
        first_errors, second_errors = (
            language.errors(first_scene.things, truth),
            language.errors(second_scene.things, truth),
        )
        if first_errors != second_errors:
            break
    style = rng.randrange(3)
    short = rng.random() < mix.short_judgements
    accounts = [
        language.brief_caption(account.things)
        if short
        else language.detailed_caption(
            account.things, style if rng.random() < 0.8 else rng.randrange(3)
        )
        for account in (first_scene, second_scene)
    ]
    first_wins = first_errors < second_errors
    if rng.random() < 0.5:
        accounts.reverse()
        first_wins = not first_wins
        first_errors, second_errors = second_errors, first_errors
    question = (
        with_request(rng.choice(SENA.describe), SENA.brief)
        if short
        else rng.choice(language.DETAIL_PROMPTS)
    )
    reference = (
        language.brief_caption(truth.things)
        if short and rng.random() < 0.5
        else language.detailed_caption(truth.things, rng.randrange(3))
    )
    text = SIMA.render(
        question, reference, *accounts, criteria=rng.random() < 0.7, examples=rng.random() < 0.35
    )
    return Turn(
        kind="judge",
        prompt=text,
        answer="[[1]]" if first_wins else "[[2]]",
        mistakes=(first_errors, second_errors),
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
        index = rng.randrange(len(things))
        thing = things[index]
        if edit == "add" and free:
            name = rng.choice(expected) if expected and rng.random() < 0.7 else rng.choice(absent)
            things.append(thing_in(rng.choice(free), name, TYPICAL_COLOUR[name]))
        elif edit == "drop" and len(things) > 1:
            things.pop(index)
        elif edit == "place" and free:
            things[index] = thing_in(rng.choice(free), thing.category, thing.colour)
        elif edit == "category":
            things[index] = replace(thing, category=rng.choice(absent))
        else:
            other_colours = [colour for colour in COLOURS if colour != thing.colour]
            things[index] = replace(thing, colour=rng.choice(other_colours))
    return replace(scene, things=mention_order(things))


_MAKERS: dict[str, Callable[[Scene, Scene, Random, Mix], Turn]] = {
    "detail": _detail_turn,
    "short": _short_turn,
    "word": _word_turn,
    "ask": _ask_turn,
    "check": _check_turn,
    "refine": _refine_turn,
    "judge": _judge_turn,
}
