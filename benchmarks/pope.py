"""POPE, polling-based object probing (Li et al., "Evaluating Object Hallucination in Large
Vision-Language Models", arXiv 2305.10355, section 5).

It asks as many questions about present objects as about absent ones. Absent ones are drawn at
random, from the most popular categories, or from those that often occur beside a present one
(adversarial). "Yes" is the positive class. Answers are read at word level
(``yes_no.read_words``); an unreadable answer is unscored and counted. On the official files the
metrics ``..._official`` read every answer as POPE's own script does, for RePOPE as RePOPE's own
script does, which leaves out what it cannot read: use them beside published numbers.

RePOPE (Neuhaus and Hein, arXiv 2504.15707) corrects the labels of the same questions. A question
that it leaves out as ambiguous is unscored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import files, grading, yes_no
from benchmarks.grading import Item, ItemBenchmark
from benchmarks.interface import Grade, Metric
from benchmarks.spec import Spec
from benchmarks.yes_no import REQUEST, YesNo

POPE_VERSION = "1"
SETTINGS: tuple[str, ...] = ("random", "popular", "adversarial")

_GET = "github.com/RUCAIBox/POPE, output/coco; images: COCO's val2014.zip from cocodataset.org"
DATA = files.LocalData(
    name="coco",
    files=(
        *(
            f"coco_pope_{setting}.json*|output/coco/coco_pope_{setting}.json"
            f"|annotations/coco_pope_{setting}.json"
            for setting in SETTINGS
        ),
        "val2014",
    ),
    get=_GET,
)
REPOPE_DATA = files.LocalData(
    name="coco",
    files=(
        *DATA.files,
        *(
            f"coco_repope_{setting}.json*|annotations/coco_repope_{setting}.json"
            for setting in SETTINGS
        ),
    ),
    get=f"{_GET}; labels: github.com/YanNeu/RePOPE, annotations",
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The truth of one question: whether the object is present (None: ambiguous), and the setting
    of the question."""

    present: bool | None
    setting: str


def pope_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[Probe]]],
    grader: str = f"pope-{POPE_VERSION}",
    official: Callable[[str], YesNo | None] | None = None,
    max_new_tokens: int = 8,
) -> ItemBenchmark[Probe]:
    """POPE over any source of images with known objects. ``official`` adds a released script's
    reading of the answers, and F1 and yes-ratio of each setting; ``grader`` is its version."""
    return ItemBenchmark(
        name=name,
        group="hallucination",
        source=source,
        grader=grader,
        items=items,
        metrics=_metrics(official is not None),
        grade_one=partial(_grade, official),
        max_new_tokens=max_new_tokens,
    )


def load(name: str, split: str, limit: int | None, data: Path | None) -> ItemBenchmark[Probe]:
    """The official questions with POPE's labels (``name`` pope) or RePOPE's (``name`` repope).

    Raises:
        ValueError: a file or image is missing or broken, or the split is not test.
    """
    corrected = name == "repope"
    local = REPOPE_DATA if corrected else DATA
    folder = local.folder(name, data)
    grading.only_test_split(name, split)
    labels: dict[tuple[str, str, str], bool] = {}
    for setting in SETTINGS if corrected else ():
        path = local.file(folder, f"coco_repope_{setting}.json")
        labels |= {
            (setting, image, text): present for _, _, image, text, present in _read_rows(path)
        }
    items: list[Item[Probe]] = []
    images: list[tuple[str, Path]] = []
    for setting in SETTINGS:
        locations: dict[str, str] = {}
        rows = _read_rows(local.file(folder, f"coco_pope_{setting}.json"))
        for location, id, image, text, present in rows:
            if locations.setdefault(id, location) != location:
                raise files.broken(
                    f"{location}: question_id {id} is a duplicate of {locations[id]}"
                )
            path = folder / "val2014" / image
            images.append((location, path))
            truth = labels.get((setting, image, text)) if corrected else present
            items.append(
                Item(
                    id=f"{setting}/{id}",
                    cluster=image,
                    text=f"{text}\n{REQUEST}",
                    truth=Probe(present=truth, setting=setting),
                    load_image=partial(files.open_image, path),
                )
            )
    files.check_images(name, images)
    if all(item.truth.present is None for item in items):
        raise ValueError(
            f"None of RePOPE's questions in {folder} is one of POPE's in that folder; put POPE's"
            " own files beside RePOPE's."
        )
    kept_items, source = grading.items_and_source(items, limit, name)
    return pope_benchmark(
        name=name,
        source=source,
        items=kept_items,
        grader="repope-1" if corrected else f"pope-{POPE_VERSION}",
        official=yes_no.read_repope if corrected else yes_no.read_official,
        max_new_tokens=32,
    )


def _read_rows(path: Path) -> Iterator[tuple[str, str, str, str, bool]]:
    """(place, question id, image, question, whether the object is present) of each line."""
    for location, row in files.read_rows(path):
        id = row.get("question_id")
        if not isinstance(id, int | str):
            raise files.broken(f"{location}: question_id is {id!r}; it must be a number")
        present = yes_no.read_label(location, row.get("label"), "label") == "yes"
        image = files.text_field(location, row, "image")
        text = files.text_field(location, row, "text")
        yield location, str(id), image, text, present


def _metrics(official: bool) -> tuple[Metric, ...]:
    names_by_suffix: dict[str, tuple[str, ...]] = {"": ("accuracy",)}
    if official:
        names_by_suffix = {"": ("accuracy", "f1", "yes_ratio"), "_official": ("accuracy", "f1")}
    by_setting = [
        yes_no.metrics(suffix=f"_{setting}{reading}")[name]
        for setting in SETTINGS
        for reading, names in names_by_suffix.items()
        for name in names
    ]
    official_metrics = yes_no.metrics(suffix="_official").values() if official else ()
    return (
        *yes_no.metrics(primary=True).values(),
        yes_no.UNREADABLE,
        *official_metrics,
        *by_setting,
    )


def _grade(official: Callable[[str], YesNo | None] | None, item: Item[Probe], answer: str) -> Grade:
    present, setting = item.truth.present, item.truth.setting
    if present is None:
        return grading.unscored(item, "left out of RePOPE as ambiguous")
    truth: YesNo = "yes" if present else "no"
    reading = yes_no.read_words(answer)
    setting_counts = yes_no.counts(truth, reading, suffix=f"_{setting}")
    always: dict[str, float] = {}
    if official is not None:
        official_reading = official(answer)
        for suffix in ("_official", f"_{setting}_official"):
            if official_reading is not None:
                always |= yes_no.counts(truth, official_reading, suffix=suffix)
    else:
        setting_counts = {
            name: setting_counts[name] for name in (f"read_{setting}", f"correct_{setting}")
        }
    return yes_no.grade(
        item,
        answer,
        truth,
        read={**yes_no.counts(truth, reading), **setting_counts},
        always=always,
        why_wrong=f"it is {'there' if present else 'not there'}",
    )


_METRICS = ("accuracy", "f1", "yes_ratio", "accuracy_official", "f1_official")
SPECS = (
    Spec(
        name="pope",
        factory=partial(load, "pope"),
        group="hallucination",
        size=500,
        questions=9000,
        about="POPE on COCO val2014: 9,000 yes/no questions on present and absent objects.",
        metrics=_METRICS,
        licence="questions MIT; images under their Flickr licences",
        twins=("lmms_eval:pope", "vlmevalkit:POPE"),
        local=DATA,
    ),
    Spec(
        name="repope",
        factory=partial(load, "repope"),
        group="hallucination",
        size=500,
        questions=9000,
        about="POPE's questions with RePOPE's corrected labels; ambiguous questions are unscored.",
        metrics=_METRICS,
        licence="labels under their repository's terms; questions and images as POPE's",
        local=REPOPE_DATA,
    ),
)
