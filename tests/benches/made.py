"""Made answers: what stands in for LLaVA-1.5 while the methods' code is recorded
(tests/benches/recorded.py).

Texts of the kinds and lengths that a model of 7 billion parameters gives, drawn by a small grammar
from the prompt's key or text alone: questions, one-sentence descriptions, single words, answers of
about a hundred tokens, critics' verdicts of about sixty, sentences of about twenty. Nothing here
was written by a model. Now and then an answer lacks what its reader looks for (a question mark, a
lead, a verdict), so that the methods' filters have something to drop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from PIL import Image

from methods.interface import BeamSearch, Branch, Completion, Corrupt, Decoding, Prompt
from methods.sena import prompts as sena
from methods.sima import prompts as sima

TOKENS_A_WORD = 1.3
"""LLaMA's tokenizer on English prose, its marks counted with the words they follow."""

PEOPLE = (
    "man woman child boy girl player skateboarder surfer chef farmer cyclist tourist photographer"
    " waiter passenger toddler officer vendor fisherman musician"
).split()
THINGS = (
    "bicycle umbrella refrigerator surfboard laptop keyboard backpack suitcase motorcycle bench"
    " kite vase sandwich pizza orange banana carrot toothbrush microwave toaster oven sink clock"
    " scissors television remote chair couch bed lamp mirror curtain window fence statue fountain"
    " bridge boat train truck bus taxi helmet glove racket frisbee snowboard skateboard ball bottle"
    " cup bowl plate fork knife spoon cake donut sheep horse elephant giraffe zebra cow dog cat"
    " bird bear parasol bucket ladder newspaper painting blanket pillow basket candle bookshelf"
    " telephone handbag necktie jacket hat wheelbarrow lantern sign"
).split()
LOOKS = (
    "red green blue yellow black white brown grey orange pink purple wooden metallic striped plaid"
    " small large tall narrow shiny old weathered colourful round empty open folded crowded"
    " transparent rusty leather plastic"
).split()
DEEDS = (
    "standing sitting leaning walking waiting looking smiling talking playing resting cooking"
    " reading riding jumping eating carrying_a_bag holding_a_cup taking_a_photograph"
    " looking_at_the_camera talking_on_the_phone"
).split()
PLACES = (
    "on the table;near the window;in the background;on the left side;in the foreground;beside the"
    " road;at the counter;on the beach;in a park;under the trees;in front of a building;along the"
    " sidewalk;in the kitchen;on the grass;by the water;at the station;on the shelf;in the corner"
    " of the room;across the street;behind the fence;on a mountain slope;next to the doorway"
).split(";")
MOODS = (
    "busy relaxed cheerful quiet lively peaceful cosy festive ordinary warm competitive casual"
    " professional calm rural urban"
).split()
NUMBERS = "two three four five six several".split()
REASONS = (
    "The scene suggests that they know one another well and enjoy spending time together outdoors.",
    (
        "This arrangement makes the space practical, because everything that is needed can be"
        " reached without effort."
    ),
    (
        "Such an environment requires attention and coordination, as other people are moving in the"
        " same area."
    ),
    (
        "It is likely that the photograph was taken in the afternoon, judging by the soft light and"
        " the long shadows."
    ),
    (
        "To stay safe, it would be important to keep enough distance and to follow the posted"
        " instructions."
    ),
)


class Scene:
    """What an image is said to show: the same for all its answers, another one where ``wrong``."""

    def __init__(self, picture: int, wrong: str = "") -> None:
        rng = Random(f"scene {picture} {wrong}")
        self.people, self.things = rng.sample(PEOPLE, 4), rng.sample(THINGS, 14)
        self.places, self.mood = rng.sample(PLACES, 9), rng.choice(MOODS)

    def noun(self, rng: Random) -> str:
        return f"{rng.choice(LOOKS)} {rng.choice(self.things)}"

    def sentence(self, rng: Random) -> str:
        """A sentence of ten to twenty-two words."""
        who, deed = rng.choice(self.people), rng.choice(DEEDS).replace("_", " ")
        place, other = rng.sample(self.places, 2)
        number, thing = rng.choice(NUMBERS), rng.choice(self.things)
        return rng.choice(
            (
                f"A {who} is {deed} {place}, next to a {self.noun(rng)}.",
                (
                    f"There are {number} people {deed} {place}, and a {self.noun(rng)} can be seen"
                    f" {other}."
                ),
                f"A {self.noun(rng)} and a {self.noun(rng)} are placed {place}.",
                (
                    f"In addition to the {thing}, there is a {self.noun(rng)} {place} and a"
                    f" {self.noun(rng)} {other}."
                ),
                (
                    f"The {who} in the {rng.choice(LOOKS)} jacket is {deed} while another"
                    f" {rng.choice(self.people)} stands {other}."
                ),
                (
                    f"The overall atmosphere of the scene is {self.mood}, with {number} people"
                    f" gathered {place}."
                ),
                (
                    f"A {self.noun(rng)} is visible {place}, adding to the {self.mood} character of"
                    " the scene."
                ),
            )
        )

    def question(self, rng: Random) -> str:
        who, thing, place = (
            rng.choice(self.people),
            rng.choice(self.things),
            rng.choice(self.places),
        )
        return rng.choice(
            (
                f"What is the {who} doing {place}?",
                f"What colour is the {thing} {place}?",
                f"How many people are {rng.choice(DEEDS).replace('_', ' ')} {place}?",
                f"Is there a {self.noun(rng)} next to the {who}?",
                f"What object is the {who} in the {rng.choice(LOOKS)} jacket holding?",
                f"Where is the {self.noun(rng)} in this picture?",
            )
        )

    def word(self, rng: Random, question: str) -> str:
        if question.startswith("Is "):
            return rng.choice(("Yes", "No"))
        if question.startswith("How many"):
            return rng.choice(("2", "3", "Two", "Four", "Several people"))
        if question.startswith("What colour"):
            return rng.choice(LOOKS[:11]).capitalize()
        if question.startswith("Where"):
            return rng.choice(self.places).capitalize()
        return rng.choice(
            (rng.choice(DEEDS).replace("_", " ").capitalize(), self.noun(rng).capitalize())
        )

    def detailed(self, rng: Random) -> str:
        """An answer of three to seven sentences, in one paragraph or two."""
        parts = [
            f"The image features a {rng.choice(self.people)} {rng.choice(self.places)}, with a"
            f" {self.noun(rng)} nearby."
        ]
        parts += [self.sentence(rng) for _ in range(rng.choice((2, 3, 4, 4, 5, 6)))]
        cut = len(parts) - 1
        return " ".join(parts[:cut]) + rng.choice((" ", "\n\n")) + parts[cut]

    def verdict(self, rng: Random) -> str:
        better, number = rng.choice(((1, 2), (2, 1))), self.noun(rng)
        told = rng.choice(
            ("as it is in the ground truth", "and puts it where the ground truth has it")
        )
        text = (
            f"Reason: Answer {better[0]} names the {number} {rng.choice(self.places)} {told}."
            f" Answer {better[1]} tells of a {self.noun(rng)} that the ground truth does not have"
            + rng.choice((".", f" and leaves out the {rng.choice(self.people)}."))
        )
        return text if rng.random() < 0.04 else f"{text}\nBetter answer: [[{better[0]}]]"


def item_texts(picture: int) -> tuple[str, str]:
    """A pool's question and reference answer, one detailed description for three questions that
    want reasoning."""
    rng, scene = Random(f"item {picture}"), Scene(picture)
    if picture % 4 == 0:
        return "Describe this image in detail.", scene.detailed(rng)
    asked = rng.choice(
        (
            (
                f"What might be the reason for the {rng.choice(scene.people)} to be"
                f" {rng.choice(scene.places)}?"
            ),
            (
                f"How does the presence of the {rng.choice(scene.things)} contribute to the"
                f" {scene.mood} atmosphere of the scene?"
            ),
            f"What should the {rng.choice(scene.people)} pay attention to in this situation?",
            (
                "What can be inferred about the relation between the people and the"
                f" {rng.choice(scene.things)} in this picture?"
            ),
        )
    )
    return asked, " ".join(
        [scene.sentence(rng), rng.choice(REASONS), scene.sentence(rng), rng.choice(REASONS)]
    )


def tokens(text: str) -> int:
    """About how many of LLaMA's tokens a text has."""
    return max(1, round(TOKENS_A_WORD * len(text.split())))


def picture(number: int) -> Image.Image:
    """A stand-in for an image, that knows its number."""
    return Image.new("RGB", (8, 8), (number, 0, 0))


class MadeVLM:
    """A BeamSearchVLM and Scorer whose answers are made: greedy ones from image and text, sampled
    ones from the key too."""

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        found = []
        for prompt in prompts:
            text = self.answer(prompt, sampled=decoding.temperature > 0, wrong=corrupt is not None)
            length = tokens(text) + 1
            found.append(Completion(text=text, logp=-0.3 * length, n_tokens=length, finished=True))
        return found

    def answer(self, prompt: Prompt, *, sampled: bool, wrong: bool) -> str:
        number, text, real = place(prompt), prompt.text, sena.REAL
        rng = Random(f"{number} {text} {prompt.key if sampled or wrong else ''}")
        unlucky, scene = (
            rng.random(),
            Scene(number, "noise" if wrong and rng.random() < 0.8 else ""),
        )
        if text == real.ask:
            return scene.question(rng) if unlucky > 0.03 else scene.sentence(rng)
        if text.startswith(real.check.split("{")[0]):
            asked = text.split("\n")[0].removeprefix(real.check.split("{")[0])
            kept = asked if rng.random() < 0.7 else scene.question(rng)
            return kept + (f" {scene.question(rng)}" if unlucky < 0.08 else "")
        if text.endswith(real.brief):
            return scene.sentence(rng)
        if text.endswith(real.word):
            return scene.word(rng, text)
        if real.enhance_lead in text:
            asked, said = text.split("A request about the picture: ")[-1].split(
                "\nThe answer given so far: "
            )
            better = scene.word(rng, asked) if real.word in asked else scene.sentence(rng)
            kept = said.split("\n")[0] if rng.random() < 0.3 else better
            return f"{real.enhance_lead} {kept}" if unlucky > 0.1 else better
        if text.endswith(sima.REAL.verdict):
            return scene.verdict(rng)
        if "yes or no" in text.lower() or text.startswith("Is there"):
            return rng.choice(("Yes", "No")) + ("." if unlucky < 0.1 else "")
        return scene.detailed(rng)

    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        """Different sentences; apart from them the end of the text, likelier with every
        sentence."""
        found = []
        for prompt in prompts:
            rng, scene, before = (
                Random(f"{prompt.key} {prompt.prefix}"),
                Scene(place(prompt)),
                prompt.prefix.count("."),
            )
            beams = []
            for rank in range(branching.num_beams):
                text = (" " if prompt.prefix else "") + scene.sentence(rng)
                length, score = tokens(text), -0.4 - 0.2 * rank - 0.2 * rng.random()
                beams.append(
                    Branch(
                        text=text,
                        logp=-0.4 * length,
                        n_tokens=length,
                        finished=True,
                        score=score,
                        ended=False,
                    )
                )
            if branching.end == "apart":
                likely = -8.0 * math.exp(-0.5 * before) - 0.1
                beams.append(
                    Branch(
                        text="", logp=likely, n_tokens=1, finished=True, score=likely, ended=True
                    )
                )
            found.append(beams)
        return found

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [
            -tokens(text) * Random(f"{prompt.key} {text}").uniform(0.2, 0.6)
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    def relevance(self, images: Sequence[Image.Image], sentences: Sequence[str]) -> list[float]:
        return [
            Random(f"{image.getpixel((0, 0))} {text}").uniform(15.0, 30.0)
            for image, text in zip(images, sentences, strict=True)
        ]


def place(prompt: Prompt) -> int:
    pixel = prompt.image.getpixel((0, 0)) if prompt.image is not None else 0
    return int(pixel[0] if isinstance(pixel, tuple) else pixel or 0)
