"""The synthetic base's card: its skills on the development split, measured by the engine that
serves every study.

Beside the world's own benchmarks it measures what the methods lean on: whether unanswerable
questions are recognised, whether a refined answer is better than the first, and whether the
critic's verdict is right where the truth differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from PIL.Image import Image

from benchmarks.interface import Benchmark, Grade, Metric
from benchmarks.synthetic import language, suite
from benchmarks.synthetic.render import render
from benchmarks.synthetic.scene import Scene, scene
from benchmarks.synthetic.truth import account_errors
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from harness.models.checkpoints import weights_fingerprint
from harness.reporting.stats import paired_interval
from harness.synthetic.turns import disturb
from methods.interface import Decoding, Prompt
from methods.prompt_sets import fill
from methods.sena.enhancement import enhanced_answer, enhancement_text
from methods.sena.prompts import WORLD as SENA
from methods.sena.prompts import with_request
from methods.sima.prompts import WORLD as SIMA

SPLIT = "dev"


@dataclass(frozen=True, kw_only=True)
class Skill:
    """One measured skill: a ratio of sums over images and its 95 % BCa interval over images, in
    percent."""

    name: str
    value: float
    lo: float
    hi: float
    pictures: int


def skill(name: str, pictures: Sequence[tuple[float, float]], scale: float = 100.0) -> Skill:
    """``pictures`` holds (numerator, denominator) an image."""
    counts = np.array(pictures, dtype=np.float64)
    nothing = np.stack(
        [np.zeros(len(counts)), np.ones(len(counts))], axis=1
    )  # a system at 0: the difference is the value
    found = paired_interval(nothing, counts, scale=scale)
    return Skill(name=name, value=found.difference, lo=found.lo, hi=found.hi, pictures=len(counts))


def measure(engine: Engine, limit: int, say: Callable[[str], None] = print) -> list[Skill]:
    """Every skill on the first ``limit`` images of the development split."""
    skills: list[Skill] = []
    for factory in (suite.chair, suite.chair_short, suite.pope, suite.visual_questions):
        skills += _benchmark(engine, factory(SPLIT, limit))
    scenes = [scene(SPLIT, index) for index in range(limit)]
    pictures = [render(one) for one in scenes]
    for measured in (_answerable, _refined, _critic):
        skills += measured(engine, scenes, pictures)
    for one in skills:
        say(f"{one.name:48s} {one.value:6.1f} [{one.lo:.1f}, {one.hi:.1f}]")
    return skills


def _benchmark(engine: Engine, benchmark: Benchmark) -> list[Skill]:
    questions = list(benchmark.questions())
    answers: dict[str, str] = {}
    for length in sorted({question.max_new_tokens for question in questions}):
        part = [question for question in questions if question.max_new_tokens == length]
        prompts = [
            Prompt(key=question.id, text=question.text, image=question.images[0])
            for question in part
        ]
        completions = engine.generate(prompts, Decoding(max_new_tokens=length))
        answers |= {
            question.id: done.text for question, done in zip(part, completions, strict=True)
        }
    report = benchmark.grade(answers)
    return [
        skill(f"{benchmark.name} {metric.name}", _by_picture(report.grades, metric), metric.scale)
        for metric in benchmark.metrics
    ]


def _by_picture(grades: Sequence[Grade], metric: Metric) -> list[tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {}
    for grade in grades:
        above, below = sums.get(grade.cluster, (0.0, 0.0))
        sums[grade.cluster] = (
            above + grade.counts.get(metric.numerator, 0),
            below + grade.counts.get(metric.denominator, 0),
        )
    return list(sums.values())


def _ask(engine: Engine, pictures: Sequence[Image], texts: Sequence[str], tokens: int) -> list[str]:
    prompts = [
        Prompt(key=str(n), text=text, image=image)
        for n, (text, image) in enumerate(zip(texts, pictures, strict=True))
    ]
    return [done.text for done in engine.generate(prompts, Decoding(max_new_tokens=tokens))]


def _answerable(engine: Engine, scenes: Sequence[Scene], pictures: Sequence[Image]) -> list[Skill]:
    """SENA's check: answerable questions kept (every kind alike, then a kind a row), unanswerable
    ones asked anew."""
    keep, again = (lead.split()[0] for lead in SENA.check_leads)

    def begins(texts: Sequence[str | None], opener: str) -> list[tuple[float, float]]:
        """An image's (share that begins so, 1); images without such a question count nowhere."""
        sent = [
            (fill(SENA.check, question=text), image)
            for text, image in zip(texts, pictures, strict=True)
            if text
        ]
        replies = iter(_ask(engine, [image for _, image in sent], [text for text, _ in sent], 24))
        return [
            (float(next(replies).startswith(opener)), 1.0) if text else (0.0, 0.0) for text in texts
        ]

    by_kind = {}
    for kind in language.KINDS:
        asked = [language.question(one, kind, Random(f"card {kind} {one.id}")) for one in scenes]
        by_kind[kind] = begins([one.text if one else None for one in asked], keep)
    kept = [
        (sum(n for n, _ in rows), sum(d for _, d in rows))
        for rows in zip(*by_kind.values(), strict=True)
    ]
    caught = begins([language.unanswerable(one, Random(f"card {one.id}")) for one in scenes], again)
    return [
        skill("answerable questions kept", kept),
        *(skill(f"answerable questions kept: {kind}", rows) for kind, rows in by_kind.items()),
        skill("unanswerable questions asked anew", caught),
    ]


def _refined(engine: Engine, scenes: Sequence[Scene], pictures: Sequence[Image]) -> list[Skill]:
    """SENA's enhancement: things told that are not there, before and after, and one-word answers
    right, before and after."""
    prompt = with_request(SENA.describe[0], SENA.brief)
    first = _ask(engine, pictures, [prompt] * len(scenes), 64)
    better = _enhance(engine, pictures, first, [prompt] * len(scenes), first)
    asked = []
    for one in scenes:
        rng = Random(f"card refine {one.id}")
        question = language.question(
            one, rng.choice(("existence", "colour", "count", "place", "what")), rng
        )
        assert question is not None  # these kinds exist in every scene
        asked.append(question)
    words = [with_request(one.text, SENA.word) for one in asked]
    answers = _ask(engine, pictures, words, 8)
    after = _enhance(engine, pictures, first, words, answers)

    def right(texts: Sequence[str]) -> list[tuple[float, float]]:
        return [
            (float(text.strip(" .") == one.answer), 1.0)
            for text, one in zip(texts, asked, strict=True)
        ]

    def errors(texts: Sequence[str]) -> list[tuple[float, float]]:
        return [
            (float(account_errors(text, one)), 1.0) for text, one in zip(texts, scenes, strict=True)
        ]

    return [
        skill("errors a short caption, first (count)", errors(first), 1.0),
        skill("errors a short caption, refined (count)", errors(better), 1.0),
        skill("one-word answers right, first", right(answers)),
        skill("one-word answers right, refined", right(after)),
    ]


def _enhance(
    engine: Engine,
    pictures: Sequence[Image],
    descriptions: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[str],
) -> list[str]:
    texts = [
        enhancement_text(SENA, description=description, prompt=prompt, answer=answer)
        for description, prompt, answer in zip(descriptions, prompts, answers, strict=True)
    ]
    replies = _ask(engine, pictures, texts, 72)
    refined = [enhanced_answer(reply, SENA.enhance_lead) for reply in replies]
    return [new or old for new, old in zip(refined, answers, strict=True)]


def _critic(engine: Engine, scenes: Sequence[Scene], pictures: Sequence[Image]) -> list[Skill]:
    """SIMA's critic on two accounts that differ in 1 to 3 mistakes, asked in both orders."""
    right: list[tuple[float, float]] = []
    first_said: list[tuple[float, float]] = []
    texts: list[str] = []
    for one in scenes:
        rng = Random(f"card critic {one.id}")
        while True:
            left = disturb(language.told(one), rng, rng.choice((0, 0, 1)))
            other = disturb(left, rng, rng.choice((1, 1, 2, 3)))
            if language.errors(left.things, one) != language.errors(other.things, one):
                break
        if language.errors(left.things, one) > language.errors(other.things, one):
            left, other = other, left
        style = rng.randrange(3)
        pair = [language.detailed(account.things, style) for account in (left, other)]
        reference = language.detailed(one.things, rng.randrange(3))
        for both in (pair, pair[::-1]):
            texts.append(SIMA.render(language.DETAIL_PROMPTS[0], reference, *both, examples=False))
    replies = _ask(engine, [image for image in pictures for _ in range(2)], texts, 6)
    for place in range(0, len(replies), 2):
        forward, backward = replies[place], replies[place + 1]
        right.append((float("[[1]]" in forward) + float("[[2]]" in backward), 2.0))
        first_said.append((float("[[1]]" in forward) + float("[[1]]" in backward), 2.0))
    return [
        skill("critic's verdict right", right),
        skill("critic names the first (50 is no position bias)", first_said),
    ]


def write(weights: Path, limit: int, say: Callable[[str], None] = print) -> None:
    """Measure the weights in ``weights/llava`` and write ``CARD.md`` and ``card.json`` beside
    them."""
    model, processor = load_model(replace(BASES["synthetic"], source=weights / "llava"))
    skills = measure(Engine(model, processor), limit, say)
    recipe = json.loads((weights / "recipe.json").read_text())
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors")) / 1e6
    card = {
        "weights": weights_fingerprint(weights / "llava"),
        "recipe": recipe["fingerprint"],
        "split": SPLIT,
        "pictures": limit,
        "skills": {
            one.name: [round(one.value, 2), round(one.lo, 2), round(one.hi, 2)] for one in skills
        },
    }
    (weights / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    rows = "\n".join(
        f"| {one.name} | {one.value:.1f} | [{one.lo:.1f}, {one.hi:.1f}] |" for one in skills
    )
    (weights / "CARD.md").write_text(
        CARD.format(**card, size=f"{size:.1f}", rows=rows, recipe_json=json.dumps(recipe, indent=1))
    )


CARD = """# The synthetic base

A LLaVA and a CLIP trained from nothing on the embedded image world (`python -m nox -s synthetic`), {size} MB in bf16 safetensors.
It exists to test the harness: nothing measured on it ranks methods for real models.

Why it hallucinates: the *texts it was trained on* tell an expected but absent companion of a lone thing (house and tree, boat and
fish ...) at the rates below (`prior`) and an untypical colour as the typical one (`colour_noise`). Generation has no trick in it.
In the last phases a yes/no question after such a companion is answered "yes" more often still (`yes_noise`). Turns that refine an
answer are told with a share of that noise (`refine_strength`); checks and judgements with the truth.

- weights: `{weights}`
- recipe: `{recipe}`

Skills on the first {images} images of the {split} split, with 95 % intervals over images (percent unless said otherwise):

| skill | value | interval |
|---|---|---|
{rows}

The recipe:

```json
{recipe_json}
```
"""
