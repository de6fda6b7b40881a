"""Stub language resources for lmms-eval's amber_g and coco_cap_chair, in the real formats. The real
ones (nltk's tokenizer, tagger and WordNet, AMBER's word lists) are separate downloads. The stubs
have a few words, so scores only show that the kit's code ran. nltk is the real library."""

from __future__ import annotations

import json
from pathlib import Path

NOUNS = ("boat", "car", "cat", "dog", "house", "tree")
INITIAL = ("chair_score", "safe_cover_score", "hallu_cover_score", "non_hallu_score")


def nltk_data(folder: Path) -> Path:
    """For NLTK_DATA: no abbreviation is known, words have the tags listed, every noun is
    regular."""
    english = folder / "tokenizers" / "punkt_tab" / "english"
    tagger = folder / "taggers" / "averaged_perceptron_tagger_eng"
    wordnet = folder / "corpora" / "wordnet"
    for place in (english, tagger, wordnet):
        place.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (english / name).write_text("")
    words = {
        "a": "DT",
        "and": "CC",
        "there": "EX",
        "is": "VBZ",
        ".": ".",
        **dict.fromkeys(NOUNS, "NN"),
    }
    for name, value in (
        ("weights", {}),
        ("tagdict", words),
        ("classes", sorted({*words.values(), "NN"})),
    ):
        (tagger / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(value))
    for part in ("adj", "adv", "noun", "verb"):
        (wordnet / f"index.{part}").write_text("")
        (wordnet / f"{part}.exc").write_text("")
        (wordnet / f"data.{part}").write_text(
            "  1 WordNet 3.0 Copyright: a stub without any of its content\n"
        )
    lines = [f"{noun} n 1 0 1 1 {number:08d}\n" for number, noun in enumerate(NOUNS, start=1000)]
    (wordnet / "index.noun").write_text("".join(lines))
    (wordnet / "lexnames").write_text("00\tnoun.all\t1\n")
    for name in ("cntlist.rev", "index.sense"):
        (wordnet / name).write_text("")
    return folder


def amber_words(folder: Path) -> Path:
    """For AMBER_BASE_DIR: which words go with which, safe words, annotations (not read for the
    generative task), counters."""
    metadata = folder / "metadata"
    metadata.mkdir(parents=True)
    (metadata / "relation.json").write_text(json.dumps({noun: [] for noun in NOUNS}))
    (metadata / "safe_words.txt").write_text("thing\n")
    (metadata / "annotations.json").write_text("[]")
    begins = [f"{name}=0" for name in INITIAL] + [
        f"{name.replace('_score', '_num')}=0.001" for name in INITIAL
    ]
    (metadata / "metrics.txt").write_text("\n".join(begins) + "\n")
    return folder
