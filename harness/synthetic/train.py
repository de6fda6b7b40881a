"""Rebuild the synthetic world's models from nothing: tokenizer, CLIP, LLaVA, weights, card
(``python -m nox -s synthetic``).

Each stage continues from its checkpoint below ``build/world`` when it was cut off. Weights are
trained in fp32 (bf16 matrix products), shipped as bf16 safetensors and run in fp32."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import CLIPModel, PreTrainedModel
from transformers.utils import logging

from benchmarks.synthetic.language import COLOUR_NOISE
from benchmarks.synthetic.render import NORMAL
from benchmarks.synthetic.scene import SYNTHETIC_VERSION
from benchmarks.synthetic.show import write_contact_sheet
from benchmarks.synthetic.words import PRIOR, vocabulary
from harness.synthetic import card
from harness.synthetic.architecture import (
    Sizes,
    build_llava,
    build_processor,
    build_tokenizer,
    clip_config,
)
from harness.synthetic.train_clip import ClipRecipe, train_clip
from harness.synthetic.train_llava import LlavaRecipe, Phase, train_llava
from harness.synthetic.turns import REFINE_STRENGTH, Mix

WEIGHTS = Path(__file__).parent / "weights"
BUILD = Path(__file__).parents[2] / "build" / "synthetic"
SIZES = Sizes()
CLIP = ClipRecipe()
LOOK_AND_SPEAK = Phase(
    steps=2500,
    horizon=3600,
    lr=2e-3,
    warmup=200,
    length_power=0.5,
    look_weight=0.0,
    mix=Mix(
        turns={
            "detail": 13,
            "short": 10,
            "word": 25,
            "ask": 4,
            "check": 16,
            "refine": 13,
            "judge": 19,
        },
        questions={
            "existence": 38,
            "colour": 11,
            "count": 10,
            "place": 14,
            "what": 10,
            "relation": 14,
            "scene": 3,
        },
        existence=(45, 25, 30),
        short_judgements=0.25,
    ),
)
# Learning to find a named thing: yes and no, places and relations rest on it.
FIND = Phase(
    steps=500,
    horizon=2600,
    lr=1.5e-3,
    warmup=50,
    length_power=0.7,
    look_weight=0.5,
    mix=Mix(
        turns={
            "detail": 10,
            "short": 8,
            "word": 38,
            "ask": 4,
            "check": 15,
            "refine": 10,
            "judge": 15,
        },
        questions={
            "existence": 42,
            "colour": 7,
            "count": 9,
            "place": 16,
            "what": 6,
            "relation": 18,
            "scene": 2,
        },
        existence=(36, 36, 28),
        short_judgements=0.6,
    ),
)
# The whole, with judging.
WHOLE = Phase(
    steps=1250,
    horizon=2100,
    lr=1.4e-3,
    warmup=1,
    length_power=0.7,
    look_weight=0.5,
    mix=Mix(
        turns={
            "detail": 12,
            "short": 9,
            "word": 26,
            "ask": 4,
            "check": 15,
            "refine": 12,
            "judge": 26,
        },
        questions={
            "existence": 30,
            "colour": 10,
            "count": 14,
            "place": 16,
            "what": 6,
            "relation": 22,
            "scene": 2,
        },
        existence=(40, 32, 28),
        short_judgements=0.6,
    ),
)
# The end of the same cosine: yes and no that agree a little, and checks that trust a question more.
SETTLE = replace(
    WHOLE, steps=850, horizon=850, lr=5.4e-4, mix=replace(WHOLE.mix, yes_noise=0.12, answerable=0.6)
)
# Calibration: checks whose kind of question does not give the answer away, yes and no that agree
# more.
CALIBRATE = replace(
    WHOLE,
    steps=450,
    horizon=450,
    lr=4e-4,
    warmup=20,
    mix=replace(WHOLE.mix, yes_noise=0.3, answerable=0.5, hard_checks=0.7),
)
AGREE = replace(CALIBRATE, steps=500, horizon=500, mix=replace(CALIBRATE.mix, yes_noise=0.5))
LLAVA = LlavaRecipe(phases=(LOOK_AND_SPEAK, FIND, WHOLE, SETTLE, CALIBRATE, AGREE))
CARD_PICTURES = 600


def recipe(stage: str) -> dict[str, object]:
    """Everything that fixes a stage's weights, for the card and the fingerprint."""
    world: dict[str, object] = {"version": SYNTHETIC_VERSION, "difficulty": asdict(NORMAL)}
    sizes = asdict(SIZES)
    seeing = {
        name: size
        for name, size in sizes.items()
        if name.startswith(("image", "patch", "vision", "text"))
    }
    made: dict[str, object] = {
        "sizes": seeing,
        "vocabulary": len(vocabulary()),
        "world": world,
        "clip": asdict(CLIP),
    }
    if stage == "llava":
        noise = {
            "prior": PRIOR,
            "colour_noise": COLOUR_NOISE,
            "refine_strength": REFINE_STRENGTH,
        }  # told in the texts alone: the CLIP never hears it
        made |= {"sizes": sizes, "noise": noise, "llava": asdict(LLAVA)}
    return made


def fingerprint(stage: str) -> str:
    text = json.dumps([recipe(stage), vocabulary()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def build(
    build_folder: Path = BUILD, weights: Path = WEIGHTS, say: Callable[[str], None] = print
) -> None:
    """Train what is not trained yet and write the weights: ``weights/clip`` and
    ``weights/llava``."""
    tokenizer = build_tokenizer(vocabulary())
    processor = build_processor(tokenizer, SIZES)
    words = tokenizer.get_vocab()
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    began = time.monotonic()

    torch.manual_seed(0)
    clip = CLIPModel._from_config(clip_config(tokenizer, SIZES), attn_implementation="eager")

    def encode(text: str) -> list[int]:
        return [begin, *(words[word] for word in text.split()), end]

    train_clip(
        clip, processor.image_processor, encode, CLIP, build_folder, fingerprint("clip"), say
    )
    save(clip, weights / "clip")
    processor.image_processor.save_pretrained(weights / "clip")
    tokenizer.save_pretrained(weights / "clip")

    torch.manual_seed(1)
    llava = build_llava(tokenizer, SIZES)
    llava.model.vision_tower.load_state_dict(tower_weights(clip))
    train_llava(llava, processor, LLAVA, build_folder, fingerprint("llava"), say)
    save(llava, weights / "llava")
    processor.save_pretrained(weights / "llava")
    text = json.dumps(
        {"fingerprint": fingerprint("llava"), **recipe("llava")}, indent=1, sort_keys=True
    )
    (weights / "recipe.json").write_text(text + "\n")
    card.write(weights, CARD_PICTURES, say)
    say(f"Weights are in {weights.name}/ after {time.monotonic() - began:.0f} s.")


def tower_weights(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The vision half of a CLIP, named as a LLaVA's vision tower names it."""
    return {
        name.removeprefix("vision_model."): value
        for name, value in clip.state_dict().items()
        if name.startswith("vision_model.")
    }


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's bf16 copy; the model itself stays fp32."""
    state = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    model.save_pretrained(folder, state_dict=state)


def main(argv: Sequence[str]) -> None:
    """``python -m harness synthetic``: rebuild the weights; with ``--show``, only draw a sheet of
    the world's images."""
    parser = argparse.ArgumentParser(prog="python -m harness synthetic", description=__doc__)
    parser.add_argument(
        "--show",
        type=Path,
        nargs="?",
        const=BUILD / "sheet.png",
        metavar="PNG",
        help="write a contact sheet",
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, metavar="FOLDER", help="where the weights go"
    )
    parser.add_argument(
        "--card",
        type=int,
        metavar="N",
        help="only measure the weights' skills on N development images",
    )
    given = parser.parse_args(argv)
    logging.disable_progress_bar()  # the trainings say themselves how far they are
    if given.show:
        given.show.parent.mkdir(parents=True, exist_ok=True)
        write_contact_sheet(given.show)
        print(given.show)
    elif given.card:
        card.write(given.out, given.card)
    else:
        build(weights=given.out, say=lambda line: print(line, flush=True))
