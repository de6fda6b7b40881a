"""The page's questions: the answers of every row to the same question, and where a row is better or
worse than the baseline.

Wins and losses are counted over all questions. The questions themselves are those of a sample of
images, drawn by a hash of their id, so that all rows and benchmarks show the same images. Texts are
untrusted: they are made visible here and inserted as text by the page's script."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.interface import Metric
from harness.artifacts.results_folder import read_jsonl
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import display_name, row_name, with_trainer
from harness.reporting.figures.examples import wrong_spans
from harness.reporting.page.images import Album
from harness.reporting.page.texts import visible
from harness.reporting.results import GRADE_KEYS, BenchmarkColumns, StudyResults
from harness.reporting.stats import Floats, ratio
from harness.reporting.stored import TEXTS, image_file, read_parquet
from harness.reporting.study_row import Row

IMAGES = 200
"""Images of a benchmark in a page at most."""
IMAGES_TIMES_ROWS = 1500
"""Images x rows at most: a study with many rows shows fewer images."""
LONGEST = 2000
"""Characters of an answer at most."""
WIN, LOSS, SAME, UNSCORED, NOTHING = "wls?-"
"""A question's outcome in a metric against the baseline: better, worse (higher, lower for a metric
without direction), equal, unscored in one of the two, not counted by the metric."""

Texts = Mapping[str, Mapping[str, Any]]
"""By question: the answer, how it was read, why, the truth, and the places of wrong words."""


def collect(
    study: StudyResults, cells: Sequence[MetricResult], album: Album
) -> list[dict[str, Any]]:
    """One entry a graded benchmark, as JSON for the page."""
    last = [cell for cell in cells if cell.last]
    entries = (_Reader(study, benchmark, last).entry(album) for benchmark in study.benchmarks)
    return [entry for entry in entries if entry is not None]


class _Reader(NamedTuple):
    """Reads one benchmark's questions, answers and grades."""

    study: StudyResults
    benchmark: BenchmarkColumns
    cells: Sequence[MetricResult]
    """The results of the last rounds, of all benchmarks."""

    def entry(self, album: Album) -> dict[str, Any] | None:
        """The benchmark with the questions of a sample of its images; None: not graded."""
        study, benchmark, stored = self.study, self.benchmark, self.study.stored
        base = self.graded(study.base_row)
        if base is None:
            return None
        max_clusters = max(10, min(IMAGES, IMAGES_TIMES_ROWS // len(study.rows)))
        clusters = sorted(
            set(base["cluster"]), key=lambda id: hashlib.sha256(str(id).encode()).digest()
        )
        shown_clusters = set(clusters[:max_clusters])
        ids = [str(id) for id in base.index[base["cluster"].isin(shown_clusters)]]
        covered = (row for row in study.compared if row.covers(benchmark.name))
        rows = [entry for row in covered if (entry := self.row(row, base, ids)) is not None]
        if not rows:
            return None
        folder = stored.folder(stored.results.questions(benchmark.name))
        questions = {str(row["id"]): row for row in _lines(folder / "questions.jsonl")}
        texts = self.texts(study.base_row)
        headings = {cell.metric: cell.heading for cell in self.results()}
        return {
            "name": visible(display_name(benchmark.name), 200),
            "baseline": visible(study.baseline, 200),
            "metrics": [
                {
                    "heading": headings.get(metric.name, metric.name),
                    "directed": metric.better != "none",
                    "primary": metric.primary,
                }
                for metric in benchmark.metrics
            ],
            "images": [len(shown_clusters), len(clusters)],
            "total": len(base),
            "questions": [
                _question(id, questions.get(id, {}), texts, folder / "images", album) for id in ids
            ],
            "base": _answers(ids, texts),
            "rows": rows,
        }

    def results(self) -> list[MetricResult]:
        return [cell for cell in self.cells if cell.benchmark == self.benchmark.name]

    def row(self, row: Row, base: pd.DataFrame, ids: Sequence[str]) -> dict[str, Any] | None:
        """A row's answers and outcomes; None: it answered other questions than the baseline."""
        grades = self.graded(row)
        if grades is None or not grades.index.equals(base.index):
            return None
        codes = [outcomes(metric, base, grades) for metric in self.benchmark.metrics]
        indices = base.index.get_indexer(pd.Index(ids))
        reached = [cell.reached_by for cell in self.results() if cell.label == row.label]
        kinds = (WIN, LOSS, SAME, UNSCORED)
        return {
            "label": visible(with_trainer(row_name(row.label), row.trainer), 200),
            "seed": row.seeds[0],
            "seeds": len(row.seeds),
            "answers": _answers(ids, self.texts(row)),
            "codes": ["".join(letters[index] for letters in codes) for index in indices],
            "counts": [[Counter(letters)[kind] for kind in kinds] for letters in codes],
            "reached": [[visible(row_name(name), 200) for name in names] for names in reached],
        }

    def graded(self, row: Row) -> pd.DataFrame | None:
        """The grades of the first seed's last round, by question; None: there are none."""
        keys = self.study.grades[GRADE_KEYS] == [*self._where(row)]
        grades = self.study.grades[keys.all(axis=1)]
        return None if grades.empty else grades.set_index("question").sort_index()

    def texts(self, row: Row) -> Texts:
        """The texts of the first seed's last round. The answers may not be on this machine."""
        stored, where = self.study.stored, self._where(row)
        frame = read_parquet(stored.folder(stored.results.grades(*where)) / "grades.parquet")
        names = [name for name in TEXTS if name in frame]
        lines = frame[["question", *names]].fillna("").itertuples(index=False, name=None)
        texts: dict[str, dict[str, Any]] = {
            str(id): dict(zip(names, values, strict=True)) for id, *values in lines
        }
        for line in _lines(stored.folder(stored.results.answers(*where)) / "answers.jsonl"):
            texts.setdefault(str(line["id"]), {})["answer"] = line["answer"]
        return texts

    def _where(self, row: Row) -> tuple[str, int, int, str]:
        return row.label, row.seeds[0], row.rounds, self.benchmark.name


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.exists() else []


def outcomes(metric: Metric, base: pd.DataFrame, grades: pd.DataFrame) -> str:
    """One letter a question: ``grades`` against ``base``, by the question's own ratio. Where only
    one side has a ratio (a caption without objects, an answer that is not "yes"), the question's
    own score decides."""
    before, after = (_question_ratios(metric, frame) for frame in (base, grades))
    values = [frame["value"].to_numpy(dtype=np.float64) for frame in (base, grades)]
    unscored = np.isnan(values[0]) != np.isnan(values[1])
    both_finite = np.isfinite(before) & np.isfinite(after)
    neither = np.isnan(before) & np.isnan(after)
    change = before - after if metric.better == "lower" else after - before
    change = np.where(both_finite, change, values[1] - values[0])
    letters = np.select(
        [unscored, neither, change > 1e-12, change < -1e-12, np.isnan(change)],
        [UNSCORED, NOTHING, WIN, LOSS, UNSCORED],
        default=SAME,
    )
    return "".join(letters.tolist())


def _question_ratios(metric: Metric, frame: pd.DataFrame) -> Floats:
    """Each question's own value; nan where the denominator is zero."""
    zeros = np.zeros(len(frame))
    counts = (frame.get(f"count_{name}", zeros) for name in (metric.numerator, metric.denominator))
    return ratio(np.stack([np.asarray(column, np.float64) for column in counts], axis=-1), 1.0)


def _answers(ids: Sequence[str], texts: Texts) -> list[list[Any]]:
    """``[answer in pieces [text, wrong], reading, why]`` for each question; None for an answer that
    is not stored."""
    rows: list[list[Any]] = []
    for id in ids:
        fields = texts.get(id, {})
        answer = fields.get("answer")
        pieces = (
            marked(answer, wrong_spans(fields.get("wrong"))) if isinstance(answer, str) else None
        )
        notes = (visible(str(fields.get(name, "")), LONGEST) for name in ("read_as", "why"))
        rows.append([pieces, *notes])
    return rows


def marked(answer: str, wrong: Sequence[tuple[int, int]]) -> list[list[Any]] | str:
    """The answer, made visible; as pieces ``[text, wrong]`` if anything in it is wrong."""
    if not wrong:
        return visible(answer, LONGEST)
    pieces: list[tuple[str, bool]] = []
    position = 0
    for start, end in sorted(wrong):
        if position <= start < end <= len(answer):
            pieces += [(answer[position:start], False), (answer[start:end], True)]
            position = end
    pieces.append((answer[position:], False))
    return [[visible(text, LONGEST), mark] for text, mark in pieces if text]


def _question(
    id: str, question: Mapping[str, Any], texts: Texts, images: Path, album: Album
) -> list[Any]:
    """``[id, text, image, truth]``."""
    names = question.get("images") or []
    return [
        visible(id, 200),
        visible(str(question.get("text", "")), LONGEST),
        album.exported(image_file(images, names[0])) if names else None,
        visible(str(texts.get(id, {}).get("truth", "")), LONGEST),
    ]
