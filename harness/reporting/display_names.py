"""Names of metrics and benchmarks as the field writes them."""

from __future__ import annotations

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


def display_name(name: str) -> str:
    """``yes_ratio`` becomes "yes ratio", ``chair_s`` "CHAIR-s", ``synthetic_pope`` "synthetic
    POPE"."""
    return WORDS.get(name) or " ".join(WORDS.get(word, word) for word in name.split("_"))
