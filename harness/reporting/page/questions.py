"""The page's questions: what every row answered to the same question, and where a row wins or loses
against the baseline.

Counts of wins and losses are over all questions; of the questions themselves a page holds those of
some images, drawn by a hash of their id so that all rows and benchmarks show the same ones. All
texts are untrusted: made visible here, put in as text there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, read_jsonl
from harness.reporting.comparison import Cell
from harness.reporting.figures.examples import spans
from harness.reporting.page.cards import visible
from harness.reporting.page.images import Album
from harness.reporting.results import BenchmarkColumns, Records, Row, shown

PICTURES, SHARED = 200, 1500
"""Images of a benchmark in a page at most, and images x rows at most: a study of many rows
shows fewer images."""
LONGEST = 2000
WIN, LOSS, SAME, UNSCORED, NOTHING = "wls?-"
"""How a question counts in a metric: better or worse than the baseline's answer (up or down for a
metric without a direction), alike, unscored in one of the two, or not counted by the metric at
all."""

Texts = Mapping[str, Mapping[str, Any]]


def collect(
    records: Records, results: Results, cells: Sequence[Cell], album: Album
) -> list[dict[str, Any]]:
    """One entry a graded benchmark, as JSON for the page."""
    most = max(10, min(PICTURES, SHARED // max(1, len(records.rows))))
    found = [
        _benchmark(records, results, benchmark, cells, album, most)
        for benchmark in records.benchmarks
    ]
    return [one for one in found if one is not None]


def _benchmark(
    records: Records,
    results: Results,
    benchmark: BenchmarkColumns,
    cells: Sequence[Cell],
    album: Album,
    most: int,
) -> dict[str, Any] | None:
    base = _graded(records, records.row(records.baseline), benchmark)
    if base is None:
        return None
    clusters = sorted(
        set(base["cluster"]), key=lambda id: hashlib.sha256(str(id).encode()).digest()
    )
    chosen = set(clusters[:most])
    ids = [
        str(id)
        for id, cluster in zip(base.index, base["cluster"], strict=True)
        if cluster in chosen
    ]
    path = results.questions(benchmark.name) / "questions.jsonl"
    asked = {str(row["id"]): row for row in read_jsonl(path)} if path.exists() else {}
    base_texts = _texts(results, records.row(records.baseline), benchmark)
    rows = []
    for row in (row for row in records.methods if row.covers(benchmark.name)):
        mine = _graded(records, row, benchmark)
        if mine is None or not mine.index.equals(base.index):
            continue
        codes = {metric.name: outcomes(metric, base, mine) for metric in benchmark.metrics}
        places = base.index.get_indexer(pd.Index(ids))
        rows.append(
            {
                "label": visible(row.label, 200),
                "seed": row.seeds[0],
                "seeds": len(row.seeds),
                "said": _said(ids, _texts(results, row, benchmark)),
                "codes": [
                    "".join(codes[metric.name][place] for metric in benchmark.metrics)
                    for place in places
                ],
                "counts": [_counted(codes[metric.name]) for metric in benchmark.metrics],
                "reached": [
                    [visible(name, 200) for name in cell.reached_by]
                    for cell in cells
                    if (cell.label, cell.benchmark, cell.last) == (row.label, benchmark.name, True)
                ],
            }
        )
    if not rows:
        return None
    headings = {cell.metric: cell.heading for cell in cells if cell.benchmark == benchmark.name}
    return {
        "name": visible(shown(benchmark.name), 200),
        "baseline": visible(records.baseline, 200),
        "metrics": [
            {
                "heading": headings.get(metric.name, metric.name),
                "directed": metric.better != "none",
                "primary": metric.primary,
            }
            for metric in benchmark.metrics
        ],
        "pictures": [len(chosen), len(clusters)],
        "total": len(base),
        "questions": [
            _question(id, asked.get(id, {}), base_texts, results, benchmark, album) for id in ids
        ],
        "base": _said(ids, base_texts),
        "rows": rows,
    }


def _graded(records: Records, row: Row, benchmark: BenchmarkColumns) -> pd.DataFrame | None:
    """The first seed's grades of the last round, by question; None where there are none."""
    grades = records.grades
    mine = grades[
        (grades["label"] == row.label)
        & (grades["round"] == row.rounds)
        & (grades["benchmark"] == benchmark.name)
    ]
    mine = mine[mine["seed"] == row.seeds[0]]
    return None if mine.empty else mine.set_index("question").sort_index()


def outcomes(metric: Metric, base: pd.DataFrame, mine: pd.DataFrame) -> str:
    """One letter a question. A question's share of the metric is its own ratio; where only one side
    has one (a caption that names nothing, an answer that is no longer yes), the question's own
    score decides."""
    ratios = []
    for frame in (base, mine):
        above, below = (_column(frame, name) for name in (metric.numerator, metric.denominator))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.where(below != 0, above / below, np.nan))
    values = [frame["value"].to_numpy(dtype=np.float64) for frame in (base, mine)]
    unscored = np.isnan(values[0]) != np.isnan(values[1])
    both = np.isfinite(ratios[0]) & np.isfinite(ratios[1])
    neither = np.isnan(ratios[0]) & np.isnan(ratios[1])
    change = ratios[1] - ratios[0]
    change = np.where(both, -change if metric.better == "lower" else change, values[1] - values[0])
    letters = np.select(
        [unscored, neither, change > 1e-12, change < -1e-12, np.isnan(change)],
        [UNSCORED, NOTHING, WIN, LOSS, UNSCORED],
        default=SAME,
    )
    return "".join(letters.tolist())


def _column(frame: pd.DataFrame, name: str) -> Any:
    column = f"count_{name}"
    return frame[column].to_numpy(dtype=np.float64) if column in frame else np.zeros(len(frame))


def _counted(codes: str) -> list[int]:
    counts = Counter(codes)
    return [counts[code] for code in (WIN, LOSS, SAME, UNSCORED)]


def _texts(results: Results, row: Row, benchmark: BenchmarkColumns) -> Texts:
    """What the row's first seed said and how it was read, by question; the answers may not be on
    this machine."""
    where = (row.label, row.seeds[0], row.rounds, benchmark.name)
    frame = pd.read_parquet(results.grades(*where) / "grades.parquet")
    names = [name for name in ("read_as", "why", "truth", "wrong") if name in frame]
    told: dict[str, dict[str, Any]] = {
        str(id): dict(zip(names, texts, strict=True))
        for id, *texts in frame[["question", *names]].fillna("").itertuples(index=False, name=None)
    }
    path = results.answers(*where) / "answers.jsonl"
    for line in read_jsonl(path) if path.exists() else []:
        told.setdefault(str(line["id"]), {})["answer"] = line["answer"]
    return told


def _said(ids: Sequence[str], texts: Texts) -> list[list[Any]]:
    """``[answer in pieces [text, wrong], reading, why]`` a question; None for an answer that is not
    kept here."""
    rows: list[list[Any]] = []
    for id in ids:
        one = texts.get(id, {})
        answer = one.get("answer")
        pieces = None if not isinstance(answer, str) else marked(answer, spans(one.get("wrong")))
        rows.append(
            [
                pieces,
                visible(str(one.get("read_as", "")), LONGEST),
                visible(str(one.get("why", "")), LONGEST),
            ]
        )
    return rows


def marked(answer: str, wrong: Sequence[tuple[int, int]]) -> list[list[Any]] | str:
    """The answer, made visible; in pieces ``[text, wrong]`` where something in it is."""
    if not wrong:
        return visible(answer, LONGEST)
    pieces: list[tuple[str, bool]] = []
    place = 0
    for start, end in sorted(wrong):
        if place <= start < end <= len(answer):
            pieces += [(answer[place:start], False), (answer[start:end], True)]
            place = end
    pieces.append((answer[place:], False))
    return [[visible(text, LONGEST), mark] for text, mark in pieces if text]


def _question(
    id: str,
    asked: Mapping[str, Any],
    texts: Texts,
    results: Results,
    benchmark: BenchmarkColumns,
    album: Album,
) -> list[Any]:
    """``[id, text, picture, truth]``."""
    names = asked.get("images") or []
    picture = (
        album.exported(results.questions(benchmark.name) / "images" / str(names[0]))
        if names
        else None
    )
    truth = str(texts.get(id, {}).get("truth", ""))
    return [
        visible(id, 200),
        visible(str(asked.get("text", "")), LONGEST),
        picture,
        visible(truth, LONGEST),
    ]
