"""MME (Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models",
arXiv 2306.13394, section 2): two yes/no questions an image, ten subtasks of perception and four of
cognition.

A subtask's score is accuracy + accuracy+ (both questions of an image right), in percent, so at
most 200; a total is the sum of its subtasks' scores. With C questions, and both questions of B
images, right among N questions, a subtask's score is 100 (C + 2 B) / N, a ratio of sums. A total
is a sum of ratios; it is stored as *one* ratio in which each answer weighs 1/N of its subtask:
equal to the total where every question is answered, and on a resample of images the subtasks
weigh as they do in the data. Scores read answers as the released script does (the first four
characters; anything else is wrong). Accuracy and accuracy+ over all questions are read at word
level, where an unreadable answer is unscored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import files, grading, yes_no
from benchmarks.grading import Graded, Item, percent
from benchmarks.interface import Grade, Metric
from benchmarks.yes_no import YesNo

MME_VERSION = "1"
SUBTASKS: Mapping[str, tuple[str, ...]] = {
    "perception": tuple(
        "existence count position color posters celebrity scene landmark artwork OCR".split()
    ),
    "cognition": tuple(
        "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
    ),
}
PART = {task: part for part, tasks in SUBTASKS.items() for task in tasks}
DATA = files.LocalData(
    name="mme",
    files=tuple(PART),
    get=(
        "MME_Benchmark_release_version, from"
        " github.com/BradyFU/Awesome-Multimodal-Large-Language-Models"
    ),
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The truth of one question."""

    task: str
    answer: YesNo


def load(split: str, limit: int | None, data: Path | None) -> Graded[Asked]:
    """The official folder: one of each subtask's name, a text file an image with two lines
    ``question<TAB>Yes or No`` beside the images or in ``questions_answers_YN`` beside ``images``.

    Raises:
        ValueError: a file or image is missing or broken, or another split than test is asked for.
    """
    folder = DATA.folder("mme", data)
    grading.only_test_split("mme", split)
    items = grading.few_pictures(
        [item for task in PART for item in _subtask(task, folder / task)], limit
    )
    some, source = grading.fixed(items, "mme")
    sizes = Counter(item.truth.task for item in items)
    apart = (_points(f"score_{task}", task) for task in PART if task in sizes)
    return Graded(
        name="mme",
        group="general",
        source=source,
        grader=f"mme-{MME_VERSION}",
        items=some,
        metrics=(
            _points("perception", "perception", primary=True),
            _points("cognition", "cognition", primary=True),
            percent("accuracy", "correct", "read"),
            percent("accuracy_plus", "both", "pairs"),
            percent("yes_ratio", "yes", "read", "none"),
            percent("unreadable", "unreadable", "answered", "none"),
            *apart,
        ),
        judge=partial(_judge, sizes),
        max_new_tokens=32,
        together=partial(_pairs, sizes),
        choices=("yes", "no"),
    )


def read_start(answer: str) -> YesNo | None:
    """As MME's released script: yes, then no, anywhere in the first four characters."""
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _subtask(task: str, folder: Path) -> Iterator[Item[Asked]]:
    split = (folder / "questions_answers_YN").is_dir()
    texts = sorted((folder / "questions_answers_YN" if split else folder).glob("*.txt"))
    if not texts:
        raise ValueError(f"{folder} holds no question; {files.AGAIN}.")
    for path in texts:
        picture = _picture(path, folder / "images" if split else folder)
        lines = list(files.read_lines(path))
        if len(lines) != 2:
            raise ValueError(
                f"{path} holds {len(lines)} questions; it must be two lines; {files.AGAIN}."
            )
        for number, (place, line) in enumerate(lines, start=1):
            question, tab, answer = files.clean(place, line, "the line").rpartition("\t")
            if not tab or not question.strip():
                raise ValueError(
                    f"{place}: must be a question, a tab, and Yes or No; {files.AGAIN}."
                )
            truth: YesNo = (
                "yes" if files.one_of(place, answer, ("yes", "no"), "the answer") == "yes" else "no"
            )
            yield Item(
                id=f"{task}/{path.stem}/{number}",
                cluster=f"{task}/{path.stem}",
                text=question.strip(),
                truth=Asked(task=task, answer=truth),
                picture=partial(files.open_picture, picture),
            )


def _picture(path: Path, folder: Path) -> Path:
    for suffix in (".jpg", ".png", ".jpeg"):
        if (picture := folder / f"{path.stem}{suffix}").is_file():
            return picture
    raise ValueError(
        f"mme: the image of {path} is missing ({path.stem}.jpg or .png in {folder}); {files.AGAIN}."
    )


def _points(name: str, of: str, *, primary: bool = False) -> Metric:
    return Metric(
        name=name,
        better="higher",
        unit="points",
        numerator=f"points_{of}",
        denominator=f"share_{of}",
        primary=primary,
    )


def _scored(sizes: Mapping[str, int], task: str, points: float, share: float) -> dict[str, float]:
    """``points`` of ``share`` questions' worth, in the subtask and, by the subtask's weight, in its
    total."""
    part = PART[task]
    tasks = sum(other in sizes for other in SUBTASKS[part])
    found = {f"points_{task}": points, f"share_{task}": share}
    return found | {
        f"points_{part}": points / sizes[task],
        f"share_{part}": share / sizes[task] / tasks,
    }


def _judge(sizes: Mapping[str, int], item: Item[Asked], answer: str) -> Grade:
    truth = item.truth.answer
    # The score is of two halves: N questions share N/2, N/2 images the other N/2.
    official = _scored(sizes, item.truth.task, float(read_start(answer) == truth), 0.5)
    said = yes_no.read_words(answer)
    if said is None:
        return grading.unscored(
            item, yes_no.why_unread(answer), {"answered": 1.0, "unreadable": 1.0, **official}, truth
        )
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=float(said == truth),
        read_as=said,
        why="" if said == truth else f"the answer is {truth}",
        truth=truth,
        counts={
            "answered": 1.0,
            "unreadable": 0.0,
            **official,
            "read": 1.0,
            "correct": float(said == truth),
        }
        | {"yes": float(said == "yes")},
    )


def _pairs(
    sizes: Mapping[str, int], items: Sequence[Item[Asked]], grades: list[Grade]
) -> list[Grade]:
    """What an image's two questions are worth together is counted on the second."""
    pictures: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        pictures[item.cluster].append(place)
    found = list(grades)
    for places in pictures.values():
        task, pair = items[places[-1]].truth.task, [grades[place] for place in places]
        more: dict[str, float] = {}
        if all("answered" in grade.counts for grade in pair):
            more = _scored(
                sizes, task, 2.0 * all(grade.counts[f"points_{task}"] for grade in pair), 1.0
            )
        if all(grade.value is not None for grade in pair):
            more |= {"pairs": 1.0, "both": float(all(grade.value for grade in pair))}
        last = grades[places[-1]]
        counts = {
            name: last.counts.get(name, 0.0) + more.get(name, 0.0)
            for name in {**last.counts, **more}
        }
        found[places[-1]] = replace(last, counts=counts)
    return found
