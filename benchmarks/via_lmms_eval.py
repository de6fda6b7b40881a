"""lmms-eval (EvolvingLMMs-Lab/lmms-eval) behind the interface of a benchmark: any of its image
tasks, our answers.

The kit lives in its own environment (``nox -s toolkit_lmms_eval``). ``via_lmms_eval_child.py`` runs
there. Questions and images come out as files, answers go in, results come back.

- From the kit: prompts, images, the reading and score of each answer, totals.
- From us: greedy decoding of at most the task's ``max_new_tokens``; the task's stop strings, which
  cut the stored answer (greedy decoding gives the same text up to there); and the counts
  (``via_lmms_eval_counts``), ratios of which give the totals, so that images can be resampled. The
  kit's own totals are in the report as ``lmms_eval:<metric>``; they count a missing answer as an
  empty one.

Local data are a folder with a copy of the task's data set repository, README.md included (it names
configurations and splits), or one data file, taken as the task's only split. Without local data the
kit loads from the hub or its cache.

A judge is never left out silently. If a task asks one, its key must be set and it must answer
before any grading, and a failed judgement ends the grading. The kit sends these requests itself, so
they are neither recorded nor replayed."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmarks import files, grading
from benchmarks import via_lmms_eval_run as run
from benchmarks.interface import Grade, Group, Metric, Question, Report, report
from benchmarks.synthetic import suite
from benchmarks.via_lmms_eval_counts import Counting, Reading, check
from benchmarks.via_lmms_eval_run import JUDGE, JUDGED, Row
from benchmarks.via_lmms_eval_tasks import counting

RULES_VERSION = "1"
MAX_NEW_TOKENS = 1024
"""For a task without a bound: the bound of the kit's LLaVA."""
HALLUCINATION = ("pope", "amber", "coco_cap_chair", "hallusion", "synthetic_pope")
"""How the names of tasks about hallucination begin."""


def benchmark(task: str, split: str, limit: int | None, data: Path | None = None) -> ViaLmmsEval:
    """One of the kit's image tasks (``pope``, ``mme``, ``scienceqa_img`` ...), or one on synthetic
    images (``synthetic_pope``, ``synthetic_vqa``).

    ``limit``: at most so many images, chosen by a hash, each with all its questions. ``data``: a
    folder with a copy of the data set's repository (or one that holds it under its hub name), or
    one .parquet or .jsonl file; None: the hub's. The synthetic tasks draw their own images.

    Raises:
        ValueError: no such task, no task with written answers, a split other than test, unusable
            data, or the kit is not installed.
    """
    is_drawn = run.is_drawn(task)
    if not is_drawn:
        grading.only_test_split(f"lmms_eval:{task}", split)
    grading.check_limit(limit)
    if is_drawn and data is not None:
        raise ValueError(
            f"lmms_eval:{task} draws its own images and reads no file; leave {data} out."
        )
    config = run.describe(task, run.python())
    if config["output_type"] != "generate_until":
        raise ValueError(
            f"lmms_eval:{task} wants {config['output_type']}; only tasks with one written answer"
            " (generate_until) can be asked."
        )
    if data is not None:
        repository = data / str(config["dataset_path"])
        data = repository if repository.is_dir() else data
        run.check_data(task, data)
    return ViaLmmsEval(task=task, split=split, limit=limit, data=data, config=config)


@dataclass(frozen=True, kw_only=True)
class ViaLmmsEval:
    """One of the kit's tasks. ``config``: its YAML's settings and fingerprint."""

    task: str
    split: str
    limit: int | None
    data: Path | None
    config: Row

    source = ""  # the version does not separate questions from grading

    @property
    def name(self) -> str:
        """Its name in the results folder; a colon cannot be in a folder's name."""
        return f"lmms_eval.{self.task}"

    @property
    def group(self) -> Group:
        return "hallucination" if self.task.startswith(HALLUCINATION) else "general"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.counting.metrics

    @cached_property
    def counting(self) -> Counting:
        return counting(self.task, self.config["metrics"])

    @cached_property
    def version(self) -> str:
        """Versions of kit, task and our counting, a hash of the task's files, the local data's
        content, the judge."""
        data = f"data-{run.fingerprint(self.data)}" if self.data else self.config["dataset_path"]
        if run.is_drawn(self.task):
            data = f"{suite.SOURCE}-{self.split}"
        judge = f" judge-{os.environ.get('MODEL_VERSION', JUDGE)}" if self.task in JUDGED else ""
        task_version = f"{self.config['task'] or 'none'}-{self.config['fingerprint']}"
        return (
            f"lmms-eval-{self.config['kit']} {self.task}-{task_version} {data}"
            f" rules-{RULES_VERSION}{judge}"
        )

    @cached_property
    def _folder(self) -> Path:
        """The folder of the questions' images, as long as the benchmark exists."""
        folder = Path(tempfile.mkdtemp(prefix="selfsight-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The questions as the kit asks them; it is asked for them once."""
        reply = self._run(self._folder, {"do": "export", "limit": self.limit})
        if not reply["rows"]:
            raise ValueError(f"lmms_eval:{self.task} gave no question.")
        return tuple(reply["rows"])

    def questions(self) -> Iterator[Question]:
        """The kit's own prompts and images, in the order of its documents.

        Raises:
            ValueError: rows of the data cannot be asked; each is named by its number.
        """
        for row in self.rows:
            paths = [self._folder / "images" / name for name in row["images"]]
            yield Question(
                id=_question_id(row),
                images=tuple(map(files.open_image, paths)),
                text=row["text"],
                max_new_tokens=row["max_new_tokens"] or MAX_NEW_TOKENS,
                cluster=row["cluster"],
            )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """The kit's evaluation of these answers. Missing and empty answers are unscored here.

        Raises:
            ValueError: an answer belongs to no question, a judge cannot be asked or failed, or the
                kit cannot grade.
        """
        grading.check_answers(answers, map(_question_id, self.rows))
        environment = run.judge_environment(self.task)
        cut_answers = [
            cut_at_stop(answers.get(_question_id(row), ""), row["until"]) for row in self.rows
        ]
        request = {
            "do": "grade",
            "docs": [row["doc"] for row in self.rows],
            "answers": [without_controls(text)[0] for text in cut_answers],
        }
        with tempfile.TemporaryDirectory(prefix="selfsight-") as folder:
            reply = self._run(Path(folder), request, environment)
        our_report = report(self.metrics, self._grades(answers, cut_answers, reply))
        totals = {f"lmms_eval:{name}": total for name, total in reply["totals"].items()}
        return replace(our_report, values={**our_report.values, **totals})

    def estimate(self, answers: Mapping[str, str]) -> None:
        """None: requests to a judge are the kit's own and are not counted here."""

    def _grades(self, answers: Mapping[str, str], texts: Sequence[str], reply: Row) -> list[Grade]:
        """Grades in the questions' order, after a check that the counts give the kit's totals."""
        rows, counting = self.rows, self.counting
        results = [row["metrics"] for row in reply["rows"]]
        if [row["doc"] for row in reply["rows"]] != [row["doc"] for row in rows]:
            raise ValueError(
                f"lmms-eval graded {len(results)} rows of {len(rows)}, or in another order; nothing"
                " was graded."
            )
        single_readings = [counting.read(result) for result in results]
        all_readings = counting.add_group_counts(results, single_readings, reply["choices"])
        if failures := [reading.judge_failure for reading in all_readings if reading.judge_failure]:
            raise ValueError(
                f"The judge of lmms_eval:{self.task} gave no judgement on {len(failures)} of"
                f" {len(rows)} answers (first: {failures[0]}); the kit would have made one up. The"
                " answers are kept: grade again when the judge answers."
            )
        check(counting, [reading.counts for reading in all_readings], reply["totals"])
        # The kit took a missing answer for an empty one; here it adds to no count.
        missing = [_question_id(row) not in answers for row in rows]
        kept_readings = [
            Reading(value=None, counts={}, truth=reading.truth) if is_missing else reading
            for reading, is_missing in zip(single_readings, missing, strict=True)
        ]
        readings = counting.add_group_counts(results, kept_readings, reply["choices"])
        return [
            _grade(row, reading, None if is_missing else text)
            for row, reading, text, is_missing in zip(rows, readings, texts, missing, strict=True)
        ]

    def _run(self, folder: Path, request: Row, environment: Mapping[str, str] | None = None) -> Row:
        """Ask the kit, with the data in ``folder`` under the name that the task asks for."""
        local = self.data
        if run.is_drawn(self.task):
            # Imported here: it needs pyarrow, which is large.
            from benchmarks.synthetic.lmms_eval.data import write

            local = write(self.task, folder / "drawn", self.split, self.limit)
        # Judged tasks make their client when they are loaded and fail without a key, though
        # exporting needs none.
        variables = {} if os.environ.get("OPENAI_API_KEY") else {"OPENAI_API_KEY": "none-is-needed"}
        if local is not None:
            run.link_data(local, folder / self.config["dataset_path"], self.config)
            variables |= {
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
                # The kit's own cache would keep a copy of every folder.
                "LMMS_EVAL_DATASETS_CACHE": str(folder / "cache"),
            }
        task_fields = {
            "task": self.task,
            "folder": self.config["folder"],
            "local": local is not None,
        }
        try:
            return run.ask(
                folder,
                {**request, **task_fields},
                run.python(),
                {**variables, **(environment or {})},
            )
        except ValueError as error:
            data_note = f" (data: {self.data})" if self.data is not None else ""
            raise ValueError(f"lmms_eval:{self.task}{data_note}: {error}") from error


def _grade(row: Row, reading: Reading, answer: str | None) -> Grade:
    """The grade of an answer (None: there is none)."""
    why, value = reading.why, reading.value
    if answer is None:
        why, value = "no answer", None
    elif not answer.strip():
        why, value = "empty answer", None
    controls = without_controls(answer or "")[1]
    note = f"{controls} control characters taken out for the kit" if controls else ""
    return Grade(
        question=_question_id(row),
        cluster=row["cluster"],
        value=value,
        read_as=reading.read_as,
        why="; ".join(text for text in (why, note) if text),
        counts=reading.counts,
        truth=reading.truth or row["target"],
    )


def _question_id(row: Row) -> str:
    return f"{row['doc']:06d}"


def cut_at_stop(answer: str, until: Sequence[str]) -> str:
    """The answer up to the first stop string of the task."""
    positions = [answer.find(stop) for stop in until if stop in answer]
    return answer[: min(positions)] if positions else answer


def without_controls(text: str) -> tuple[str, int]:
    """The text with blanks for control characters, and their number. MMBench writes a spreadsheet,
    whose library refuses them."""
    controls = [
        character for character in text if ord(character) < 32 and character not in "\n\r\t"
    ]
    return "".join(" " if character in controls else character for character in text), len(controls)
