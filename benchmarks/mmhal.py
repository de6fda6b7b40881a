"""MMHal-Bench (Sun et al., "Aligning Large Multimodal Models with Factually Augmented RLHF", arXiv
2309.14525, section 3.2): 96 questions of eight types on images of OpenImages.

A language model rates each answer from 0 to 6. It reads the image's contents and a person's answer.
A rating below 3 means that the answer hallucinates.

The data are the authors' folder (Hugging Face, Shengcao1006/MMHal-Bench):
``response_template.json`` and ``images/``. The judge's prompt (``mmhal_judge.txt``) is our own
wording of the authors' scale. To use theirs, save the template of their ``eval_gpt4.py`` to a file
and name it in the judge's settings: ``"prompts": {"mmhal": "template.txt"}``. Their script counts
an unreadable verdict as 0; here it is unscored and counted. An empty answer is unscored and never
sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import files, grading
from benchmarks.chat import Reply
from benchmarks.files import LocalData
from benchmarks.grading import Item, ItemBenchmark, percent, ratio
from benchmarks.interface import Cost, Grade, Metric, Report
from benchmarks.judge import Judge, JudgeRequest, judge_prompt, open_judge
from benchmarks.judge_settings import JUDGE_VARIABLE
from benchmarks.spec import Spec

MMHAL_VERSION = "1"
TYPES = tuple(
    "attribute adversarial comparison counting relation environment holistic other".split()
)
HIGHEST = 6
HALLUCINATES_BELOW = 3
MAX_NEW_TOKENS = 512
FILE = "response_template.json"
DATA = LocalData(
    name="mmhal",
    files=(FILE,),
    get="the Hugging Face data set Shengcao1006/MMHal-Bench, with its images/",
)
"""Grading needs the file alone; the images are opened when the questions are exported."""

_PROMPT = Path(__file__).with_name("mmhal_judge.txt")
_FIELDS = ("contents", "question", "reference", "answer")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(_FIELDS) + r")?\}")
_RATING = re.compile(r"rating[\s*_]*[:=][\s*_]*(-?\d+(?:\.\d+)?)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the judge reads about a question: its type, the image's contents, a person's answer."""

    type: str
    contents: tuple[str, ...]
    answer: str


METRICS: tuple[Metric, ...] = (
    ratio("score", "rating", "rated", unit="of 6", primary=True),
    percent("hallucination_rate", "hallucinated", "rated", "lower", primary=True),
    *grading.by_kind(ratio("score", "rating", "rated", unit="of 6"), TYPES),
    # The mean standard deviation of the ratings of one answer.
    ratio("judge_spread", "spread", "repeated", "none", unit="points"),
    percent("unreadable", "unreadable", "verdicts", "none"),
)


@dataclass(frozen=True, kw_only=True)
class MMHal(ItemBenchmark[Reference]):
    """MMHal-Bench; ``grade_one`` holds the replies of the judge."""

    prompt: str
    """The judge's prompt, with the places {contents}, {question}, {reference} and {answer}, or
    four times {} in this order, as the authors' prompt has them."""
    judge: Judge | None
    """None: it can be exported and answered, not graded."""

    def __post_init__(self) -> None:
        placeholders = [match.group(1) for match in _PLACEHOLDER.finditer(self.prompt)]
        if set(placeholders) != set(_FIELDS) and placeholders != [None] * len(_FIELDS):
            raise ValueError(
                "The judge's prompt for mmhal must hold the places {contents}, {question},"
                " {reference} and {answer}, or four times {} in this order."
            )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """
        Raises:
            ValueError: an answer belongs to no question, there is no judge, or it cannot be asked.
        """
        requests = self._requests(answers)
        verdicts = self._judge().ask(requests)
        replies = {
            request.about: verdict for request, verdict in zip(requests, verdicts, strict=True)
        }
        judged = replace(self, grade_one=partial(_grade, replies))
        return super(MMHal, judged).grade(answers)

    def estimate(self, answers: Mapping[str, str]) -> Cost:
        """What grading these answers would still ask of the judge; sends nothing."""
        return self._judge().estimate(self._requests(answers))

    def _judge(self) -> Judge:
        if self.judge is None:
            raise ValueError(
                "mmhal is graded by a judge: write its settings to a JSON file and name that file"
                f" in the environment variable {JUDGE_VARIABLE} (benchmarks/README.md)."
            )
        return self.judge

    def _requests(self, answers: Mapping[str, str]) -> list[JudgeRequest]:
        items = list(self.items())
        # Before anything is sent.
        grading.check_answers(answers, [item.id for item in items])
        return [
            JudgeRequest(about=item.id, prompt=fill_prompt(self.prompt, item, answers[item.id]))
            for item in items
            if answers.get(item.id, "").strip()
        ]


def mmhal_benchmark(
    source: str, items: Callable[[], Iterator[Item[Reference]]], prompt: str, judge: Judge | None
) -> MMHal:
    """MMHal-Bench with the judge's prompt; without a judge it can be exported and answered."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    judge_name = f"judge {judge.settings.name} prompt {digest}" if judge else "no judge"
    return MMHal(
        name="mmhal",
        group="hallucination",
        source=source,
        grader=f"mmhal-{MMHAL_VERSION} {judge_name}",
        items=items,
        metrics=METRICS,
        grade_one=partial(_grade, {}),
        max_new_tokens=MAX_NEW_TOKENS,
        prompt=prompt,
        judge=judge,
    )


def fill_prompt(prompt: str, item: Item[Reference], answer: str) -> str:
    """The prompt with its places filled, in one pass: an answer may hold "{question}"."""
    values = {
        "contents": ", ".join(item.truth.contents),
        "question": item.text,
        "reference": item.truth.answer,
        "answer": answer,
    }
    next_field = iter(_FIELDS)
    return _PLACEHOLDER.sub(lambda match: values[match.group(1) or next(next_field)], prompt)


def read_rating(verdict: str) -> int | None:
    """The rating 0 to 6 of "... Rating: N"; None: there is none, or two that differ."""
    ratings = set(_RATING.findall(verdict))
    if len(ratings) != 1 or not (text := ratings.pop()).isdecimal() or int(text) > HIGHEST:
        return None
    return int(text)


def _grade(replies: Mapping[str, Sequence[Reply]], item: Item[Reference], answer: str) -> Grade:
    if not answer.strip():
        return grading.unscored(item, "empty answer")
    verdicts, type = replies[item.id], item.truth.type
    readings = [read_rating(verdict.text) for verdict in verdicts]
    ratings = [rating for rating in readings if rating is not None]
    counts = {
        "verdicts": float(len(verdicts)),
        "unreadable": float(len(verdicts) - len(ratings)),
        "judge_tokens_in": float(sum(verdict.tokens_in or 0 for verdict in verdicts)),
        "judge_tokens_out": float(sum(verdict.tokens_out or 0 for verdict in verdicts)),
    }
    first_text = verdicts[0].text
    if not ratings:
        return grading.unscored(item, f"no rating in the judge's verdict: {first_text}", counts)
    mean = fmean(ratings)
    counts |= {
        "rated": 1.0,
        "rating": mean,
        "hallucinated": fmean(rating < HALLUCINATES_BELOW for rating in ratings),
        f"rated_{type}": 1.0,
        f"rating_{type}": mean,
    }
    if len(ratings) > 1:
        counts |= {"spread": stdev(ratings), "repeated": 1.0}
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=mean,
        read_as=", ".join(map(str, ratings)),
        why=first_text,
        truth=item.truth.answer,
        counts=counts,
    )


def load(split: str, limit: int | None, data: Path | None) -> MMHal:
    """MMHal-Bench from the authors' folder, judged as SELFSIGHT_JUDGE says.

    Raises:
        ValueError: the file is missing or broken, the split is not test, or the judge's settings
            are wrong.
    """
    grading.only_test_split("mmhal", split)
    folder = DATA.folder("mmhal", data)
    rows = enumerate(files.read_rows(folder / FILE))
    all_items = [
        _item(folder / "images", number, location, row) for number, (location, row) in rows
    ]
    items, source = grading.items_and_source(all_items, limit, "mmhal-bench")
    judge = open_judge()
    prompt = judge_prompt(judge, "mmhal", _PROMPT)
    return mmhal_benchmark(source, items, prompt, judge)


def _item(images: Path, number: int, location: str, row: dict[str, Any]) -> Item[Reference]:
    """One row of the file. As in the authors' folder, the image's file is named by the last part
    of its address."""
    contents = row.get("image_content")
    if not isinstance(contents, list) or not all(isinstance(name, str) for name in contents):
        raise files.broken(f"{location}: image_content must be a list of texts")
    file = Path(files.text_field(location, row, "image_src")).name
    return Item(
        id=f"{number:02d}-{Path(file).stem}",
        cluster=Path(file).stem,
        text=files.text_field(location, row, "question"),
        truth=Reference(
            type=files.one_of(location, row.get("question_type"), TYPES, "question_type"),
            contents=tuple(contents),
            answer=files.text_field(location, row, "gt_answer"),
        ),
        load_image=partial(files.open_image, images / file),
    )


SPEC = Spec(
    name="mmhal",
    factory=load,
    group="hallucination",
    size=96,
    questions=96,
    about="MMHal-Bench: 96 open questions; a judge rates each answer from 0 to 6.",
    metrics=("score", "hallucination_rate"),
    licence="Apache-2.0 (data set); images of OpenImages under their Flickr licences",
    judge="a language model (SELFSIGHT_JUDGE)",
    local=DATA,
)
