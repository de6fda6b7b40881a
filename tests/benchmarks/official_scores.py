"""The released scripts' arithmetic, computed from files and answers without the graders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def binary(truth: list[int], said: list[int]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and claimed share (%) of class 1; a prediction of -1 is wrong
    and claims nothing."""
    t, s = np.array(truth), np.array(said)
    tp = float(((t == 1) & (s == 1)).sum())
    precision, recall = tp / (s == 1).sum(), tp / (t == 1).sum()
    f1 = 2 * precision * recall / (precision + recall)
    values = {
        "accuracy": (t == s).mean(),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "ratio": (s == 1).mean(),
    }
    return {name: 100 * float(value) for name, value in values.items()}


def pope(labels: list[str], answers: list[str]) -> dict[str, float]:
    """POPE's evaluation."""
    said = []
    for answer in answers:
        words = answer.split(".")[0].replace(",", "").split(" ")
        said.append(0 if "No" in words or "not" in words or "no" in words else 1)
    return binary([int(label == "yes") for label in labels], said)


def repope(labels: list[str], answers: list[str]) -> dict[str, float]:
    """RePOPE's evaluation: an answer with neither word is left out."""
    read = [
        (label, "yes" in answer.lower())
        for label, answer in zip(labels, answers, strict=True)
        if "yes" in answer.lower() or "no" in answer.lower()
    ]
    return binary([int(label == "yes") for label, _ in read], [int(said) for _, said in read])


def chair(
    folder: Path, captions: Mapping[int, str], singular: Mapping[str, str]
) -> dict[str, float]:
    """CHAIR as released, word by word; ``singular`` undoes the plurals that occur."""
    owner, double = {}, {}
    for line in (folder / "synonyms.txt").read_text().splitlines():
        for word in line.split(", "):
            owner[word] = line.split(", ")[0]
    for both in ("traffic light", "street light", "wine glass", "hot dog", "teddy bear"):
        double[both] = both
    for animal in ("bird", "cat", "dog", "bear"):
        double["baby " + animal] = double["adult " + animal] = animal
    double |= {"passenger train": "train", "bow tie": "tie", "toilet seat": "toilet"}

    def read(caption: str) -> list[str]:
        for mark in (",", ".", "'"):
            caption = caption.replace(mark, f" {mark} ")
        words = [singular.get(word, word) for word in caption.lower().split()]
        joined, place = [], 0
        while place < len(words):
            two = " ".join(words[place : place + 2])
            joined.append(double.get(two, words[place]))
            place += 2 if two in double else 1
        if "toilet" in joined and "seat" in joined:
            joined = [word for word in joined if word != "seat"]
        return [owner[word] for word in joined if word in owner]

    instances = json.loads((folder / "annotations" / "instances_val2014.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    truth: dict[int, set[str]] = {id: set() for id in captions}
    for entry in instances["annotations"]:
        if entry["image_id"] in truth:
            truth[entry["image_id"]].add(owner[names[entry["category_id"]]])
    for entry in json.loads((folder / "annotations" / "captions_val2014.json").read_text())[
        "annotations"
    ]:
        if entry["image_id"] in truth:
            truth[entry["image_id"]].update(read(entry["caption"]))
    bad_captions = mentions = bad = recalled = present = 0
    for id, caption in captions.items():
        nodes = read(caption)
        wrong = [node for node in nodes if node not in truth[id]]
        bad_captions += bool(wrong)
        bad += len(wrong)
        mentions += len(nodes)
        recalled += len(set(nodes) & truth[id])
        present += len(truth[id])
    return {
        "chair_s": 100 * bad_captions / len(captions),
        "chair_i": 100 * bad / mentions,
        "recall": 100 * recalled / present,
    }


def amber_generative(
    folder: Path, nouns: Mapping[int, list[str]], similar: Mapping[str, list[str]]
) -> dict[str, float]:
    """AMBER's four numbers, with the released script's flat lists of words; ``nouns``: what it
    extracts from each answer."""
    association = json.loads((folder / "data" / "relation.json").read_text())
    about = {
        row["id"]: row for row in json.loads((folder / "data" / "annotations.json").read_text())
    }
    always = (folder / "data" / "safe_words.txt").read_text().splitlines()
    vocabulary = [*association, *(word for words in association.values() for word in words)]
    sums = dict.fromkeys(("ghost", "nouns", "cover", "truth", "cog", "hallu", "clean"), 0)

    def marks(names: list[str]) -> tuple[list[str], list[int]]:
        words, owners = [], []
        for place, name in enumerate(names):
            words += association[name]
            owners += [place] * len(association[name])
        return [*words, *names], [*owners, *range(len(names))]

    for id, words in nouns.items():
        kept = [noun for noun in words if noun in vocabulary]
        safe, safe_owner = marks(about[id]["truth"])
        ghosts, ghost_owner = marks(about[id]["hallu"])
        safe_hit, ghost_hit = [0] * len(about[id]["truth"]), [0] * len(about[id]["hallu"])
        flags = []
        for noun in kept:
            if noun in always:
                flags.append(0)
                continue
            if noun in safe:
                safe_hit[safe_owner[safe.index(noun)]] = 1
                flags.append(0)
                continue
            if noun in ghosts:
                ghost_hit[ghost_owner[ghosts.index(noun)]] = 1
            for place, word in enumerate(ghosts):
                if word == noun or word in similar.get(noun, []):
                    ghost_hit[ghost_owner[place]] = 1
                    break
            passed = False
            for place, word in enumerate(safe):
                if word == noun or word in similar.get(noun, []):
                    safe_hit[safe_owner[place]] = 1
                    passed = True
                    break
            flags.append(0 if passed else 1)
        sums["ghost"] += sum(flags)
        sums["nouns"] += len(flags)
        sums["cover"] += sum(safe_hit)
        sums["truth"] += len(safe_hit)
        sums["cog"] += sum(ghost_hit)
        sums["hallu"] += len(ghost_hit)
        sums["clean"] += sum(flags) == 0
    return {
        "chair": 100 * sums["ghost"] / sums["nouns"],
        "cover": 100 * sums["cover"] / sums["truth"],
        "hal": 100 - 100 * sums["clean"] / len(nouns),
        "cog": 100 * sums["cog"] / sums["hallu"],
    }


def mme(pairs: Mapping[str, list[list[tuple[str, str]]]]) -> dict[str, float]:
    """MME's score of each subtask from ``{task: [[(truth, answer), (truth, answer)], ...]}``."""
    scores = {}
    for task, images in pairs.items():
        right = plus = 0
        for image in images:
            hits = 0
            for truth, answer in image:
                start = answer.lower()[:4]
                said = "yes" if "yes" in start else "no" if "no" in start else "other"
                hits += said == truth
            right += hits
            plus += hits == 2
        scores[task] = 100 * (right / (2 * len(images)) + plus / len(images))
    return scores


def circular(rotations: Mapping[int, list[tuple[str, str]]]) -> dict[str, float]:
    """MMBench from ``{question: [(right letter, answer), ...]}``, first order first; answers are
    letters, or "?"."""
    whole = [
        all(re.fullmatch(right, answer) for right, answer in some) for some in rotations.values()
    ]
    first = [some[0][0] == some[0][1] for some in rotations.values() if some[0][1] != "?"]
    decided = [
        hit
        for hit, some in zip(whole, rotations.values(), strict=True)
        if all(answer != "?" for _, answer in some)
        or any(answer not in ("?", right) for right, answer in some)
    ]
    rates = {"circular_unread_wrong": whole, "circular": decided, "vanilla": first}
    return {name: 100 * float(np.mean(hits)) for name, hits in rates.items()}
