"""CHAIR, caption hallucination (Rohrbach et al., "Object Hallucination in Image Captioning", arXiv
1809.02156, section 2.1).

Counted as in the authors' released code. After the synonym mapping every mention counts; a
category mentioned twice counts twice. ``chair_i`` = hallucinated mentions / all mentions over the
corpus; ``chair_s`` = captions with a hallucinated mention / captions. Short and careful captions
alone lower CHAIR, so recall (distinct true objects mentioned / true objects), words and distinct
objects a caption are reported too.

A caption that mentions no object is scored: nothing is hallucinated. An empty caption is unscored;
the authors' code counts it as a caption without hallucination, and so do the metrics
``..._official``, which a source has whose authors published a reader of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from benchmarks import grading
from benchmarks.grading import Item, ItemBenchmark, percent, ratio
from benchmarks.interface import Grade, Metric

CHAIR_VERSION = "1"
OFFICIAL_VERSION = "2"
"""With the authors' reading beside ours."""
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


class Reader(Protocol):
    """Reads the objects in a caption (``objects.ObjectTable``, ``coco.CaptionReader``)."""

    def mention_spans(self, caption: str) -> list[tuple[str, int, int]]:
        """Every mention as (category, start, end), in order; start and end are characters of the
        caption in lower case."""
        ...


@dataclass(frozen=True, kw_only=True)
class Official:
    """The authors' own reading of captions, and the truth (by item id) that it gives."""

    reader: Reader
    truth: Mapping[str, frozenset[str]]

    def counts(self, item: Item[frozenset[str]], caption: str) -> dict[str, float]:
        mentions = [category for category, _, _ in self.reader.mention_spans(caption)]
        return grading.suffixed_counts(_mention_counts(mentions, self.truth[item.id]), "_official")


def _mention_counts(mentions: Sequence[str], truth: frozenset[str]) -> dict[str, float]:
    invented = sum(category not in truth for category in mentions)
    return {
        "captions": 1.0,
        "unfaithful": float(invented > 0),
        "mentions": float(len(mentions)),
        "hallucinated": float(invented),
    }


CHAIR: tuple[Metric, ...] = (
    percent("chair_s", "unfaithful", "captions", "lower"),
    percent("chair_i", "hallucinated", "mentions", "lower"),
)


def chair_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[frozenset[str]]]],
    reader: Reader,
    max_new_tokens: int,
    primary: bool,
    official: Official | None = None,
) -> ItemBenchmark[frozenset[str]]:
    """CHAIR over any source of images with known objects: one caption prompt an image; its truth
    is the set of categories in the image."""
    return ItemBenchmark(
        name=name,
        group="hallucination",
        source=source,
        grader=f"chair-{OFFICIAL_VERSION if official else CHAIR_VERSION}",
        items=items,
        metrics=(
            *(replace(metric, primary=primary) for metric in CHAIR),
            percent("recall", "found", "truth"),
            ratio("words", "words", "captions", "none", unit="words"),
            ratio("objects", "objects", "captions", "none", unit="objects"),
            *(grading.suffixed(metric, "_official") for metric in CHAIR if official),
        ),
        grade_one=partial(_grade, reader, official),
        max_new_tokens=max_new_tokens,
    )


def _grade(
    reader: Reader, official: Official | None, item: Item[frozenset[str]], caption: str
) -> Grade:
    """``value`` is 1 for a caption without hallucination, else 0."""
    official_counts = official.counts(item, caption) if official else {}
    if not caption.strip():
        return grading.unscored(item, "empty caption", official_counts)
    spans = reader.mention_spans(caption)
    mentions = [category for category, _, _ in spans]
    invented = [span for span in spans if span[0] not in item.truth]
    names = ", ".join(dict.fromkeys(category for category, _, _ in invented))
    distinct = set(mentions)
    # A few letters change their length in lower case; places then do not fit the caption.
    same_length = len(caption.lower()) == len(caption)
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=0.0 if invented else 1.0,
        read_as=" ".join(mentions),
        why=f"not there: {names}" if invented else "",
        truth=", ".join(sorted(item.truth)),
        wrong=tuple((start, end) for _, start, end in invented) if same_length else (),
        counts={
            **_mention_counts(mentions, item.truth),
            "found": float(len(distinct & item.truth)),
            "truth": float(len(item.truth)),
            "words": float(len(_WORD.findall(caption))),
            "objects": float(len(distinct)),
            **official_counts,
        },
    )
