"""POPE, polling-based object probing (Li et al., "Evaluating Object Hallucination in Large
Vision-Language Models", arXiv 2305.10355, section 5): as many questions about present objects as
about absent ones, the absent ones drawn at random, from the most popular categories, or from what
usually stands beside a present one (adversarial).

"Yes" is the positive class. Answers are read at word level (``yes_no.read_words``); an answer that
cannot be read is unscored and counted. The official files (``load``) are read a second time as
POPE's own script does it, which calls every answer yes that has no "no" or "not" in its first
sentence: the metrics ``..._official`` are those of published tables.

RePOPE (Neuhaus and Hein, arXiv 2504.15707) labels the same questions anew: the same answers can be
graded with both. A question that it leaves out as ambiguous is unscored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import files, grading, yes_no
from benchmarks.grading import Graded, Item, percent
from benchmarks.interface import Grade, Metric
from benchmarks.yes_no import YesNo

POPE_VERSION = "1"
SETTINGS: tuple[str, ...] = ("random", "popular", "adversarial")
REQUEST = "Answer the question using a single word or phrase."
"""LLaVA-1.5's own evaluation asks so; POPE's files hold the question alone."""

_GET = "github.com/RUCAIBox/POPE, output/coco; images: COCO's val2014.zip from cocodataset.org"
DATA = files.LocalData(
    name="coco",
    files=(*(f"coco_pope_{setting}.json*" for setting in SETTINGS), "val2014"),
    get=_GET,
)
REPOPE_DATA = files.LocalData(
    name="coco",
    files=(*DATA.files, *(f"coco_repope_{setting}.json*" for setting in SETTINGS)),
    get=f"{_GET}; labels: github.com/YanNeu/RePOPE, annotations",
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The truth of one question: whether the object is there (None: not known), and the setting it
    was asked in."""

    present: bool | None
    setting: str


def pope_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[Probe]]],
    official: bool = False,
    max_new_tokens: int = 8,
) -> Graded[Probe]:
    """POPE over any source of images with known objects. ``official`` adds, for each setting, F1
    and yes-ratio, and POPE's own reading of the answers."""
    return Graded(
        name=name,
        group="hallucination",
        source=source,
        grader=f"pope-{POPE_VERSION}",
        items=items,
        metrics=_metrics(official),
        judge=partial(_judge, official),
        max_new_tokens=max_new_tokens,
        choices=("yes", "no"),
    )


def load(name: str, split: str, limit: int | None, data: Path | None) -> Graded[Probe]:
    """The official questions, with POPE's labels (``name`` pope) or RePOPE's (``name`` repope).

    Raises:
        ValueError: a file or image is missing or broken, or another split than test is asked for.
    """
    needed = REPOPE_DATA if name == "repope" else DATA
    folder = needed.folder(name, data)
    grading.only_test_split(name, split)
    labels: dict[tuple[str, str, str], bool] = {}
    if name == "repope":
        for setting in SETTINGS:
            for _, picture, text, present in _rows(
                needed.file(folder, f"coco_repope_{setting}.json*")
            ):
                labels[setting, picture, text] = present
    items: list[Item[Probe]] = []
    pictures: list[tuple[str, Path]] = []
    for setting in SETTINGS:
        path = needed.file(folder, f"coco_pope_{setting}.json*")
        seen: dict[str, str] = {}
        for (place, id), picture, text, present in _rows(path):
            if seen.setdefault(id, place) != place:
                raise ValueError(
                    f"{place}: question_id {id} is there already ({seen[id]}); {files.AGAIN}."
                )
            pictures.append((place, folder / "val2014" / picture))
            known = labels.get((setting, picture, text)) if name == "repope" else present
            items.append(
                Item(
                    id=f"{setting}/{id}",
                    cluster=picture,
                    text=f"{text}\n{REQUEST}",
                    truth=Probe(present=known, setting=setting),
                    picture=partial(files.open_picture, folder / "val2014" / picture),
                )
            )
    files.pictures_are_there(name, pictures)
    if all(item.truth.present is None for item in items):
        raise ValueError(
            f"None of RePOPE's questions in {folder} is one of POPE's there; give POPE's own files"
            " beside them."
        )
    some, source = grading.fixed(grading.few_pictures(items, limit), name)
    return pope_benchmark(name=name, source=source, items=some, official=True, max_new_tokens=32)


def _rows(path: Path) -> Iterator[tuple[tuple[str, str], str, str, bool]]:
    """((place, question id), image, question, whether the object is there) of each line."""
    for place, row in files.read_rows(path):
        id = row.get("question_id")
        if not isinstance(id, int | str):
            raise ValueError(f"{place}: question_id is {id!r}; it must be a number; {files.AGAIN}.")
        label = files.one_of(place, row.get("label"), ("yes", "no"), "label")
        yield (
            (place, str(id)),
            files.text(place, row, "image"),
            files.text(place, row, "text"),
            label == "yes",
        )


def _metrics(official: bool) -> tuple[Metric, ...]:
    unreadable = percent("unreadable", "unreadable", "answered", "none")
    found: list[Metric] = []
    for setting in SETTINGS:
        whole = {metric.name: metric for metric in yes_no.metrics(suffix=f"_{setting}")}
        shown = ("accuracy", "f1", "yes_ratio") if official else ("accuracy",)
        found += [whole[f"{name}_{setting}"] for name in shown]
        if official:
            own = {metric.name: metric for metric in yes_no.metrics(suffix=f"_{setting}_official")}
            found += [own[f"{name}_{setting}_official"] for name in ("accuracy", "f1")]
    theirs = yes_no.metrics(suffix="_official") if official else ()
    return (*yes_no.metrics(primary=True), unreadable, *theirs, *found)


def _judge(official: bool, item: Item[Probe], answer: str) -> Grade:
    present, setting = item.truth.present, item.truth.setting
    if present is None:
        return grading.unscored(item, "left out of RePOPE as ambiguous")
    truth: YesNo = "yes" if present else "no"
    theirs: dict[str, float] = {}
    if official:
        read = yes_no.read_official(answer)
        for suffix in ("_official", f"_{setting}_official"):
            theirs |= yes_no.counts(truth, read, suffix=suffix)
    said = yes_no.read_words(answer)
    if said is None:
        return grading.unscored(
            item, yes_no.why_unread(answer), {"answered": 1.0, "unreadable": 1.0, **theirs}, truth
        )
    apart = yes_no.counts(truth, said, suffix=f"_{setting}")
    if not official:
        apart = {name: apart[name] for name in (f"read_{setting}", f"correct_{setting}")}
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=float(said == truth),
        read_as=said,
        why="" if said == truth else f"it is {'there' if present else 'not there'}",
        truth=truth,
        counts={
            "answered": 1.0,
            "unreadable": 0.0,
            **yes_no.counts(truth, said),
            **apart,
            **theirs,
        },
    )
