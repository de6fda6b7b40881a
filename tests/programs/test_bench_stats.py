"""The bench of the statistics in small: its pieces on simulated trainings, and its packed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.reporting.results import load_results
from tests.benches import bench_stats
from tests.benches.packed_trainings import Trainings, pack, unpack
from tests.reporting.records import write_study


@pytest.fixture(scope="module")
def trainings() -> Trainings:
    """Twelve trainings whose spread is mostly over trainings, as POPE's is."""
    rng = np.random.default_rng(0)
    counts, base = bench_stats.simulated(rng, 12, 1000, training=0.4, interaction=0.2)
    return Trainings(
        benchmark="b", metric="m", primary=True, scale=100.0, rows={"sena": counts}, base=base
    )


def test_trainings_of_one_method_seldom_differ_and_images_alone_say_they_do(
    trainings: Trainings,
) -> None:
    both, alone = bench_stats.false_alarms(trainings.rows["sena"], 100.0, 3, draws=150)
    # Twelve trainings: the standard error of the share is about 3 points.
    assert both < 0.12
    assert alone > both + 0.2
    assert bench_stats.family_errors([trainings], 3, draws=100) == pytest.approx(both, abs=0.1)


def test_the_interval_holds_the_mean_of_all_trainings(trainings: Trainings) -> None:
    held = bench_stats.coverage(trainings.rows["sena"], trainings.base, 100.0, 3, draws=150)
    assert held > 0.9


def test_the_interval_keeps_its_level_whatever_the_parts_and_satterthwaites_does_not() -> None:
    used, other = zip(
        *(
            bench_stats.normal_alarms(seeds, share, 0.05, 20_000)
            for seeds in (2, 3, 5)
            for share in (0.02, 0.5, 0.9, 0.98)
        ),
        strict=True,
    )
    assert max(used) < 0.05 + 3 * (0.05 * 0.95 / 20_000) ** 0.5
    assert max(other) > 0.1


@pytest.mark.thorough
def test_pooling_spreads_over_rows_fails_the_widest_row() -> None:
    moderated, alone = bench_stats.moderated_alarms(bench_stats.REFERENCE_SPREADS, 3, 1500)
    assert moderated[np.argmax(bench_stats.REFERENCE_SPREADS)] > 0.09
    assert alone.max() < 0.07


@pytest.mark.thorough
def test_packed_counts_are_those_of_the_folder(tmp_path: Path) -> None:
    out = write_study(tmp_path / "study", seeds=range(4), images=20)
    pack(out, tmp_path / "counts.parquet")
    study = load_results(out)
    made = unpack(tmp_path / "counts.parquet")
    assert {(part.benchmark, part.metric) for part in made} == {
        (benchmark.name, metric.name)
        for benchmark in study.benchmarks
        for metric in benchmark.metrics
        if metric.better != "none"
    }
    for part in made:
        metric = study.benchmark(part.benchmark).metric(part.metric)
        for label, rounds in (("sena", 1), ("sima", 1)):
            terms = study.counts[label, rounds, part.benchmark].terms(metric)
            assert np.array_equal(part.rows[label], terms)
        assert np.array_equal(part.base, study.counts["untrained", 0, part.benchmark].terms(metric))
    shown = bench_stats.found_share(made[0].rows["sena"], made[0].base, 100.0, 3, 20, 0.05)
    assert 0 <= shown <= 1


@pytest.mark.thorough
def test_the_bench_prints_all_of_it(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_stats.print_real([trainings], draws=5)
    text = capsys.readouterr().out
    for words in ("false alarms", "any false alarm in the family", "power against the baseline"):
        assert words in text
