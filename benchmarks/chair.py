"""CHAIR, caption hallucination (Rohrbach et al., "Object Hallucination in Image Captioning", arXiv
1809.02156, section 2.1).

As the authors' released code counts: after the synonym mapping *every mention* counts, a category
told twice counts twice;
``chair_i`` = hallucinated mentions / all mentions over the corpus, ``chair_s`` = captions with a
hallucinated mention / captions. Beside them, because short and careful captions alone lower CHAIR:
recall (distinct true objects mentioned / true objects), words and distinct objects a caption.

A caption that mentions no object is scored (nothing hallucinated). An empty caption is unscored;
the authors' code would count it as a caption without hallucination."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from benchmarks import grading
from benchmarks.grading import Graded, Item, percent
from benchmarks.interface import Grade, Metric

CHAIR_VERSION = "1"
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


class Reader(Protocol):
    """Reads every mention of a category as (category, from, to), in order: ``objects.ObjectTable``,
    ``coco.CaptionReader``. Places are characters of the caption in lower case."""

    def places(self, caption: str) -> list[tuple[str, int, int]]: ...


def chair_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[frozenset[str]]]],
    table: Reader,
    max_new_tokens: int,
    primary: bool,
) -> Graded[frozenset[str]]:
    """CHAIR over any source of images with known objects: one caption prompt an image, its truth
    the categories there."""
    return Graded(
        name=name,
        group="hallucination",
        source=source,
        grader=f"chair-{CHAIR_VERSION}",
        items=items,
        metrics=(
            percent("chair_s", "unfaithful", "captions", "lower", primary=primary),
            percent("chair_i", "hallucinated", "mentions", "lower", primary=primary),
            percent("recall", "found", "truth"),
            Metric(
                name="words",
                better="none",
                unit="words",
                numerator="words",
                denominator="captions",
                scale=1.0,
            ),
            Metric(
                name="objects",
                better="none",
                unit="objects",
                numerator="objects",
                denominator="captions",
                scale=1.0,
            ),
        ),
        judge=partial(_judge, table),
        max_new_tokens=max_new_tokens,
    )


def _judge(table: Reader, item: Item[frozenset[str]], caption: str) -> Grade:
    """``value`` is 1 for a caption without hallucination, else 0."""
    if not caption.strip():
        return grading.unscored(item, "empty caption")
    places = table.places(caption)
    mentions = [category for category, _, _ in places]
    invented = [category for category in mentions if category not in item.truth]
    distinct = set(mentions)
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=0.0 if invented else 1.0,
        read_as=" ".join(mentions),
        why=f"not there: {', '.join(dict.fromkeys(invented))}" if invented else "",
        truth=", ".join(sorted(item.truth)),
        # A few letters change their length in lower case: then places in the one are not places in
        # the other.
        wrong=(
            tuple((start, end) for category, start, end in places if category not in item.truth)
            if len(caption.lower()) == len(caption)
            else ()
        ),
        counts={
            "captions": 1.0,
            "unfaithful": float(bool(invented)),
            "mentions": float(len(mentions)),
            "hallucinated": float(len(invented)),
            "found": float(len(distinct & item.truth)),
            "truth": float(len(item.truth)),
            "words": float(len(_WORD.findall(caption))),
            "objects": float(len(distinct)),
        },
    )
