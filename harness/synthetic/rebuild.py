"""Rebuilds the synthetic models from nothing: tokenizer, CLIP, LLaVA, weights, card
(``python -m nox -s synthetic``).

A stage that was cut continues from its checkpoint below ``build/synthetic``. Weights are trained in
fp32 (bf16 matrix products), shipped as bf16 safetensors and run in fp32."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import CLIPModel, PreTrainedModel
from transformers.utils import logging

from benchmarks.synthetic.language import COLOUR_NOISE, KINDS
from benchmarks.synthetic.render import NORMAL
from benchmarks.synthetic.scene import SYNTHETIC_VERSION
from benchmarks.synthetic.show import write_contact_sheet
from benchmarks.synthetic.words import PRIOR, vocabulary
from harness.artifacts.results_folder import write_bytes
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
TURNS = ("detail", "short", "word", "ask", "check", "refine", "judge")


def _shares(names: Sequence[str], *shares: int) -> dict[str, float]:
    return dict(zip(names, shares, strict=True))


LOOK_AND_SPEAK = Phase(
    steps=2500,
    horizon=3600,
    lr=2e-3,
    warmup=200,
    length_power=0.5,
    look_weight=0.0,
    mix=Mix(
        turns=_shares(TURNS, 13, 10, 25, 4, 16, 13, 19),
        questions=_shares(KINDS, 38, 11, 10, 14, 10, 14, 3),
        existence=(45, 25, 30),
        short_judgements=0.25,
    ),
)
"""All kinds of turns, without the losses of :class:`ContentHeads`."""
FIND = Phase(
    steps=500,
    horizon=2600,
    lr=1.5e-3,
    warmup=50,
    length_power=0.7,
    look_weight=0.5,
    mix=Mix(
        turns=_shares(TURNS, 10, 8, 38, 4, 15, 10, 15),
        questions=_shares(KINDS, 42, 7, 9, 16, 6, 18, 2),
        existence=(36, 36, 28),
        short_judgements=0.6,
    ),
)
"""Finding a named thing in the image: yes/no, places and relations depend on it."""
JUDGE_MORE = Phase(
    steps=1250,
    horizon=2100,
    lr=1.4e-3,
    warmup=1,
    length_power=0.7,
    look_weight=0.5,
    mix=Mix(
        turns=_shares(TURNS, 12, 9, 26, 4, 15, 12, 26),
        questions=_shares(KINDS, 30, 10, 14, 16, 6, 22, 2),
        existence=(40, 32, 28),
        short_judgements=0.6,
    ),
)
"""All kinds of turns, with more judging."""
SETTLE = replace(
    JUDGE_MORE,
    steps=850,
    horizon=850,
    lr=5.4e-4,
    mix=replace(JUDGE_MORE.mix, yes_noise=0.12, answerable=0.6),
)
"""The end of the same cosine: some wrong yes answers, more checks that keep the question."""
CALIBRATE = replace(
    JUDGE_MORE,
    steps=450,
    horizon=450,
    lr=4e-4,
    warmup=20,
    mix=replace(JUDGE_MORE.mix, yes_noise=0.3, answerable=0.5, hard_checks=0.7),
)
"""Checks in which the kind of question does not tell the answer, and more wrong yes answers."""
AGREE = replace(CALIBRATE, steps=500, horizon=500, mix=replace(CALIBRATE.mix, yes_noise=0.5))
"""Still more wrong yes answers."""
LLAVA = LlavaRecipe(phases=(LOOK_AND_SPEAK, FIND, JUDGE_MORE, SETTLE, CALIBRATE, AGREE))
CARD_IMAGES = 600


def recipe(stage: Literal["clip", "llava"]) -> dict[str, object]:
    """Everything that determines a stage's weights, for the card and the fingerprint. The keys are
    those of the shipped recipe.json."""
    sizes = asdict(SIZES)
    prefixes = ("image", "patch", "vision", "text")  # the CLIP's sizes
    clip_sizes = {name: size for name, size in sizes.items() if name.startswith(prefixes)}
    content: dict[str, object] = {
        "sizes": clip_sizes,
        "vocabulary": len(vocabulary()),
        "world": {"version": SYNTHETIC_VERSION, "difficulty": asdict(NORMAL)},
        "clip": asdict(CLIP),
    }
    if stage == "llava":
        # The noise is in the LLaVA's texts alone, not in the CLIP's.
        noise = {"prior": PRIOR, "colour_noise": COLOUR_NOISE, "refine_strength": REFINE_STRENGTH}
        content |= {"sizes": sizes, "noise": noise, "llava": asdict(LLAVA)}
    return content


def fingerprint(stage: Literal["clip", "llava"]) -> str:
    text = json.dumps([recipe(stage), vocabulary()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def build(
    build_folder: Path = BUILD, weights: Path = WEIGHTS, say: Callable[[str], None] = print
) -> None:
    """Train what is not trained yet, and write ``weights/clip``, ``weights/llava``, the recipe and
    the card."""
    tokenizer = build_tokenizer(vocabulary())
    processor = build_processor(tokenizer, SIZES)
    words = tokenizer.get_vocab()
    start = time.monotonic()

    torch.manual_seed(0)
    clip = CLIPModel._from_config(clip_config(tokenizer, SIZES), attn_implementation="eager")

    def encode(text: str) -> list[int]:
        ids = (words[word] for word in text.split())
        return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]

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
    write_bytes(weights / "recipe.json", f"{text}\n".encode())
    card.write(weights, CARD_IMAGES, say)
    say(f"Weights are in {weights.name}/ after {time.monotonic() - start:.0f} s.")


def tower_weights(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The vision half of a CLIP, under the names of a LLaVA's vision tower."""
    return {
        name.removeprefix("vision_model."): value
        for name, value in clip.state_dict().items()
        if name.startswith("vision_model.")
    }


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a bf16 copy of the model; the model itself stays fp32."""
    state = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    model.save_pretrained(folder, state_dict=state)


def parser() -> argparse.ArgumentParser:
    """The options of ``python -m harness synthetic``."""
    options = argparse.ArgumentParser(
        prog="python -m harness synthetic", description=__doc__, allow_abbrev=False
    )
    options.add_argument(
        "--show",
        type=Path,
        nargs="?",
        const=BUILD / "sheet.png",
        metavar="PNG",
        help="write a contact sheet",
    )
    options.add_argument(
        "--out", type=Path, default=WEIGHTS, metavar="FOLDER", help="where the weights go"
    )
    options.add_argument(
        "--card",
        type=int,
        metavar="N",
        help="only measure the skills of the weights on N development images",
    )
    return options


def main(argv: Sequence[str]) -> None:
    """``python -m harness synthetic``: rebuild the weights; with ``--show`` only draw a sheet of
    images."""
    args = parser().parse_args(argv)
    logging.disable_progress_bar()  # the trainings print their own progress
    if args.show:
        args.show.parent.mkdir(parents=True, exist_ok=True)
        write_contact_sheet(args.show)
        print(args.show)
    elif args.card:
        card.write(args.out, args.card)
    else:
        build(weights=args.out, say=lambda line: print(line, flush=True))
