"""The tasks of lmms-eval (0.7.3) whose totals have countings of their own.

Traps of the kit that are counted as they are: POPE reads the bare words "yes" and "no" ("Yes." is
wrong), leaves unreadable answers out of recall, and its ``pope_yes_ratio`` is that of the truth
(ours is ``yes_ratio``). AMBER's Cog is marked higher-is-better and is a rate of hallucination.
LLaVA-in-the-wild rounds. A failed judge counts as 0 points (MM-Vet), -1 (LLaVA) or a random option
(MMBench)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.grading import percent
from benchmarks.via_lmms_eval_counts import Choices, Counting, Reading, Readings, Result, means


def _read_pope(result: Result) -> Reading:
    kit_result = result["pope_accuracy"]
    reading, truth = str(kit_result["prediction"]), str(kit_result["ground_truth"])
    yes, no, is_yes = float(reading == "yes"), float(reading == "no"), float(truth == "yes")
    correct, unread = float(reading == truth), 1.0 - yes - no
    tp, fp, fn = yes * is_yes, yes * (1 - is_yes), no * is_yes
    counts = {
        "asked": 1.0,
        "correct": correct,
        "tp": tp,
        "claimed": tp + fp,
        "recalled_of": tp + fn,
        "f1_num": 2 * tp,
        "f1_den": 2 * tp + fp + fn,
        "true_yes": is_yes,
        "read": yes + no,
        "said_yes": yes,
        "unread": unread,
    }
    why = "lmms-eval reads the words yes and no alone, and calls this a mistake" if unread else ""
    value = None if unread else correct
    return Reading(value=value, counts=counts, read_as=reading[:80], why=why, truth=truth)


POPE = Counting(
    metrics=(
        percent("accuracy", "correct", "read", primary=True),
        percent("pope_accuracy", "correct", "asked"),
        percent("pope_precision", "tp", "claimed"),
        percent("pope_recall", "tp", "recalled_of"),
        percent("pope_f1_score", "f1_num", "f1_den"),
        percent("pope_yes_ratio", "true_yes", "asked", "none"),
        percent("yes_ratio", "said_yes", "read", "none"),
        percent("unreadable", "unread", "asked", "none"),
    ),
    read=_read_pope,
    scale=0.01,
)


HALVES = ("perception", "cognition")


def _half_of(result: Result) -> tuple[str, Mapping[str, Any]]:
    """The half of MME that a question belongs to, and the kit's result."""
    half = next(half for half in HALVES if f"mme_{half}_score" in result)
    return half, result[f"mme_{half}_score"]


def _read_mme(result: Result) -> Reading:
    half, kit_result = _half_of(result)
    correct = float(kit_result["score"])
    counts = {f"asked_{half}": 1.0, f"correct_{half}": correct}
    return Reading(value=correct, counts=counts, read_as="right" if correct else "wrong")


def _pair_mme(results: Sequence[Result], readings: Readings, _choices: Choices) -> Readings:
    """acc+ counts images with both questions right; it is counted on the first question."""
    images: dict[tuple[str, str, str], list[int]] = {}
    for index, result in enumerate(results):
        half, kit_result = _half_of(result)
        image = half, str(kit_result["category"]), str(kit_result["question_id"])
        images.setdefault(image, []).append(index)
    paired = list(readings)
    for (half, category, _), indices in images.items():
        if len(indices) != 2 or any(not readings[index].counts for index in indices):
            continue
        first_index = indices[0]
        correct = [readings[index].counts[f"correct_{half}"] for index in indices]
        both = float(all(correct))
        extra_counts = {
            f"pictures_{half}": 1.0,
            f"both_{half}": both,
            f"points:{half}:{category}": 50.0 * sum(correct) + 100.0 * both,
            f"of:{half}:{category}": 1.0,
        }
        paired[first_index] = replace(
            paired[first_index], counts={**paired[first_index].counts, **extra_counts}
        )
    return paired


def _total_mme(sums: Mapping[str, float]) -> Mapping[str, float]:
    scores: dict[str, float] = {}
    for name, points in sums.items():
        if name.startswith("points:"):
            metric = f"mme_{name.split(':')[1]}_score"
            mean = points / sums[name.replace("points:", "of:", 1)]
            scores[metric] = scores.get(metric, 0.0) + mean
    return scores


MME = Counting(
    metrics=(
        percent("perception_accuracy", "correct_perception", "asked_perception", primary=True),
        percent("cognition_accuracy", "correct_cognition", "asked_cognition"),
        percent("perception_accuracy_plus", "both_perception", "pictures_perception"),
        percent("cognition_accuracy_plus", "both_cognition", "pictures_cognition"),
    ),
    read=_read_mme,
    add_group_counts=_pair_mme,
    totals=_total_mme,
)


ROTATION_OFFSET = 1_000_000
"""MMBench numbers the rotations of question i as i + 10^6, i + 2 * 10^6, ..."""


def _read_mmbench(result: Result) -> Reading:
    truth = str(result["gpt_eval_score"]["answer"])
    return Reading(value=None, counts={"asked": 1.0}, truth=truth)


def _count_rotations(results: Sequence[Result], readings: Readings, choices: Choices) -> Readings:
    """Each row as the kit reads it, and circular evaluation: a group is right if all its rotations
    are. The kit stops at a group's first mistake, so it does not ask the judge about every row."""
    rows = [int(result["gpt_eval_score"]["index"]) for result in results]
    missing = {
        row % ROTATION_OFFSET
        for row, reading in zip(rows, readings, strict=True)
        if not reading.counts
    }
    counted = []
    for row, reading in zip(rows, readings, strict=True):
        option, judged = choices["read"].get(str(row), ""), choices["judged"].get(str(row))
        if judged and "Failed to predict" in str(judged[1]):
            reading = replace(reading, judge_failure=f"row {row}: the kit took a random option")
        option = option or (str(judged[0]) if judged else "")
        if reading.counts:
            value = float(option == reading.truth) if option else None
            counts = {
                **reading.counts,
                "read": float(bool(option)),
                "right": value or 0.0,
                "unread": float(not option),
            }
            if row < ROTATION_OFFSET and row not in missing and str(row) in choices["groups"]:
                counts |= {"groups": 1.0, "hits": float(choices["groups"][str(row)])}
            why = "" if option else "it names no option, and the kit asked no judge about it"
            reading = replace(reading, value=value, counts=counts, read_as=option, why=why)
        counted.append(reading)
    return counted


MMBENCH = Counting(
    metrics=(
        percent("gpt_eval_score", "hits", "groups", primary=True),
        percent("accuracy", "right", "read"),
        percent("unreadable", "unread", "asked", "none"),
    ),
    read=_read_mmbench,
    add_group_counts=_count_rotations,
)


def _read_seed(result: Result) -> Reading:
    kit_result = result["seed_all"]
    letter, truth = (str(kit_result[name]).strip().lower() for name in ("pred", "answer"))
    is_option, correct = letter in tuple("abcd"), letter == truth
    counts: dict[str, float] = {}
    for name in result:
        counts |= {f"asked_{name}": 1.0, f"correct_{name}": float(correct)}
    counts |= {
        "read": float(is_option),
        "right": float(is_option and correct),
        "unread": float(not is_option),
    }
    why = "" if is_option else "its first letter is no option, which the kit calls a mistake"
    value = float(correct) if is_option else None
    return Reading(value=value, counts=counts, read_as=letter, why=why, truth=truth)


SEED = Counting(
    metrics=(
        percent("seed_all", "correct_seed_all", "asked_seed_all", primary=True),
        percent("seed_image", "correct_seed_image", "asked_seed_image"),
        percent("seed_video", "correct_seed_video", "asked_seed_video"),
        percent("accuracy", "right", "read"),
        percent("unreadable", "unread", "asked_seed_all", "none"),
    ),
    read=_read_seed,
    scale=0.01,
)


def _read_mmvet(result: Result) -> Reading:
    kit_result = result["gpt_eval_score"]
    points = float(kit_result["score"])
    counts = {"points": points, "asked": 1.0}
    for skill in str(kit_result["capabilities"]).split(","):
        counts |= {f"points_{skill}": points, f"asked_{skill}": 1.0}
    why = f"question {kit_result['question_id']}: the judge said nothing, and the kit gave 0 points"
    return Reading(
        value=points,
        counts=counts,
        read_as=f"{points:g}",
        truth=str(kit_result["gt_answer"]),
        judge_failure="" if kit_result["eval_model"] else why,
    )


MMVET = Counting(
    metrics=(
        percent("gpt_eval_score", "points", "asked", primary=True),
        *(
            percent(skill, f"points_{skill}", f"asked_{skill}")
            for skill in ("rec", "ocr", "know", "gen", "spat", "math")
        ),
    ),
    read=_read_mmvet,
)


LLAVA_KINDS = ("all", "conv", "detail", "complex")


def _read_llava(result: Result) -> Reading:
    """The judge's points for our answer over its points for the reference, as a ratio of sums."""
    review = result["gpt_eval_llava_all"]
    theirs, ours = (float(points) for points in review["scores"])
    failed = unread = ""
    if theirs < 0 or ours < 0:
        text = str(review["review"])
        if text.startswith("error:") or text == "Failed to Get a Proper Review.":
            failed = text[:120]
        unread = f"the judge's reply has no two scores, which the kit counts as -1: {text[:80]!r}"
    counts: dict[str, float] = {}
    for kind in LLAVA_KINDS:
        if -999 not in (scores := result[f"gpt_eval_llava_{kind}"]["scores"]):
            counts |= {f"ours_{kind}": float(scores[1]), f"theirs_{kind}": float(scores[0])}
    return Reading(
        value=None if unread else ours / 10,
        counts=counts,
        read_as=f"{ours:g}:{theirs:g}",
        why=unread,
        judge_failure=failed,
    )


LLAVA_WILD = Counting(
    metrics=tuple(
        percent(f"gpt_eval_llava_{kind}", f"ours_{kind}", f"theirs_{kind}", primary=kind == "all")
        for kind in LLAVA_KINDS
    ),
    read=_read_llava,
    tolerance=0.11,  # it rounds to three places, divides, and rounds to one
)


AMBER_COUNTS = (
    "chair_score chair_num safe_cover_score safe_cover_num hallu_cover_score hallu_cover_num"
).split()


def _read_amber(result: Result) -> Reading:
    """For each answer, the kit starts the counts at AMBER's own initial values (0.001 in its
    denominators)."""
    kit_result = {name: float(value) for name, value in result["amber_chair"].items()}
    faithful = kit_result["non_hallu_score"] > 0.5
    counts = {name: kit_result[name] for name in AMBER_COUNTS}
    counts["hallucinating"] = kit_result["non_hallu_num"] - kit_result["non_hallu_score"]
    counts["captions"] = kit_result["non_hallu_num"]
    read_as = "no hallucination" if faithful else "hallucination"
    return Reading(value=float(faithful), counts=counts, read_as=read_as)


AMBER = Counting(
    metrics=(
        percent("amber_chair", "chair_score", "chair_num", "lower", primary=True),
        percent("amber_cover", "safe_cover_score", "safe_cover_num"),
        percent("amber_hal", "hallucinating", "captions", "lower"),
        percent("amber_cog", "hallu_cover_score", "hallu_cover_num", "lower"),
    ),
    read=_read_amber,
)


def _read_chair(result: Result) -> Reading:
    kit_result = result["coco_cap_chair_i"]
    mentions = [str(name) for name in kit_result["pred"]]
    present = {str(name) for name in kit_result["answer"]}
    invented = [name for name in mentions if name not in present]
    counts = {
        "mentions": float(len(mentions)),
        "hallucinated": float(len(invented)),
        "captions": 1.0,
        "bad": float(bool(invented)),
        "found": float(len(present & set(mentions))),
        "there": float(len(present)),
    }
    return Reading(
        value=float(not invented),
        counts=counts,
        read_as=" ".join(mentions),
        why=f"not there: {', '.join(sorted(set(invented)))}" if invented else "",
        truth=" ".join(sorted(present)),
    )


CHAIR = Counting(
    metrics=(
        percent("coco_cap_chair_i", "hallucinated", "mentions", "lower", primary=True),
        percent("coco_cap_chair_s", "bad", "captions", "lower"),
        percent("coco_cap_recall", "found", "there"),
    ),
    read=_read_chair,
)


COUNTINGS: Mapping[str, Counting] = {
    "pope": POPE,
    "mme": MME,
    "mmbench_en_dev": MMBENCH,
    "mmbench_en_dev_static": MMBENCH,
    "seedbench": SEED,
    "mmvet": MMVET,
    "llava_in_the_wild": LLAVA_WILD,
    "amber_g": AMBER,
    "coco_cap_chair": CHAIR,
}


def counting(task: str, metrics: Sequence[Mapping[str, Any]]) -> Counting:
    """The counting of a task, by its name (``pope_full`` counts as ``pope``), or from the
    ``metric_list`` of its YAML."""
    return COUNTINGS.get("pope" if task.startswith("pope_") else task) or means(metrics)
