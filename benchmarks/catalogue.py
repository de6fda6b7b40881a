"""The benchmarks by name: a new one is written in its own file and added here, in one entry of its
own.

``lmms_eval:<task>`` and ``vlmevalkit:<dataset>`` name any benchmark of those toolkits, graded by
their own code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks import amber, coco, mmbench, mme, mmhal, pope
from benchmarks.entries import Entry, in_memory, unavailable
from benchmarks.files import LocalData
from benchmarks.interface import Benchmark
from benchmarks.synthetic import suite

_WORLD = "this repository"
_OURS = "Apache-2.0, as this repository"
_COCO = (
    "annotations CC BY 4.0; images under their Flickr licences; synonyms.txt under its"
    " repository's terms"
)
_CHAIR = "Rohrbach et al., EMNLP 2018, arXiv 1809.02156"
_AMBER = "Wang et al., 2023, arXiv 2311.07397"
_HALBENCH = (
    "its 300 responses' objects are extracted by a GPT judge with the prompts of its own"
    " repository, for which no grader is here"
)
_MEMENTOS = (
    "its questions are about sequences of images, and the engine answers questions about one image"
)

BENCHMARKS: Mapping[str, Entry] = {
    "synthetic_chair": Entry(
        factory=in_memory(suite.chair),
        group="hallucination",
        size=suite.SIZE,
        about=(
            "CHAIR on detailed captions of the synthetic world: objects told that are not there,"
            " with recall and length."
        ),
        metrics={"chair_s": "lower", "chair_i": "lower", "recall": "higher"},
        citation=_WORLD,
        licence=_OURS,
    ),
    "synthetic_chair_short": Entry(
        factory=in_memory(suite.chair_short),
        group="hallucination",
        size=suite.SIZE,
        about="CHAIR on one-sentence captions of the synthetic world.",
        metrics={"chair_s": "lower", "chair_i": "lower", "recall": "higher"},
        citation=_WORLD,
        licence=_OURS,
    ),
    "synthetic_pope": Entry(
        factory=in_memory(suite.pope),
        group="hallucination",
        size=suite.SIZE,
        about=(
            "POPE on the synthetic world: is it there, asked of random, popular and adversarial"
            " absent objects."
        ),
        metrics={"accuracy": "higher", "f1": "higher", "yes_ratio": "none"},
        citation=_WORLD,
        licence=_OURS,
    ),
    "synthetic_vqa": Entry(
        factory=in_memory(suite.visual_questions),
        group="general",
        size=suite.SIZE,
        about=(
            "Questions on the synthetic world with one exact answer: existence, colour, count,"
            " place, what, relation, scene."
        ),
        metrics={"accuracy": "higher"},
        citation=_WORLD,
        licence=_OURS,
    ),
    "coco_chair": Entry(
        factory=partial(coco.chair, "coco_chair", 512),
        group="hallucination",
        size=coco.PICTURES,
        about=(
            "CHAIR on 500 fixed images of COCO val2014, detailed captions of at most 512 tokens."
        ),
        metrics={"chair_s": "lower", "chair_i": "lower", "recall": "higher"},
        citation=_CHAIR,
        licence=_COCO,
        twins=("lmms_eval:coco_cap_chair",),
        local=coco.DATA,
    ),
    "coco_chair_64": Entry(
        factory=partial(coco.chair, "coco_chair_64", 64),
        group="hallucination",
        size=coco.PICTURES,
        about="CHAIR on the same images, captions cut at 64 tokens.",
        metrics={"chair_s": "lower", "chair_i": "lower", "recall": "higher"},
        citation=_CHAIR,
        licence=_COCO,
        local=coco.DATA,
    ),
    "pope": Entry(
        factory=partial(pope.load, "pope"),
        group="hallucination",
        size=500,
        about=(
            "POPE on COCO val2014: 9,000 questions whether an object is there; random, popular and"
            " adversarial absent ones."
        ),
        metrics={
            "accuracy": "higher",
            "f1": "higher",
            "yes_ratio": "none",
            "accuracy_official": "higher",
            "f1_official": "higher",
        },
        citation="Li et al., EMNLP 2023, arXiv 2305.10355",
        licence="questions MIT; images under their Flickr licences",
        twins=("lmms_eval:pope", "vlmevalkit:POPE"),
        local=pope.DATA,
    ),
    "repope": Entry(
        factory=partial(pope.load, "repope"),
        group="hallucination",
        size=500,
        about=(
            "POPE's questions with RePOPE's corrected labels; questions it calls ambiguous are"
            " unscored."
        ),
        metrics={
            "accuracy": "higher",
            "f1": "higher",
            "yes_ratio": "none",
            "accuracy_official": "higher",
            "f1_official": "higher",
        },
        citation="Neuhaus and Hein, 2025, arXiv 2504.15707",
        licence="labels under their repository's terms; questions and images as POPE's",
        local=pope.REPOPE_DATA,
    ),
    "amber_g": Entry(
        factory=amber.generative,
        group="hallucination",
        size=1004,
        about=(
            "AMBER, generative: descriptions against the annotators' objects, present and expected"
            " to be invented."
        ),
        metrics={"chair": "lower", "cover": "higher", "hal": "lower", "cog": "lower"},
        citation=_AMBER,
        licence="Apache-2.0 (repository); images under their own licences",
        twins=("lmms_eval:amber_g",),
        local=amber.GENERATIVE_DATA,
    ),
    "amber_d": Entry(
        factory=amber.discriminative,
        group="hallucination",
        size=1004,
        about=(
            "AMBER, discriminative: 14,216 yes/no questions on existence, attributes and relations;"
            " no is the positive class."
        ),
        metrics={"accuracy": "higher", "precision": "higher", "recall": "higher", "f1": "higher"},
        citation=_AMBER,
        licence="Apache-2.0 (repository); images under their own licences",
        twins=("vlmevalkit:AMBER",),
        local=amber.DISCRIMINATIVE_DATA,
    ),
    "mmhal": Entry(
        factory=mmhal.mmhal,
        group="hallucination",
        size=96,
        about=(
            "MMHal-Bench: 96 open questions of eight types, each answer rated 0 to 6 by a judge;"
            " below 3 it hallucinates."
        ),
        metrics={"score": "higher", "hallucination_rate": "lower"},
        citation="Sun et al., 2023, arXiv 2309.14525",
        licence="Apache-2.0 (data set); images of OpenImages under their Flickr licences",
        judge="a language model (SELFSIGHT_JUDGE)",
        local=mmhal.DATA,
    ),
    "object_halbench": Entry(
        factory=unavailable("object_halbench", _HALBENCH),
        group="hallucination",
        size=300,
        about="Object HalBench: hallucinated objects in descriptions of 300 COCO images.",
        metrics={"response": "lower", "mention": "lower"},
        citation="Rohrbach et al. 2018; Yu et al., RLHF-V, CVPR 2024, arXiv 2312.00849",
        licence="its repository's terms",
        judge="a GPT model that extracts objects",
        local=LocalData(
            name="object_halbench",
            files=("obj_halbench_300_with_image.jsonl",),
            get="github.com/RLHF-V/RLHF-V",
        ),
        unavailable=_HALBENCH,
    ),
    "mementos": Entry(
        factory=unavailable("mementos", _MEMENTOS),
        group="hallucination",
        size=699,
        about="Mementos: objects and behaviours told of a sequence of images.",
        metrics={"object_f1": "higher", "behaviour_f1": "higher"},
        citation="Wang et al., ACL 2024, arXiv 2401.10529",
        licence="its repository's terms",
        judge="a GPT model that extracts keywords",
        local=LocalData(
            name="mementos", files=("image", "*description*.csv"), get="github.com/si0wang/Mementos"
        ),
        unavailable=_MEMENTOS,
    ),
    "mme": Entry(
        factory=mme.load,
        group="general",
        size=1187,
        about=(
            "MME: ten subtasks of perception, four of cognition, two yes/no questions an image;"
            " the published total scores."
        ),
        metrics={
            "perception": "higher",
            "cognition": "higher",
            "accuracy": "higher",
            "accuracy_plus": "higher",
        },
        citation="Fu et al., 2023, arXiv 2306.13394",
        licence="for academic research; images under their own licences",
        twins=("lmms_eval:mme", "vlmevalkit:MME"),
        local=mme.DATA,
    ),
    "mmbench_dev_en": Entry(
        factory=mmbench.load,
        group="general",
        size=0,
        about="MMBench dev EN: multiple choice with circular evaluation.",
        metrics={"circular": "higher", "vanilla": "higher"},
        citation="Liu et al., ECCV 2024, arXiv 2307.06281",
        licence="Apache-2.0 (repository); images under their own licences",
        twins=("lmms_eval:mmbench_en_dev", "vlmevalkit:MMBench_DEV_EN"),
        local=mmbench.DATA,
    ),
}

TOOLKITS: Mapping[str, str] = {"lmms_eval": "task", "vlmevalkit": "data set"}


def find(name: str) -> Entry:
    """The entry of a benchmark here, or of ``lmms_eval:<task>`` or ``vlmevalkit:<dataset>``.

    Raises:
        KeyError: there is no benchmark of that name here, and it does not begin with a toolkit's
            name.
    """
    toolkit, colon, inner = name.partition(":")
    if not colon or toolkit not in TOOLKITS or not inner:
        return BENCHMARKS[name]

    def factory(split: str, limit: int | None, data: Path | None) -> Benchmark:
        # Imported when asked for: the harness runs without the toolkits.
        if toolkit == "lmms_eval":
            from benchmarks import via_lmms_eval

            return via_lmms_eval.benchmark(inner, split, limit, data)
        from benchmarks import via_vlmevalkit

        return via_vlmevalkit.benchmark(inner, split, limit, data)

    ours = next((entry for entry in BENCHMARKS.values() if name in entry.twins), None)
    return Entry(
        factory=factory,
        group=ours.group if ours else "general",
        size=ours.size if ours else 0,
        about=f"The {TOOLKITS[toolkit]} {inner} of {toolkit}, graded by the toolkit's own code.",
        metrics={},
        citation=ours.citation if ours else f"as the {TOOLKITS[toolkit]} says",
        licence=ours.licence if ours else f"as the {TOOLKITS[toolkit]} says",
        local=LocalData(name=toolkit, files=(), get="the toolkit's own data folder"),
    )
