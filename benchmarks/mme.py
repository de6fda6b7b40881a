"""MME (Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models",
arXiv 2306.13394, section 2): two yes/no questions an image, ten subtasks of perception and four of
cognition.

A subtask's score is accuracy + accuracy+ (both questions of an image right), in percent, so at most
200. A total is the sum of its subtasks' scores.

As a ratio of sums: with N questions, C of them right, and B images with both questions right, a
subtask's score is 100 (C + 2B) / N. A total is a sum of such ratios. It is stored as one ratio, in
which each answer weighs 1/N of its subtask. This equals the total where every question is answered;
on a resample of images the subtasks weigh as in the data.

Scores read answers as the released script does: the first four characters; anything else is wrong.
Accuracy and accuracy+ over all questions are read at word level, and an unreadable answer is
unscored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import files, grading, yes_no
from benchmarks.grading import Item, ItemBenchmark, percent, ratio
from benchmarks.interface import Grade, Metric
from benchmarks.spec import Spec
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
TOTAL_OF_TASK = {task: total for total, tasks in SUBTASKS.items() for task in tasks}
DATA = files.LocalData(
    name="mme",
    files=tuple(TOTAL_OF_TASK),
    get=(
        "MME_Benchmark_release_version, from"
        " github.com/BradyFU/Awesome-Multimodal-Large-Language-Models"
    ),
)


@dataclass(frozen=True, kw_only=True)
class TaskTruth:
    """The truth of one question, and its subtask."""

    task: str
    answer: YesNo


def load(split: str, limit: int | None, data: Path | None) -> ItemBenchmark[TaskTruth]:
    """The official folder: a folder a subtask; a text file an image with two lines
    ``question<TAB>Yes or No``, beside the images or in ``questions_answers_YN`` beside ``images``.

    Raises:
        ValueError: a file or image is missing or broken, or the split is not test.
    """
    folder = DATA.folder("mme", data)
    grading.only_test_split("mme", split)
    all_items = [item for task in TOTAL_OF_TASK for item in _read_subtask(task, folder / task)]
    kept_items, source = grading.items_and_source(all_items, limit, "mme")
    sizes = Counter(item.truth.task for item in kept_items())
    return ItemBenchmark(
        name="mme",
        group="general",
        source=source,
        grader=f"mme-{MME_VERSION}",
        items=kept_items,
        metrics=(
            _points("perception", "perception", primary=True),
            _points("cognition", "cognition", primary=True),
            percent("accuracy", "correct", "read"),
            percent("accuracy_plus", "both", "pairs"),
            percent("yes_ratio", "yes", "read", "none"),
            yes_no.UNREADABLE,
            *(_points(f"score_{task}", task) for task in TOTAL_OF_TASK if task in sizes),
        ),
        grade_one=partial(_grade, sizes),
        max_new_tokens=32,
        group_of=lambda item: item.cluster,
        group_counts=partial(_count_pair, sizes),
    )


def read_start(answer: str) -> YesNo | None:
    """As MME's released script: yes, else no, anywhere in the first four characters."""
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _read_subtask(task: str, folder: Path) -> Iterator[Item[TaskTruth]]:
    has_folders = (folder / "questions_answers_YN").is_dir()
    texts = sorted((folder / "questions_answers_YN" if has_folders else folder).glob("*.txt"))
    if not texts:
        raise files.broken(f"{folder} holds no question")
    for path in texts:
        image = _find_image(path, folder / "images" if has_folders else folder)
        lines = list(files.read_lines(path))
        if len(lines) != 2:
            raise files.broken(f"{path} holds {len(lines)} questions; it must be two lines")
        for number, (location, line) in enumerate(lines, start=1):
            question, tab, answer = files.check_text(location, line, "the line").rpartition("\t")
            if not tab or not question.strip():
                raise files.broken(f"{location}: must be a question, a tab, and Yes or No")
            yield Item(
                id=f"{task}/{path.stem}/{number}",
                cluster=f"{task}/{path.stem}",
                text=question.strip(),
                truth=TaskTruth(
                    task=task, answer=yes_no.read_label(location, answer, "the answer")
                ),
                load_image=partial(files.open_image, image),
            )


def _find_image(path: Path, folder: Path) -> Path:
    for suffix in (".jpg", ".png", ".jpeg"):
        if (image := folder / f"{path.stem}{suffix}").is_file():
            return image
    raise files.broken(f"mme: the image of {path} is missing ({path.stem}.jpg or .png in {folder})")


def _points(name: str, counted: str, *, primary: bool = False) -> Metric:
    return ratio(
        name, f"points_{counted}", f"share_{counted}", unit="points", scale=100.0, primary=primary
    )


def _score_counts(
    sizes: Mapping[str, int], task: str, points: float, share: float
) -> dict[str, float]:
    """The counts of ``points`` for ``share`` of a question: in the subtask, and in its total by
    the subtask's weight."""
    total = TOTAL_OF_TASK[task]
    tasks = sum(other in sizes for other in SUBTASKS[total])
    return {
        f"points_{task}": points,
        f"share_{task}": share,
        f"points_{total}": points / sizes[task],
        f"share_{total}": share / sizes[task] / tasks,
    }


def _grade(sizes: Mapping[str, int], item: Item[TaskTruth], answer: str) -> Grade:
    truth = item.truth.answer
    reading = yes_no.read_words(answer)
    return yes_no.grade(
        item,
        answer,
        truth,
        read={"read": 1.0, "correct": float(reading == truth), "yes": float(reading == "yes")},
        # Accuracy and accuracy+ are half of a score each: N questions share one half, N/2 images
        # the other.
        always=_score_counts(sizes, item.truth.task, float(read_start(answer) == truth), 0.5),
        why_wrong=f"the answer is {truth}",
    )


def _count_pair(
    sizes: Mapping[str, int], last_item: Item[TaskTruth], grades: Sequence[Grade]
) -> dict[str, float]:
    """The counts of an image."""
    task, counts = last_item.truth.task, dict[str, float]()
    if all("answered" in grade.counts for grade in grades):
        both = all(grade.counts[f"points_{task}"] for grade in grades)
        counts = _score_counts(sizes, task, 2.0 * both, 1.0)
    if all(grade.value is not None for grade in grades):
        counts |= {"pairs": 1.0, "both": float(all(grade.value for grade in grades))}
    return counts


SPEC = Spec(
    name="mme",
    factory=load,
    group="general",
    size=1187,
    questions=2374,
    about="MME: 14 subtasks of perception and cognition, two yes/no questions an image.",
    metrics=("perception", "cognition", "accuracy", "accuracy_plus"),
    licence="for academic research; images under their own licences",
    twins=("lmms_eval:mme", "vlmevalkit:MME"),
    local=DATA,
)
