"""The card of the synthetic base: its skills on the development split, measured with the engine
that all studies use.

Beside the benchmarks it measures what the methods depend on: whether the base recognises
unanswerable questions, whether a refined answer is better than the first, and whether the critic's
verdict is right where two accounts differ."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL.Image import Image

from benchmarks.grading import ItemBenchmark
from benchmarks.interface import Grade, Metric, summed
from benchmarks.synthetic import language, suite
from benchmarks.synthetic.render import render
from benchmarks.synthetic.scene import Scene, scene
from benchmarks.synthetic.truth import account_errors
from harness.artifacts.results_folder import write_bytes
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from harness.models.checkpoints import weights_fingerprint
from harness.reporting.stats import estimate
from harness.synthetic.turns import disturb
from methods.interface import Decoding, Prompt
from methods.prompt_sets import fill
from methods.sena.prompts import SYNTHETIC as SENA
from methods.sena.prompts import with_request
from methods.sima.prompts import SYNTHETIC as SIMA

SPLIT = "dev"


@dataclass(frozen=True, kw_only=True)
class Skill:
    """One measured skill: a ratio of sums over images and its 95 % interval over images, in
    percent unless its name says otherwise."""

    name: str
    value: float
    lo: float
    hi: float


Ratio = tuple[float, float]
"""(numerator, denominator) of one image."""


def skill(name: str, images: Sequence[Ratio], scale: float = 100.0) -> Skill:
    counts = np.array(images, dtype=np.float64)
    # The difference from a system that scores 0 is the value.
    zero = np.stack([np.zeros(len(counts)), np.ones(len(counts))], axis=1)
    result = estimate(counts[None], zero[None], scale=scale)
    lo, hi = result.interval()
    return Skill(name=name, value=result.difference, lo=lo, hi=hi)


def measure(engine: Engine, limit: int, say: Callable[[str], None] = print) -> list[Skill]:
    """Every skill on the first ``limit`` images of the development split."""
    skills: list[Skill] = []
    for factory in (suite.chair, suite.chair_short, suite.pope, suite.visual_questions):
        skills += _benchmark_skills(engine, factory(SPLIT, limit))
    scenes = [scene(SPLIT, index) for index in range(limit)]
    images = [render(truth) for truth in scenes]
    for measure_skills in (_check_skills, _refine_skills, _critic_skills):
        skills += measure_skills(engine, scenes, images)
    for row in skills:
        say(f"{row.name:48s} {row.value:6.1f} [{row.lo:.1f}, {row.hi:.1f}]")
    return skills


def _benchmark_skills(engine: Engine, benchmark: ItemBenchmark[Any]) -> list[Skill]:
    items = list(benchmark.items())
    images, texts = [item.load_image() for item in items], [item.text for item in items]
    replies = _ask(engine, images, texts, benchmark.max_new_tokens)
    report = benchmark.grade({item.id: reply for item, reply in zip(items, replies, strict=True)})
    return [
        skill(f"{benchmark.name} {metric.name}", _by_image(report.grades, metric), metric.scale)
        for metric in benchmark.metrics
    ]


def _by_image(grades: Sequence[Grade], metric: Metric) -> list[Ratio]:
    counts: defaultdict[str, list[Mapping[str, float]]] = defaultdict(list)
    for grade in grades:
        counts[grade.cluster].append(grade.counts)
    sums = [summed(rows) for rows in counts.values()]
    return [(row.get(metric.numerator, 0), row.get(metric.denominator, 0)) for row in sums]


def _ask(engine: Engine, images: Sequence[Image], texts: Sequence[str], tokens: int) -> list[str]:
    prompts = [
        Prompt(key=str(index), text=text, image=image)
        for index, (text, image) in enumerate(zip(texts, images, strict=True))
    ]
    return [answer.text for answer in engine.generate(prompts, Decoding(max_new_tokens=tokens))]


def _check_skills(engine: Engine, scenes: Sequence[Scene], images: Sequence[Image]) -> list[Skill]:
    """SENA's check: answerable questions that are kept (all kinds together, then each kind), and
    unanswerable ones that are asked anew."""
    keep_lead, ask_lead = (lead.split()[0] for lead in SENA.check_leads)

    def opener_ratios(texts: Sequence[str | None], opener: str) -> list[Ratio]:
        """Of each image: (whether the reply begins so, 1); (0, 0) without a question."""
        requests = [
            (fill(SENA.check, question=text), image)
            for text, image in zip(texts, images, strict=True)
            if text
        ]
        replies = iter(
            _ask(engine, [image for _, image in requests], [text for text, _ in requests], 24)
        )
        return [
            (float(next(replies).startswith(opener)), 1.0) if text else (0.0, 0.0) for text in texts
        ]

    by_kind = {}
    for kind in language.KINDS:
        rngs = (Random(f"card {kind} {truth.id}") for truth in scenes)
        questions = [
            language.question(truth, kind, rng) for truth, rng in zip(scenes, rngs, strict=True)
        ]
        by_kind[kind] = opener_ratios(
            [question.text if question else None for question in questions], keep_lead
        )
    all_kinds = [
        (sum(numerator for numerator, _ in rows), sum(denominator for _, denominator in rows))
        for rows in zip(*by_kind.values(), strict=True)
    ]
    unanswerable = [language.unanswerable(truth, Random(f"card {truth.id}")) for truth in scenes]
    return [
        skill("answerable questions kept", all_kinds),
        *(skill(f"answerable questions kept: {kind}", rows) for kind, rows in by_kind.items()),
        skill("unanswerable questions asked anew", opener_ratios(unanswerable, ask_lead)),
    ]


def _refine_skills(engine: Engine, scenes: Sequence[Scene], images: Sequence[Image]) -> list[Skill]:
    """SENA's enhancement: errors of short captions and right one-word answers, before and after."""
    prompt = with_request(SENA.describe[0], SENA.brief)
    captions = _ask(engine, images, [prompt] * len(scenes), 64)
    refined_captions = _enhance(engine, images, captions, [prompt] * len(scenes), captions)
    questions = []
    for truth in scenes:
        rng = Random(f"card refine {truth.id}")
        kind = rng.choice(("existence", "colour", "count", "place", "what"))
        question = language.question(truth, kind, rng)
        assert question is not None  # these kinds exist in every scene
        questions.append(question)
    prompts = [with_request(question.text, SENA.word) for question in questions]
    answers = _ask(engine, images, prompts, 8)
    enhanced = _enhance(engine, images, captions, prompts, answers)

    def answer_ratios(texts: Sequence[str]) -> list[Ratio]:
        pairs = zip(texts, questions, strict=True)
        return [(float(text.strip(" .") == question.answer), 1.0) for text, question in pairs]

    def error_ratios(texts: Sequence[str]) -> list[Ratio]:
        pairs = zip(texts, scenes, strict=True)
        return [(float(account_errors(text, truth)), 1.0) for text, truth in pairs]

    return [
        skill("errors a short caption, first (count)", error_ratios(captions), 1.0),
        skill("errors a short caption, refined (count)", error_ratios(refined_captions), 1.0),
        skill("one-word answers right, first", answer_ratios(answers)),
        skill("one-word answers right, refined", answer_ratios(enhanced)),
    ]


def _enhance(
    engine: Engine,
    images: Sequence[Image],
    descriptions: Sequence[str],
    prompts: Sequence[str],
    answers: Sequence[str],
) -> list[str]:
    texts = [
        SENA.enhancement(description=description, prompt=prompt, answer=answer)
        for description, prompt, answer in zip(descriptions, prompts, answers, strict=True)
    ]
    replies = _ask(engine, images, texts, 72)
    refined = [SENA.enhanced(reply) for reply in replies]
    return [new or old for new, old in zip(refined, answers, strict=True)]


def _critic_skills(engine: Engine, scenes: Sequence[Scene], images: Sequence[Image]) -> list[Skill]:
    """SIMA's critic on two accounts that differ in 1 to 3 mistakes, asked in both orders."""
    texts: list[str] = []
    for truth in scenes:
        rng = Random(f"card critic {truth.id}")
        while True:
            first_scene = disturb(language.noisy_scene(truth), rng, rng.choice((0, 0, 1)))
            second_scene = disturb(first_scene, rng, rng.choice((1, 1, 2, 3)))
            first_errors, second_errors = (
                language.errors(account.things, truth) for account in (first_scene, second_scene)
            )
            if first_errors != second_errors:
                break
        better, worse = (
            (first_scene, second_scene)
            if first_errors < second_errors
            else (second_scene, first_scene)
        )
        style = rng.randrange(3)
        pair = [language.detailed_caption(account.things, style) for account in (better, worse)]
        reference = language.detailed_caption(truth.things, rng.randrange(3))
        for accounts in (pair, pair[::-1]):
            texts.append(
                SIMA.render(language.DETAIL_PROMPTS[0], reference, *accounts, examples=False)
            )
    replies = _ask(engine, [image for image in images for _ in range(2)], texts, 6)
    reply_pairs = list(zip(replies[::2], replies[1::2], strict=True))
    right_ratios = [(float("[[1]]" in a) + float("[[2]]" in b), 2.0) for a, b in reply_pairs]
    first_ratios = [(float("[[1]]" in a) + float("[[1]]" in b), 2.0) for a, b in reply_pairs]
    return [
        skill("critic's verdict right", right_ratios),
        skill("critic names the first (50 is no position bias)", first_ratios),
    ]


def write(weights: Path, limit: int, say: Callable[[str], None] = print) -> None:
    """Measure the weights in ``weights/llava``; write ``CARD.md`` and ``card.json`` beside them."""
    model, processor = load_model(replace(BASES["synthetic"], source=weights / "llava"))
    skills = measure(Engine(model, processor), limit, say)
    recipe = json.loads((weights / "recipe.json").read_text())
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors")) / 1e6
    card = {
        "weights": weights_fingerprint(weights / "llava"),
        "recipe": recipe["fingerprint"],
        "split": SPLIT,
        "images": limit,
        "skills": {
            row.name: [round(row.value, 2), round(row.lo, 2), round(row.hi, 2)] for row in skills
        },
    }
    write_bytes(weights / "card.json", f"{json.dumps(card, indent=1)}\n".encode())
    write_bytes(weights / "CARD.md", card_text(card, skills, recipe, size).encode())


def card_text(
    card: Mapping[str, object], skills: Sequence[Skill], recipe: object, size: float
) -> str:
    """CARD.md; ``size`` in MB."""
    rows = "\n".join(
        f"| {row.name} | {row.value:.1f} | [{row.lo:.1f}, {row.hi:.1f}] |" for row in skills
    )
    return CARD.format(
        **card, size=f"{size:.1f}", rows=rows, recipe_json=json.dumps(recipe, indent=1)
    )


CARD = """# The synthetic base

A LLaVA and a CLIP, trained from nothing on synthetic images (`python -m nox -s synthetic`),
{size} MB in bf16 safetensors. It exists to test the harness: nothing measured on it ranks methods
for real models.

Why it hallucinates: the texts it was trained on name an expected but absent companion of a lone
thing (house and tree, boat and fish ...) at the rates below (`prior`), and the typical colour for
an untypical one (`colour_noise`). Generation adds nothing. In the last phases a yes/no question
about such a companion is answered "yes" still more often (`yes_noise`). Turns that refine an answer
have a share of that noise (`refine_strength`); checks and judgements use the truth.

- weights: `{weights}`
- recipe: `{recipe}`

Skills on the first {images} images of the {split} split, with 95 % intervals over images (percent
unless said otherwise):

| skill | value | interval |
|---|---|---|
{rows}

The recipe:

```json
{recipe_json}
```
"""
