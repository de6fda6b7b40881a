"""What ``doctor --base`` says of a base's precision and input: how its images are shaped, its
system text, and a rendered example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cli.doctor_report import State
from harness.errors import UserError
from harness.models.base_cards import BaseCard, find_base
from harness.models.chat_format import LLAVA, Renderer, renderer
from harness.models.find_family import ARCHITECTURES
from harness.models.hub_snapshots import cached_folder
from harness.models.llava import shape_of
from harness.models.own_code import without_own_code

SHAPES = {
    "pad": "padded to a square with the processor's mean colour",
    "crop": "resized by the shorter side and cut to the centre",
    None: "as its processor says",
}
SYNTHETIC_EXAMPLE, EXAMPLE = "what is there ?", "What is there?"


def input_check(card: BaseCard, folder: Path | None) -> State:
    """``folder``: where the base's files are; None where they are not on this machine. Then the
    card alone is read."""
    precision = f"{card.dtype} on a GPU, float32 on the CPU"
    shape, words = SHAPES[card.image_shape], None
    if folder is not None:
        architecture = next(each for each in ARCHITECTURES.values() if each.name == card.family)
        with without_own_code(str(folder)):
            processor = architecture.processor(str(folder))
        card.apply_to(processor)
        words = renderer(processor)
        shape = SHAPES[shape_of(processor.image_processor)]
        if card.family != "llava-1.5":
            shape = "in their own shape"
    elif card.system is not None:  # LLaVA-1.5's special tokens
        never = re.compile("(?!)")
        tokens = {"bos": "<s>", "eos": "</s>", "image": "<image>"}
        words = Renderer(format=LLAVA, system=card.system, **tokens, specials=never, tokenizer=None)
    if words is None:
        says = f"{precision}; images {shape}; the prompt's format is shown when its files are here"
        return State(card.name, True, says)
    text = SYNTHETIC_EXAMPLE if card.prompts == "synthetic" else EXAMPLE
    system = repr(words.system.strip()) if words.system else "none"
    example = repr(words.render_prompt(text, True))
    says = f"{precision}; images {shape}; system text: {system}; example: {example}"
    return State(card.name, True, says)


def input_checks(names: Sequence[str]) -> Iterator[State]:
    """The input of each base that a user names."""
    for name in names:
        try:
            card = find_base(name)
            yield input_check(card, cached_folder(card.source, card.revision))
        except UserError as error:
            yield State(name, False, str(error))
