"""Hallucination benchmarks that people look for and that cannot be run here, with the reason."""

from __future__ import annotations

from functools import partial

from benchmarks.files import LocalData
from benchmarks.interface import Benchmark
from benchmarks.spec import Spec

_HALBENCH = (
    "a GPT judge extracts the objects of its 300 responses with the prompts of its own repository,"
    " and no grader for that is here"
)
_MEMENTOS = (
    "a GPT judge extracts the keywords of its 697 answers, whose synonyms its own graphs join, and"
    " no grader for that is here; its questions are about one image each, a strip of frames"
)


def _refuse(name: str, reason: str, *_args: object) -> Benchmark:
    raise ValueError(f"{name} cannot be run here: {reason}.")


SPECS = (
    Spec(
        name="object_halbench",
        factory=partial(_refuse, "object_halbench", _HALBENCH),
        group="hallucination",
        size=300,
        about=(
            "Object HalBench (Yu et al., RLHF-V, arXiv 2312.00849): hallucinated objects in"
            " descriptions of 300 COCO images."
        ),
        metrics=("response", "mention"),
        licence="its repository's terms",
        judge="a GPT model that extracts objects",
        local=LocalData(
            name="object_halbench",
            files=("obj_halbench_300_with_image.jsonl",),
            get="github.com/RLHF-V/RLHF-V",
        ),
        unavailable=_HALBENCH,
    ),
    Spec(
        name="mementos",
        factory=partial(_refuse, "mementos", _MEMENTOS),
        group="hallucination",
        size=697,
        about=(
            "Mementos (Wang et al., arXiv 2401.10529): objects and behaviours in descriptions of"
            " image sequences."
        ),
        metrics=("object_f1", "behaviour_f1"),
        licence="its repository's terms",
        judge="a GPT model that extracts keywords",
        local=LocalData(
            name="mementos", files=("*_description.csv",), get="github.com/si0wang/Mementos"
        ),
        unavailable=_MEMENTOS,
    ),
)
