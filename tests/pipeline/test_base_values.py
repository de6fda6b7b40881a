"""The baseline is answered and compared with its published values before anything is trained; a run
goes on after a mismatch unless it was asked to stop."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts.results_folder import Results
from harness.errors import UserError
from harness.pipeline import runner
from harness.pipeline.context import Context
from harness.pipeline.executors import in_process
from harness.pipeline.progress import Display, StudyProgress
from harness.pipeline.tasks import Task
from harness.reporting import literature
from harness.study.study import Study
from tests.pipeline.toy_study import a_study
from tests.toy_method import Words

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A paper prints a number for the untrained tiny base that it cannot have."""
    fields = tuple(literature.Number.__dataclass_fields__)
    path = tmp_path / "published.csv"
    line = {"paper": "A", "row": "untrained", "base": "tiny", "benchmark": "words"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="x")
        writer.writeheader()
        writer.writerow(line | {"metric": "words", "value": "99.5"})
    monkeypatch.setattr(literature, "PUBLISHED", path)
    literature.published.cache_clear()
    yield
    literature.published.cache_clear()


@pytest.fixture
def study(pool: str) -> Study:
    """The toy study with enough images, its trained row before the baseline."""
    toy_study = a_study(pool)
    return replace(toy_study, runs=toy_study.runs[::-1], benchmarks=(Words(pictures=50),))


def recorded(order: list[str]) -> runner.Execute:
    """The usual executor, which also writes down each task's key."""

    def execute(context: Context, tasks: Sequence[Task], shown: StudyProgress) -> list[str]:
        order.extend(task.key for task in tasks)
        return in_process.execute(context, tasks, shown)

    return execute


@pytest.mark.thorough
@pytest.mark.usefixtures("published")
def test_a_mismatch_is_said_first_and_stops_only_where_asked(study: Study, tmp_path: Path) -> None:
    out, said, order = tmp_path / "out", io.StringIO(), list[str]()
    with pytest.raises(UserError, match=r"^Stopped before any training, .* --stop-on-mismatch"):
        runner.run(
            Context(study, Results(out)), Display(said), recorded(order), stop_on_mismatch=True
        )
    assert "WARNING: the untrained base tiny does not have its published values" in said.getvalue()
    assert "99.5 in A" in said.getvalue()
    assert [key.rpartition("/")[0] for key in order] == [
        "export",
        "answer/untrained/seed0/round0",
        "grade/untrained/seed0/round0",
    ]
    said = io.StringIO()
    assert runner.run(Context(study, Results(out)), Display(said), recorded(order)) == []
    text = said.getvalue()
    assert text.index("WARNING: the untrained base tiny") < text.index("done in")
    assert (Results(out).grades("toy", 0, 1, "words") / "DONE").exists()
    assert order.count("answer/untrained/seed0/round0/words") == 1  # kept


def test_without_published_values_nothing_comes_first(study: Study) -> None:
    assert not runner.has_published_values(study)
