"""MMHal-Bench (Sun et al., "Aligning Large Multimodal Models with Factually Augmented RLHF", arXiv
2309.14525, section 3.2): 96 questions of eight types on images of OpenImages, each answer rated 0
to 6 by a language model that reads the image's contents and a person's answer. Ratings below 3
say that the answer hallucinates.

It takes the authors' folder (Hugging Face, Shengcao1006/MMHal-Bench): ``response_template.json``
and ``images/``. The judge's prompt is our own wording of the authors' scale (``mmhal_judge.txt``);
to use theirs, save the template of their
``eval_gpt4.py`` to a file and name it in the judge's settings: ``"prompts": {"mmhal":
"template.txt"}``. Their script counts an unreadable verdict as 0; here it is unscored and counted.
An empty answer is unscored too, and never sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from benchmarks import files, grading
from benchmarks.chat import Reply
from benchmarks.files import LocalData
from benchmarks.grading import Graded, Item
from benchmarks.interface import Grade, Metric, Question, Report
from benchmarks.judge import JUDGE_VARIABLE, Ask, Cost, Judge, judge_prompt, open_judge

MMHAL_VERSION = "1"
TYPES = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)
HIGHEST = 6
HALLUCINATES_BELOW = 3
MAX_NEW_TOKENS = 512

DATA = LocalData(
    name="mmhal",
    files=("response_template.json",),
    get="with images/, the Hugging Face data set Shengcao1006/MMHal-Bench",
)
"""Grading needs the file alone; the images are opened when the questions are exported."""

_PROMPT = Path(__file__).with_name("mmhal_judge.txt")
_FIELDS = ("contents", "question", "reference", "answer")
_PLACE = re.compile(r"\{(" + "|".join(_FIELDS) + r")?\}")
_RATING = re.compile(r"rating[\s*_]*[:=][\s*_]*(-?\d+(?:\.\d+)?)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the judge is told of a question's image: the things in it and a person's answer; and
    the question's type."""

    type: str
    contents: tuple[str, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class MMHal:
    """MMHal-Bench. ``judge`` None: it can be exported and answered, not graded. ``prompt`` is the
    judge's, with the places {contents}, {question}, {reference} and {answer} (or, as the authors'
    has them, four times {} in this order)."""

    source: str
    items: Callable[[], Iterator[Item[Reference]]]
    prompt: str
    judge: Judge | None = None

    name: str = "mmhal"
    group: Literal["hallucination"] = "hallucination"

    def __post_init__(self) -> None:
        places = [place.group(1) for place in _PLACE.finditer(self.prompt)]
        if set(places) != set(_FIELDS) and places != [None] * len(_FIELDS):
            raise ValueError(
                "The judge's prompt for mmhal must hold the places {contents}, {question},"
                " {reference} and {answer}, or four times {} in this order."
            )

    @property
    def grader(self) -> str:
        prompt = hashlib.sha256(self.prompt.encode()).hexdigest()[:8]
        judge = (
            "no judge"
            if self.judge is None
            else f"judge {self.judge.settings.name} prompt {prompt}"
        )
        return f"mmhal-{MMHAL_VERSION} {judge}"

    @property
    def version(self) -> str:
        return f"{self.source} {self.grader}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric(
                name="score",
                better="higher",
                unit="of 6",
                numerator="rating",
                denominator="rated",
                scale=1.0,
                primary=True,
            ),
            grading.percent("hallucination_rate", "hallucinated", "rated", "lower", primary=True),
            *(
                Metric(
                    name=f"score_{type}",
                    better="higher",
                    unit="of 6",
                    numerator=f"rating_{type}",
                    denominator=f"rated_{type}",
                    scale=1.0,
                )
                for type in TYPES
            ),
            Metric(
                name="judge_spread",
                better="none",
                unit="points",
                numerator="spread",
                denominator="repeated",
                scale=1.0,
            ),  # the standard deviation of the ratings of one answer, on average
            grading.percent("unreadable", "unreadable", "verdicts", "none"),
        )

    def questions(self) -> Iterator[Question]:
        return self._graded(_unjudged).questions()

    def grade(self, answers: Mapping[str, str]) -> Report:
        """
        Raises:
            ValueError: an answer belongs to no question, there is no judge, or it cannot be asked.
        """
        asks = self._asks(answers)
        replies = self._judge().ask(asks)
        by_question = {one.about: some for one, some in zip(asks, replies, strict=True)}
        return self._graded(partial(_grade, by_question)).grade(answers)

    def estimate(self, answers: Mapping[str, str]) -> Cost:
        """What grading these answers would still ask the judge; asks nobody."""
        return self._judge().estimate(self._asks(answers))

    def _judge(self) -> Judge:
        if self.judge is None:
            raise ValueError(
                "mmhal is graded by a judge: write its settings to a JSON file and name that file"
                f" in the environment variable {JUDGE_VARIABLE} (benchmarks/README.md)."
            )
        return self.judge

    def _asks(self, answers: Mapping[str, str]) -> list[Ask]:
        asks: list[Ask] = []

        def collect(item: Item[Reference], answer: str) -> Grade:
            if answer.strip():
                asks.append(Ask(about=item.id, prompt=filled(self.prompt, item, answer)))
            return _unjudged(item, answer)

        self._graded(collect).grade(
            answers
        )  # an answer that belongs to no question is found before anybody is asked
        return asks

    def _graded(self, judge: Callable[[Item[Reference], str], Grade]) -> Graded[Reference]:
        return Graded(
            name=self.name,
            group=self.group,
            source=self.source,
            grader=self.grader,
            items=self.items,
            metrics=self.metrics,
            judge=judge,
            max_new_tokens=MAX_NEW_TOKENS,
        )


def _unjudged(item: Item[Reference], _answer: str) -> Grade:
    return grading.unscored(item, "not judged")


def filled(prompt: str, item: Item[Reference], answer: str) -> str:
    """The prompt with its places filled; what is filled in is not looked at again, so an answer may
    hold "{question}"."""
    truth = item.truth
    values = {
        "contents": ", ".join(truth.contents),
        "question": item.text,
        "reference": truth.answer,
        "answer": answer,
    }
    order = iter(_FIELDS)
    return _PLACE.sub(lambda place: values[place.group(1) or next(order)], prompt)


def read_rating(verdict: str) -> int | None:
    """The rating 0 to 6 of "... Rating: N"; None where there is none, or two that differ."""
    found = set(_RATING.findall(verdict))
    if len(found) != 1 or not (text := found.pop()).isdecimal() or int(text) > HIGHEST:
        return None
    return int(text)


def _grade(replies: Mapping[str, Sequence[Reply]], item: Item[Reference], answer: str) -> Grade:
    if not answer.strip():
        return grading.unscored(item, "empty answer")
    verdicts, type = replies[item.id], item.truth.type
    ratings = [one for verdict in verdicts if (one := read_rating(verdict.text)) is not None]
    counts = {
        "verdicts": float(len(verdicts)),
        "unreadable": float(len(verdicts) - len(ratings)),
        "judge_tokens_in": float(sum(verdict.tokens_in or 0 for verdict in verdicts)),
        "judge_tokens_out": float(sum(verdict.tokens_out or 0 for verdict in verdicts)),
    }
    said = verdicts[0].text
    if not ratings:
        return grading.unscored(item, f"no rating in the judge's verdict: {said}", counts)
    rating = fmean(ratings)
    counts |= {
        "rated": 1.0,
        "rating": rating,
        "hallucinated": fmean(one < HALLUCINATES_BELOW for one in ratings),
        f"rated_{type}": 1.0,
        f"rating_{type}": rating,
    }
    if len(ratings) > 1:
        counts |= {"spread": stdev(ratings), "repeated": 1.0}
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=rating,
        read_as=", ".join(str(one) for one in ratings),
        why=said,
        truth=item.truth.answer,
        counts=counts,
    )


def mmhal(split: str, limit: int | None, data: Path | None) -> MMHal:
    """MMHal-Bench from the authors' folder ``data``, at most ``limit`` images; judged as
    SELFSIGHT_JUDGE says.

    Raises:
        ValueError: the file is not there or not what it should be, another split is asked for, or
            the judge's settings are wrong.
    """
    grading.only_test_split("mmhal", split)
    folder = DATA.folder("mmhal", data)
    path = folder / "response_template.json"
    rows = list(files.read_rows(path))
    read = [
        _entry(folder / "images", number, place, row) for number, (place, row) in enumerate(rows)
    ]
    items, source = grading.fixed(grading.few_pictures(read, limit), "mmhal-bench")
    judge = open_judge()
    return MMHal(
        source=source, items=items, prompt=judge_prompt(judge, "mmhal", _PROMPT), judge=judge
    )


def _entry(images: Path, number: int, place: str, row: dict[str, Any]) -> Item[Reference]:
    """One row of the file; the image's file is the last part of its address, as in the authors'
    own folder."""
    contents = row.get("image_content")
    if not isinstance(contents, list) or not all(isinstance(one, str) for one in contents):
        raise ValueError(f"{place}: image_content must be a list of texts; {files.AGAIN}.")
    file = Path(files.text(place, row, "image_src")).name
    return Item(
        id=f"{number:02d}-{Path(file).stem}",
        cluster=Path(file).stem,
        text=files.text(place, row, "question"),
        truth=Reference(
            type=files.one_of(place, row.get("question_type"), TYPES, "question_type"),
            contents=tuple(contents),
            answer=files.text(place, row, "gt_answer"),
        ),
        picture=partial(files.open_picture, images / file),
    )
