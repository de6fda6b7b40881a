"""Measured values beside published ones: the interval decides, by hand-made counts whose interval
is written out independently."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.interface import Metric
from harness.reporting import literature, published_values
from harness.reporting.counts import Counts
from harness.reporting.results import BenchmarkColumns, StudyResults, load_results
from harness.reporting.study_row import Row
from tests.reporting.records import write_study

IMAGES = 100
Published = Callable[..., None]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Write published.csv: (paper, row, benchmark, metric, value)."""
    fields = tuple(literature.Number.__dataclass_fields__)

    def write(*lines: tuple[str, str, str, str, str]) -> None:
        path = tmp_path / "published.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields, restval="x")
            writer.writeheader()
            for paper, row, benchmark, metric, value in lines:
                writer.writerow(
                    {"paper": paper, "row": row, "benchmark": benchmark, "metric": metric}
                    | {"value": value, "base": "llava-1.5-7b"}
                )
        literature.published.cache_clear()

    monkeypatch.setattr(literature, "PUBLISHED", tmp_path / "published.csv")
    yield write  # type: ignore[misc]
    literature.published.cache_clear()


RIGHT = np.random.default_rng(0).binomial(6, 0.85, IMAGES).astype(float)
ASKED = np.full(IMAGES, 6.0)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return load_results(write_study(tmp_path_factory.mktemp("study"), seeds=(0,), images=3))


def study(
    empty: StudyResults,
    base: str = "llava-1.5-7b",
    benchmark: str = "pope",
    metric: str = "accuracy_official",
    images: int = IMAGES,
    rows: Sequence[Row] = (),
    values: Mapping[str, np.ndarray] | None = None,
) -> StudyResults:
    """The untrained base (and more rows) with hand-made counts on one metric."""
    column = Metric(name=metric, better="higher", unit="%", numerator="right", denominator="asked")
    row = replace(empty.base_row, base=base)
    results = replace(
        empty,
        rows=(row, *rows),
        benchmarks=(
            BenchmarkColumns(name=benchmark, group="hallucination", version="1", metrics=(column,)),
        ),
    )
    counts = {
        (one.label, 0, benchmark): Counts(
            seeds=(0,),
            images=tuple(map(str, range(images))),
            questions=tuple(map(str, range(images))),
            sums={
                "right": (values or {}).get(one.label, RIGHT)[None, :images],
                "asked": ASKED[None, :images],
            },
            values=np.ones((1, images)),
        )
        for one in results.rows
    }
    vars(results)["counts"] = counts  # in place of the cached property
    return results


def interval() -> tuple[float, float]:
    """The value and half of its 95 % interval, written out: equal numbers of questions an image,
    and one answer more and one fewer."""
    shares = 100 * RIGHT / 6
    one_count = 100 / (6 * IMAGES)
    half = stats.t.ppf(0.975, IMAGES - 1) * np.sqrt(shares.var(ddof=1) / IMAGES + 2 * one_count**2)
    return float(shares.mean()), float(half)


def test_the_interval_decides(empty: StudyResults, published: Published) -> None:
    value, half = interval()
    inside, outside = f"{value - half:.1f}", f"{value - half - 0.2:.1f}"
    published(
        ("A", "untrained", "pope", "accuracy", inside),
        ("B", "untrained", "pope", "accuracy", outside),
        ("C", "sima", "pope", "accuracy", inside),
    )
    results = study(empty)
    first, second = published_values.values(results)
    assert (first.verdict, second.verdict) == ("agrees", "differs")
    assert first.value == pytest.approx(value)
    assert second.difference == pytest.approx(value - float(outside))
    # Half of the last printed digit is the rounding of the printed number.
    assert second.lo == pytest.approx(value - float(outside) - half - 0.05)
    assert second.hi == pytest.approx(value - float(outside) + half + 0.05)
    [said] = published_values.base_sentences(results, (first, second))
    assert said.startswith("Papers differ about the untrained base llava-1.5-7b")
    assert not published_values.differing(results, (first, second))
    [warning] = published_values.base_sentences(results, (second,))
    assert warning.startswith("WARNING: the untrained base llava-1.5-7b does not have")
    assert f"{outside} in B" in warning
    assert published_values.differing(results, (second,))
    [fine] = published_values.base_sentences(results, (first,))
    assert fine.startswith("The untrained base llava-1.5-7b has its published values: POPE")


def test_chair_counts_the_papers_own_draw_of_images(
    empty: StudyResults, published: Published
) -> None:
    value, half = interval()
    published(("SIMA", "untrained", "chair", "chair_s", "50.0"))
    [found] = published_values.values(study(empty, benchmark="coco_chair", metric="chair_s"))
    assert found.hi - found.lo == pytest.approx(2 * (np.sqrt(2) * half + 0.05))
    assert found.difference == pytest.approx(value - 50)


def test_few_images_and_another_input_tell_nothing(
    empty: StudyResults, published: Published
) -> None:
    published(("A", "untrained", "pope", "accuracy", "20.0"))
    small = study(empty, images=49)
    values = published_values.values(small)
    assert [value.verdict for value in values] == ["cannot be told"]
    [said] = published_values.base_sentences(small, values)
    assert "It cannot be told" in said
    assert "fewer than 50 images" in said
    cropped = study(empty, base="llava-1.5-7b-hf")
    assert published_values.values(cropped) == []
    [said] = published_values.base_sentences(cropped, [])
    assert "not compared with llava-1.5-7b-hf" in said
    assert "take --base llava-1.5-7b" in said
    other = study(empty, base="synthetic")
    assert published_values.values(other) == []
    assert published_values.base_sentences(other, []) == []
    assert published_values.block([]) is None


def test_released_weights_meet_their_papers_row(empty: StudyResults, published: Published) -> None:
    published(
        ("CSR", "csr_round3", "pope", "accuracy", "87.0"),
        ("CSR", "csr", "pope", "accuracy", "86.9"),
        ("CSR", "csr_round2", "pope", "accuracy", "86.8"),
        ("CSR", "untrained", "pope", "accuracy", "85.9"),
    )
    row = replace(
        empty.base_row,
        label="theirs",
        base="data/released/csr",
        method="released",
        role="method",
        settings={"published_base": "llava-1.5-7b", "published_rows": ["csr", "csr_round3"]},
    )
    trained = replace(empty.base_row, label="sima", method="csr", rounds=3, role="method")
    values = published_values.values(study(empty, rows=(row, trained)))
    assert [(value.row.label, value.number.value) for value in values] == [
        ("untrained", "85.9"),
        ("theirs", "87.0"),
        ("theirs", "86.9"),
    ]
    block = published_values.block(values)
    assert block is not None
    assert [line.head for line in block.lines] == ["untrained", "theirs", "theirs"]
