"""From what lmms-eval made of each answer to counts, of which its totals are ratios where they can
be.

A metric with the kit's own name is the kit's number: the ratio of its counts over all questions
equals the kit's total, which is checked at every grading (:func:`check`). So the statistics can
resample images. Where the kit's total is no ratio of sums, the metric has another name and the
total stands in the report alone:

- MME adds up categories' means of acc and acc+: here accuracy and acc+ over all questions and
images of each half;
- MMStar, and any task whose aggregation is a function not known here: ``<metric>_mean``, the mean
of the questions' scores.

An answer that is missing adds to no count. One that the kit cannot read is unscored (its value is
None, it adds to
``unreadable``), and adds to the kit's own metrics what the kit makes of it, mostly a mistake;
``accuracy`` leaves it out.

Traps of the kit (0.7.3): POPE reads "yes" and "no" alone ("Yes." is a mistake), leaves unreadable
answers out of recall, and its
``pope_yes_ratio`` is that of the *truth* (ours is ``yes_ratio``); AMBER's Cog is marked
higher-is-better and is a rate of hallucination; LLaVA-in-the-wild rounds; a judge that fails counts
as 0 points (MM-Vet), -1 (LLaVA) or a random option (MMBench)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.grading import percent
from benchmarks.interface import Metric, metric_value

Made = Mapping[str, Any]
"""The kit's result on one answer, by metric: what the task's ``process_results`` returned."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What one answer is worth. ``failed``: a judge gave no judgement; nothing can be graded
    then."""

    value: float | None
    counts: Mapping[str, float]
    read_as: str = ""
    why: str = ""
    truth: str = ""
    failed: str = ""


Reader = Callable[[Made], Read]
Together = Callable[[Sequence[Made], list[Read], Mapping[str, Any]], list[Read]]
Totals = Callable[[Mapping[str, float]], Mapping[str, float]]


def alone(_made: Sequence[Made], reads: list[Read], _choices: Mapping[str, Any]) -> list[Read]:
    return reads


def no_totals(_sums: Mapping[str, float]) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How a task's results are counted. ``kit``: the metrics that are the kit's own totals, by its
    name, and what they are multiplied with to be so; ``totals``: the kit's totals that are no
    ratios, from the sums. ``within``: rounding."""

    metrics: tuple[Metric, ...]
    read: Reader
    kit: Mapping[str, float] = field(default_factory=dict)
    together: Together = alone
    totals: Totals = no_totals
    within: float = 1e-6


def counting(task: str, metrics: Sequence[Mapping[str, Any]]) -> Counting:
    """The counting of a task, from its name and the ``metric_list`` of its YAML."""
    for begins, make in KNOWN.items():
        if task == begins or (begins.endswith("*") and task.startswith(begins[:-1])):
            return make()
    return means(metrics)


def means(metrics: Sequence[Mapping[str, Any]]) -> Counting:
    """Any task: the mean of the questions' scores, under the kit's name where its YAML says
    ``aggregation: mean``."""
    found: list[Metric] = []
    kit: dict[str, float] = {}
    fields: dict[str, str] = {}
    for one in metrics:
        name = str(one["metric"])
        if "submission" in name:  # a file for a server that scores
            continue
        plain = name.replace(" ", "_").replace("&", "and")
        mean = one.get("aggregation", "mean") == "mean"
        shown = plain if mean else f"{plain}_mean"
        better = "higher" if one.get("higher_is_better", True) else "lower"
        fields[name] = shown
        found.append(
            Metric(
                name=shown,
                better="higher" if better == "higher" else "lower",
                unit="",
                numerator=f"sum_{shown}",
                denominator=f"n_{shown}",
                scale=1.0,
                primary=not found,
            )
        )
        if mean:
            kit[name] = 1.0

    def read(made: Made) -> Read:
        counts: dict[str, float] = {}
        for name, shown in fields.items():
            if (value := score(made.get(name))) is not None:
                counts |= {f"sum_{shown}": value, f"n_{shown}": 1.0}
        values = [value for name in fields if (value := score(made.get(name))) is not None]
        whole = score(made.get("average")) if "average" in fields else None
        value = whole if whole is not None else values[0] if values else None
        return Read(
            value=value,
            counts=counts,
            why="" if value is not None else "the task gives no score of one answer",
        )

    return Counting(metrics=tuple(found), read=read, kit=kit)


def score(made: Any) -> float | None:
    """A question's own score: a number, or the field ``score`` of what the kit keeps for the
    total."""
    if isinstance(made, Mapping):
        made = made.get("score")
    return float(made) if isinstance(made, bool | int | float) else None


def pope() -> Counting:
    def read(made: Made) -> Read:
        one = made["pope_accuracy"]
        said, truth = str(one["prediction"]), str(one["ground_truth"])
        yes, no, real = float(said == "yes"), float(said == "no"), float(truth == "yes")
        hit, unread = float(said == truth), 1.0 - yes - no
        tp, fp, fn = yes * real, yes * (1 - real), no * real
        counts = {
            "asked": 1.0,
            "correct": hit,
            "tp": tp,
            "claimed": tp + fp,
            "recalled_of": tp + fn,
            "f1_num": 2 * tp,
        }
        counts |= {
            "f1_den": 2 * tp + fp + fn,
            "true_yes": real,
            "read": yes + no,
            "said_yes": yes,
            "unread": unread,
        }
        why = (
            "lmms-eval reads the words yes and no alone, and calls this a mistake" if unread else ""
        )
        return Read(
            value=None if unread else hit, counts=counts, read_as=said[:80], why=why, truth=truth
        )

    def kits(name: str, numerator: str, denominator: str) -> Metric:
        better = "none" if name == "pope_yes_ratio" else "higher"
        return percent(name, numerator, denominator, "none" if better == "none" else "higher")

    return Counting(
        metrics=(
            percent("accuracy", "correct", "read", primary=True),
            kits("pope_accuracy", "correct", "asked"),
            kits("pope_precision", "tp", "claimed"),
            kits("pope_recall", "tp", "recalled_of"),
            kits("pope_f1_score", "f1_num", "f1_den"),
            kits("pope_yes_ratio", "true_yes", "asked"),
            percent("yes_ratio", "said_yes", "read", "none"),
            percent("unreadable", "unread", "asked", "none"),
        ),
        read=read,
        kit={
            f"pope_{name}": 0.01
            for name in ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
        },
    )


HALVES = ("perception", "cognition")


def mme() -> Counting:
    """acc+ is of an image whose two questions are both right; it is counted on the image's first
    question."""

    def part(made: Made) -> tuple[str, Mapping[str, Any]]:
        return next(
            (half, made[f"mme_{half}_score"]) for half in HALVES if f"mme_{half}_score" in made
        )

    def read(made: Made) -> Read:
        half, one = part(made)
        hit = float(one["score"])
        return Read(
            value=hit,
            counts={f"asked_{half}": 1.0, f"correct_{half}": hit},
            read_as="right" if hit else "wrong",
        )

    def pairs(made: Sequence[Made], reads: list[Read], _choices: Mapping[str, Any]) -> list[Read]:
        found: dict[tuple[str, str], list[int]] = {}
        for place, one in enumerate(made):
            _, item = part(one)
            found.setdefault((str(item["category"]), str(item["question_id"])), []).append(place)
        whole = list(reads)
        for (category, _), places in found.items():
            half, _ = part(made[places[0]])
            if len(places) != 2 or any(not reads[place].counts for place in places):
                continue
            hits = [reads[place].counts[f"correct_{half}"] for place in places]
            both = float(all(hits))
            more = {f"pictures_{half}": 1.0, f"both_{half}": both}
            more |= {
                f"points:{half}:{category}": 50.0 * sum(hits) + 100.0 * both,
                f"of:{half}:{category}": 1.0,
            }
            first = places[0]
            whole[first] = replace(whole[first], counts={**whole[first].counts, **more})
        return whole

    def totals(sums: Mapping[str, float]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for name, points in sums.items():
            if name.startswith("points:"):
                half = name.split(":")[1]
                found[f"mme_{half}_score"] = (
                    found.get(f"mme_{half}_score", 0.0) + points / sums[f"of{name[6:]}"]
                )
        return found

    shown = [
        percent(
            f"{half}_accuracy", f"correct_{half}", f"asked_{half}", primary=half == "perception"
        )
        for half in HALVES
    ]
    shown += [
        percent(f"{half}_accuracy_plus", f"both_{half}", f"pictures_{half}") for half in HALVES
    ]
    return Counting(metrics=tuple(shown), read=read, together=pairs, totals=totals)


CIRCLE = 1_000_000
"""MMBench numbers the rotations of question i as i + 10^6, i + 2 * 10^6, ..."""


def mmbench() -> Counting:
    """Each row as the kit reads it, and circular evaluation: a group counts as right when all its
    rotations are. The kit looks at a group until its first mistake, so the judge is not asked about
    every row."""

    def read(made: Made) -> Read:
        return Read(value=None, counts={"asked": 1.0}, truth=str(made["gpt_eval_score"]["answer"]))

    def groups(made: Sequence[Made], reads: list[Read], choices: Mapping[str, Any]) -> list[Read]:
        index = [int(one["gpt_eval_score"]["index"]) for one in made]
        absent = {one % CIRCLE for one, read in zip(index, reads, strict=True) if not read.counts}
        whole = []
        for one, read in zip(index, reads, strict=True):
            option, judged = choices["read"].get(str(one), ""), choices["judged"].get(str(one))
            if judged and "Failed to predict" in str(judged[1]):
                read = replace(read, failed=f"row {one}: the kit took a random option")
            option = option or (str(judged[0]) if judged else "")
            counts = dict(read.counts)
            if counts:
                value = float(option == read.truth) if option else None
                counts |= {
                    "read": float(bool(option)),
                    "right": value or 0.0,
                    "unread": float(not option),
                }
                if one < CIRCLE and one not in absent and str(one) in choices["groups"]:
                    counts |= {"groups": 1.0, "hits": float(choices["groups"][str(one)])}
                why = "" if option else "it names no option, and the kit asked no judge about it"
                read = replace(read, value=value, counts=counts, read_as=option, why=why)
            whole.append(read)
        return whole

    return Counting(
        metrics=(
            percent("gpt_eval_score", "hits", "groups", primary=True),
            percent("accuracy", "right", "read"),
            percent("unreadable", "unread", "asked", "none"),
        ),
        read=read,
        kit={"gpt_eval_score": 1.0},
        together=groups,
    )


def seed() -> Counting:
    def read(made: Made) -> Read:
        counts: dict[str, float] = {}
        said, truth = (
            str(made["seed_all"]["pred"]).strip().lower(),
            str(made["seed_all"]["answer"]).strip().lower(),
        )
        known = said in tuple("abcd")
        for name in made:
            counts |= {f"asked_{name}": 1.0, f"correct_{name}": float(said == truth)}
        counts |= {
            "read": float(known),
            "right": float(known and said == truth),
            "unread": float(not known),
        }
        why = "" if known else "its first letter is no option, which the kit calls a mistake"
        return Read(
            value=float(said == truth) if known else None,
            counts=counts,
            read_as=said,
            why=why,
            truth=truth,
        )

    names = ("seed_all", "seed_image", "seed_video")
    return Counting(
        metrics=(
            *(
                percent(name, f"correct_{name}", f"asked_{name}", primary=name == "seed_all")
                for name in names
            ),
            percent("accuracy", "right", "read"),
            percent("unreadable", "unread", "asked_seed_all", "none"),
        ),
        read=read,
        kit=dict.fromkeys(names, 0.01),
    )


def mmvet() -> Counting:
    def read(made: Made) -> Read:
        one = made["gpt_eval_score"]
        points = float(one["score"])
        failed = (
            ""
            if one["eval_model"]
            else f"question {one['question_id']}: the judge said nothing, and the kit gave 0 points"
        )
        skills = str(one["capabilities"]).split(",")
        counts = {"points": points, "asked": 1.0}
        for skill in skills:
            counts |= {f"points_{skill}": points, f"asked_{skill}": 1.0}
        return Read(
            value=points,
            counts=counts,
            read_as=f"{points:g}",
            truth=str(one["gt_answer"]),
            failed=failed,
        )

    skills = [
        percent(skill, f"points_{skill}", f"asked_{skill}")
        for skill in ("rec", "ocr", "know", "gen", "spat", "math")
    ]
    return Counting(
        metrics=(percent("gpt_eval_score", "points", "asked", primary=True), *skills),
        read=read,
        kit={"gpt_eval_score": 1.0},
    )


def llava_wild() -> Counting:
    """The judge's points for our answer over those for the reference's, as a ratio of sums."""
    kinds = ("all", "conv", "detail", "complex")

    def read(made: Made) -> Read:
        review = made["gpt_eval_llava_all"]
        theirs, ours = (float(points) for points in review["scores"])
        failed = unread = ""
        if theirs < 0 or ours < 0:
            said = str(review["review"])
            gone = said.startswith("error:") or said == "Failed to Get a Proper Review."
            failed = said[:120] if gone else ""
            unread = (
                f"the judge's reply has no two scores, which the kit counts as -1: {said[:80]!r}"
            )
        counts: dict[str, float] = {}
        for kind in kinds:
            if -999 not in (scores := made[f"gpt_eval_llava_{kind}"]["scores"]):
                counts |= {f"ours_{kind}": float(scores[1]), f"theirs_{kind}": float(scores[0])}
        return Read(
            value=None if unread else ours / 10,
            counts=counts,
            read_as=f"{ours:g}:{theirs:g}",
            why=unread,
            failed=failed,
        )

    return Counting(
        metrics=tuple(
            percent(
                f"gpt_eval_llava_{kind}", f"ours_{kind}", f"theirs_{kind}", primary=kind == "all"
            )
            for kind in kinds
        ),
        read=read,
        kit={f"gpt_eval_llava_{kind}": 1.0 for kind in kinds},
        within=0.11,  # it rounds to three places, divides, and rounds to one
    )


def amber() -> Counting:
    """The kit starts each count at AMBER's own initial values (0.001 in its denominators), once an
    answer."""

    def read(made: Made) -> Read:
        one = {name: float(value) for name, value in made["amber_chair"].items()}
        sound = one["non_hallu_score"] > 0.5
        names = (
            "chair_score",
            "chair_num",
            "safe_cover_score",
            "safe_cover_num",
            "hallu_cover_score",
            "hallu_cover_num",
        )
        counts = {name: one[name] for name in names}
        counts |= {
            "hallucinating": one["non_hallu_num"] - one["non_hallu_score"],
            "captions": one["non_hallu_num"],
        }
        return Read(
            value=float(sound),
            counts=counts,
            read_as="no hallucination" if sound else "hallucination",
        )

    return Counting(
        metrics=(
            percent("amber_chair", "chair_score", "chair_num", "lower", primary=True),
            percent("amber_cover", "safe_cover_score", "safe_cover_num"),
            percent("amber_hal", "hallucinating", "captions", "lower"),
            percent("amber_cog", "hallu_cover_score", "hallu_cover_num", "lower"),
        ),
        read=read,
        kit=dict.fromkeys(("amber_chair", "amber_cover", "amber_hal", "amber_cog"), 1.0),
    )


def chair() -> Counting:
    def read(made: Made) -> Read:
        one = made["coco_cap_chair_i"]
        told, there = [str(name) for name in one["pred"]], {str(name) for name in one["answer"]}
        absent = [name for name in told if name not in there]
        counts = {"mentions": float(len(told)), "hallucinated": float(len(absent)), "captions": 1.0}
        counts |= {
            "bad": float(bool(absent)),
            "found": float(len(there & set(told))),
            "there": float(len(there)),
        }
        why = f"not there: {', '.join(sorted(set(absent)))}" if absent else ""
        return Read(
            value=float(not absent),
            counts=counts,
            read_as=" ".join(told),
            why=why,
            truth=" ".join(sorted(there)),
        )

    return Counting(
        metrics=(
            percent("coco_cap_chair_i", "hallucinated", "mentions", "lower", primary=True),
            percent("coco_cap_chair_s", "bad", "captions", "lower"),
            percent("coco_cap_recall", "found", "there"),
        ),
        read=read,
        kit=dict.fromkeys(("coco_cap_chair_i", "coco_cap_chair_s", "coco_cap_recall"), 1.0),
    )


KNOWN: Mapping[str, Callable[[], Counting]] = {
    "pope": pope,
    "pope_*": pope,
    "mme": mme,
    "mmbench_en_dev": mmbench,
    "mmbench_en_dev_static": mmbench,
    "seedbench": seed,
    "mmvet": mmvet,
    "llava_in_the_wild": llava_wild,
    "amber_g": amber,
    "coco_cap_chair": chair,
}


def check(
    counting: Counting, counts: Sequence[Mapping[str, float]], totals: Mapping[str, float]
) -> None:
    """That the counts over *all* rows give the kit's totals.

    Raises:
        ValueError: a total is another (the kit's grading has changed, or there is a fault here).
    """
    sums: dict[str, float] = {}
    for one in counts:
        for name, amount in one.items():
            sums[name] = sums.get(name, 0.0) + amount
    shown = {metric.name: metric for metric in counting.metrics}
    ours = {name: metric_value(shown[plain(name)], sums) for name in counting.kit}
    ours = {
        name: None if value is None else value * counting.kit[name] for name, value in ours.items()
    }
    ours |= counting.totals(sums)
    for name, total in totals.items():
        value = ours.get(name)
        if value is not None and abs(value - total) > counting.within * max(1.0, abs(total)):
            raise ValueError(
                f"lmms-eval's {name} is {total:.6g} and its rows add up to {value:.6g}: this"
                " version of the kit counts in another way than via_lmms_eval_counts.py; nothing"
                " was graded, the answers are kept."
            )


def plain(name: str) -> str:
    """A metric's name as a column's: MMStar's have blanks."""
    return name.replace(" ", "_").replace("&", "and")
