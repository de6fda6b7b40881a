"""Names of metrics, benchmarks, methods and bases as the field writes them, and two fixed texts of
model cards."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import TypeVar

WORDS = {
    "amber_d": "AMBER-d",
    "amber_g": "AMBER-g",
    "chair": "CHAIR",
    "chair_i": "CHAIR-i",
    "chair_i_official": "CHAIR-i official",
    "chair_s": "CHAIR-s",
    "chair_s_official": "CHAIR-s official",
    "coco": "COCO",
    "f1": "F1",
    "mme": "MME",
    "mmhal": "MMHal",
    "pope": "POPE",
    "repope": "RePOPE",
    "vqa": "VQA",
}


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

RESULTS = "\n## Results\n"
"""The last heading of a model card; the text below it is rewritten with every table."""

UNGRADED = "The study of this model is not graded yet: no result says how good it is."


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The values of each key, in order, to be named together."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def display_name(name: str) -> str:
    """``yes_ratio`` becomes "yes ratio", ``chair_s`` "CHAIR-s", ``synthetic_pope`` "synthetic
    POPE"."""
    return WORDS.get(name) or " ".join(WORDS.get(word, word) for word in name.split("_"))


def metric_name(benchmark: str, heading: str) -> str:
    """A metric's display name (or its column's heading) with its benchmark's: "POPE accuracy", but
    "CHAIR-s" where the metric already names the benchmark."""
    *words, last = display_name(benchmark).removeprefix("synthetic ").split()
    return " ".join([*words, heading] if heading.startswith(last) else [*words, last, heading])


METHODS = {"csr": "CSR", "gt_dpo": "GT-DPO", "sena": "SENA", "sima": "SIMA"}
BASES = {"llava": "LLaVA", "qwen2.5": "Qwen2.5", "vl": "VL"}


def row_name(label: str) -> str:
    """``sena as released`` becomes "SENA as released", ``untrained at sena length`` "untrained at
    SENA length", ``sena minus csr`` "SENA minus CSR"; other labels stay."""
    start = r"(?:^|(?<= at )|(?<= against )|(?<= minus ))"
    return re.sub(rf"{start}[\w-]+", lambda word: METHODS.get(word[0], word[0]), label)


def with_trainer(name: str, trainer: str) -> str:
    """The row's name, and who trained it if that was not the harness's own loop."""
    return name if trainer == "own" else f"{name} (trained by {trainer})"


def base_name(name: str) -> str:
    """``llava-1.5-7b`` becomes "LLaVA-1.5-7B"; folders, hub ids and other names stay."""
    first, *others = name.split("-")
    if first not in BASES:
        return name
    words = (word.upper() if re.fullmatch(r"\d+b", word) else word for word in others)
    return "-".join([BASES[first], *(BASES.get(word, word) for word in words)])
