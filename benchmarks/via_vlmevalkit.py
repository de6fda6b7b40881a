"""VLMEvalKit (open-compass/VLMEvalKit) behind the interface of a benchmark: its prompts, its
grading, our answers.

The kit lives in an environment of its own (``nox -s toolkit_vlmevalkit``) and is run there, for a
moment, by
``via_vlmevalkit_child.py``; files pass between us: questions out, answers in. Its data set files
come from the user: a folder with ``<NAME>.tsv`` (the kit's ``LMUData``), read by
``via_vlmevalkit_tsv`` first.

What is the kit's: the text of the prompt, the reading of each answer, right or wrong, its totals.
What is ours: the decoding (greedy, at most ``MAX_NEW_TOKENS``; the kit gives each model wrapper
settings and prompts of its own), the metrics' names (its "Overall" is F1 for POPE and accuracy
elsewhere), and that every metric is recomputed from the rows and must equal the kit's own total.
The kit's totals stand in the report under ``vlmevalkit:`` and their own names.

A judge is never left out silently. Where a data set's rule asks a language model about an answer
that cannot be read, its name says who does: ``MMBench_DEV_EN+exact_matching`` (nobody: such an
answer is wrong) or ``MMBench_DEV_EN+gpt-4o-mini``."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from benchmarks import grading
from benchmarks.interface import Grade, Metric, Question, Report, report
from benchmarks.via_vlmevalkit_families import FAMILIES, Counts, Family, Reading
from benchmarks.via_vlmevalkit_tsv import Row, read

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("via_vlmevalkit_child.py")
VARIABLE = "SELFSIGHT_VLMEVALKIT_PYTHON"
RULES_VERSION = "1"
MAX_NEW_TOKENS = 128
EXACT = "exact_matching"
KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "LOCAL_LLM")
_CIRCLE = 1_000_000
"""The kit numbers the rotations of question i as i + 10^6, i + 2 * 10^6, ..."""


def benchmark(
    dataset: str, split: str, limit: int | None, data: Path | None = None
) -> ViaVlmevalkit:
    """The kit's data set (``POPE``, ``MME``, ``MMBench_DEV_EN+exact_matching``, ...) on the file
    below ``data``.

    ``limit``: at most so many images, chosen by a hash, each with all its questions.

    Raises:
        ValueError: no such data set, a split other than test, no folder or a file that cannot be
            used, a judge that is not named or has no key, or the kit is not installed.
    """
    name, _, judge = dataset.partition("+")
    if name not in FAMILIES:
        raise ValueError(
            f"VLMEvalKit's {name!r} is not among those that are graded row by row:"
            f" {', '.join(FAMILIES)}."
        )
    grading.only_test_split(f"vlmevalkit:{dataset}", split)
    if limit is not None and limit < 1:
        raise ValueError(
            f"A benchmark's limit is {limit} images; it must be at least 1, or None for all."
        )
    _check_judge(name, judge, FAMILIES[name])
    if data is None:
        raise ValueError(
            f"vlmevalkit:{dataset} needs a folder that holds {name}.tsv (the kit's LMUData); give"
            " it as its data."
        )
    python()
    found = ViaVlmevalkit(dataset=name, judge=judge, limit=limit, file=data / f"{name}.tsv")
    _ = found.rows
    return found


def _check_judge(name: str, judge: str, family: Family) -> None:
    if family.judge and not judge:
        raise ValueError(
            f"vlmevalkit:{name} asks a judge about answers that name no option; say which:"
            f" {name}+{EXACT} (no judge, such an answer is wrong) or {name}+<model> with a key in"
            " OPENAI_API_KEY."
        )
    if judge and not family.judge:
        raise ValueError(f"vlmevalkit:{name} needs no judge; ask for it without +{judge}.")
    if judge not in ("", EXACT) and not any(os.environ.get(key) for key in KEYS):
        raise ValueError(
            f"vlmevalkit:{name}+{judge} needs the judge's key in OPENAI_API_KEY (its address, if it"
            " is not OpenAI's, in OPENAI_API_BASE); without one the kit would quietly use exact"
            f" matching: ask for {name}+{EXACT} if that is meant."
        )


@dataclass(frozen=True, kw_only=True)
class ViaVlmevalkit:
    """One of the kit's data sets on a user's file. ``judge``: "" (none needed), exact_matching, or
    a model's name."""

    dataset: str
    judge: str
    limit: int | None
    file: Path

    @property
    def name(self) -> str:
        """As the results folder names it (a colon would be none of a folder's letters)."""
        return f"vlmevalkit.{self.dataset}" + (f"+{self.judge}" if self.judge else "")

    @property
    def group(self) -> Literal["hallucination", "general"]:
        return self.family.group

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.family.metrics

    @property
    def family(self) -> Family:
        return FAMILIES[self.dataset]

    @cached_property
    def version(self) -> str:
        """The kit's commit, the data set, its file's content, our counting, the cap on tokens and
        the judge."""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()[:12]
        judge = f" judge-{self.judge}" if self.judge else ""
        return (
            f"vlmevalkit-{commit(python())} {self.dataset}-{digest} rules-{RULES_VERSION}"
            f" tokens-{MAX_NEW_TOKENS}{judge}"
        )

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The questions asked, in the file's order; the rotations of a question count as one
        image's.

        Raises:
            ValueError: the file cannot be used; every trouble is named by its line.
        """
        rows = read(self.file, self.family.needed)
        if allowed := self.family.answers:
            wrong = [row for row in rows if row.cells["answer"] not in allowed]
            if wrong:
                raise ValueError(
                    f"{self.file}: {len(wrong)} answers are not {' or '.join(allowed)}, first"
                    f" {wrong[0].place} ({wrong[0].cells['answer'][:20]!r}); the kit compares"
                    " letter by letter and would call every reply wrong."
                )
        if self.family.circular:
            first = {row.index: row for row in rows}
            lone = [row for row in rows if not row.index.isdigit() or _group(row) not in first]
            if lone:
                raise ValueError(
                    f"{lone[0].place}: the index {lone[0].index} is no rotation of a question of"
                    f" {self.file}."
                )
        if self.limit is None:
            return tuple(rows)
        kept = set(grading.shuffled({row.cluster for row in rows}, "limit")[: self.limit])
        groups = (
            {_group(row) for row in rows if row.cluster in kept} if self.family.circular else set()
        )
        return tuple(
            row for row in rows if row.cluster in kept or (groups and _group(row) in groups)
        )

    def questions(self) -> Iterator[Question]:
        """The kit's own prompts.

        Raises:
            ValueError: the kit fails (with its last words), or a prompt has text before an image.
        """
        cluster = {row.index: row.cluster for row in self.rows}
        with _folder(self.file) as folder:
            reply = _ask(
                folder,
                "export",
                {"dataset": self.dataset, "indices": [row.index for row in self.rows]},
            )
            for row in reply["rows"]:
                kinds = [part["type"] for part in row["parts"]]
                if sorted(kinds) != kinds:  # "image" before "text"
                    raise ValueError(
                        f"vlmevalkit:{self.dataset}, index {row['index']}: text before an image"
                        " cannot be asked."
                    )
                images = tuple(
                    _picture(part["value"]) for part in row["parts"] if part["type"] == "image"
                )
                yield Question(
                    id=row["index"],
                    images=images,
                    text="\n".join(
                        part["value"] for part in row["parts"] if part["type"] == "text"
                    ),
                    max_new_tokens=MAX_NEW_TOKENS,
                    cluster=cluster[row["index"]],
                )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """A grade a row, in the file's order, from the kit's own ``evaluate``. An answer that the
        kit cannot read is unscored, and in the metrics what the kit makes of it: wrong.

        Raises:
            ValueError: an answer belongs to no question, the kit fails, or its totals are not those
                of its rows.
        """
        asked = {row.index: row for row in self.rows}
        if strange := [index for index in answers if index not in asked]:
            raise ValueError(
                f"There is no question {strange[0]!r} for an answer ({len(strange)} such answers);"
                " grade the answers of this benchmark, split and limit."
            )
        why_not = _left_out(self.rows, answers, self.family.circular)
        sent = {index: tame(answers[index]) for index in asked if index not in why_not}
        readings: Mapping[str, Reading] = {}
        reply: dict[str, Any] = {"totals": None, "seen": {}, "trouble": ""}
        if sent:
            with _folder(self.file) as folder:
                request = {
                    "dataset": self.dataset,
                    "answers": sent,
                    "judge": self.judge,
                    "family": self.family.reader,
                }
                reply = _ask(folder, "grade", request)
            readings = reply["rows"]
        if lost := [index for index in sent if index not in readings]:
            raise ValueError(
                f"VLMEvalKit graded no row {lost[0]!r} of {self.dataset} ({len(lost)} such rows)."
            )
        graded = [row for row in self.rows if row.index in sent]
        counts = self.family.count(graded, readings)
        grades = []
        for row in self.rows:
            if row.index in why_not:
                why = why_not[row.index]
                grades.append(
                    Grade(question=row.index, cluster=row.cluster, value=None, read_as="", why=why)
                )
            else:
                seen = reply["seen"][row.index]
                grades.append(
                    self._grade(
                        row, readings[row.index], counts[row.index], answers[row.index], seen
                    )
                )
        made = report(self.metrics, grades)
        theirs = self._totals(reply, made, whole=self.limit is None and not why_not)
        return Report(values={**made.values, **theirs}, grades=made.grades, unscored=made.unscored)

    def _grade(self, row: Row, reading: Reading, counts: Counts, answer: str, seen: str) -> Grade:
        read_as = str(reading["read_as"])
        own = reading["alone"] if "alone" in reading else reading["hit"]
        unread = read_as in self.family.unread or not answer.strip()
        notes = ["the kit reads nothing in it and counts it as wrong"] if unread else []
        notes += ["control characters were handed on as blanks"] if tame(answer) != answer else []
        notes += [f"the kit took it for {seen!r}"] if seen != tame(answer) else []
        truth = row.cells["answer"]
        notes += [f"the answer is {truth}"] if not own else []
        return Grade(
            question=row.index,
            cluster=row.cluster,
            value=None if unread else float(own),
            read_as="" if unread else read_as,
            why="; ".join(notes),
            counts=counts,
            truth=(
                f"{truth}: {row.cells[truth]}"
                if len(truth) == 1 and row.cells.get(truth)
                else truth
            ),
        )

    def _totals(
        self, reply: Mapping[str, Any], made: Report, *, whole: bool
    ) -> dict[str, float | None]:
        """The kit's totals under their own names, after seeing that ours are the same numbers."""
        if reply["trouble"]:
            # Its totals want every category and both questions of each image: a part of the data
            # has none.
            if whole:
                raise ValueError(
                    f"VLMEvalKit gave no totals for {self.dataset}: {reply['trouble']}."
                )
            warnings.warn(
                f"VLMEvalKit gives no totals for this part of {self.dataset} ({reply['trouble']});"
                " it graded the rows, the metrics are of the categories that are there.",
                stacklevel=2,
            )
        theirs: dict[str, float | None] = {}
        for number, total in enumerate(reply["totals"] or []):
            split = total.get("split", "none" if number == 0 else str(number))
            for column, value in total.items():
                if column != "split" and isinstance(value, float):
                    theirs[
                        f"vlmevalkit:{column}"
                        + ("" if split in ("none", "Overall") else f"|{split}")
                    ] = value
        lone = len(reply["totals"] or []) == 1
        for metric, (column, split, factor) in self.family.totals.items():
            for total in reply["totals"] or []:
                if column in total and (total.get("split") == split or (split is None and lone)):
                    ours = made.values[metric] or 0.0
                    if abs(ours - factor * total[column]) > 1e-6 * max(1.0, abs(ours)):
                        raise ValueError(
                            f"{metric} of {self.dataset} is {ours} by the kit's rows and"
                            f" {factor * total[column]} by its total {column}; the two must agree:"
                            " this version of the kit counts in another way."
                        )
        return theirs


def _group(row: Row) -> str:
    return row.cells.get("g_index") or str(int(row.index) % _CIRCLE)


def _left_out(rows: Sequence[Row], answers: Mapping[str, str], circular: bool) -> dict[str, str]:
    """The rows that are not handed to the kit, and why. In circular evaluation the kit would call a
    group right whose missing rotations it never sees, so such a group is left out whole."""
    missing = {row.index: "no answer" for row in rows if row.index not in answers}
    if not circular:
        return missing
    short = Counter(_group(row) for row in rows if row.index in missing)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[_group(row)].append(row.index)
    together = {
        index: f"no answer to {count} of the {len(groups[group])} rotations of its question"
        for group, count in short.items()
        for index in groups[group]
    }
    return {**together, **missing}


def tame(answer: str) -> str:
    """The answer without what a TSV file cannot carry: control characters (but line feed and tab)
    and lone surrogates become blanks."""
    return "".join(
        (
            " "
            if (character < " " and character not in "\n\t")
            or character == "\x7f"
            or "\ud800" <= character <= "\udfff"
            else character
        )
        for character in answer
    )


def _picture(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@cache
def commit(interpreter: Path) -> str:
    """The kit's installed commit, 12 digits (``+changed`` if its files were edited)."""
    with tempfile.TemporaryDirectory(prefix="selfsight-vlmevalkit-") as name:
        whole = str(_ask(Path(name), "version", {}, interpreter)["commit"])
    return whole[:12] + ("+changed" if whole.endswith("+changed") else "")


def python() -> Path:
    """The interpreter of the kit's environment.

    Raises:
        ValueError: there is none.
    """
    named = os.environ.get(VARIABLE)
    found = [Path(named)] if named else sorted(ROOT.glob(".nox/toolkit?vlmevalkit*/bin/python"))
    if not found or not found[0].exists():
        where = (
            f"{VARIABLE} names {named}, which is not there"
            if named
            else "VLMEvalKit is not installed"
        )
        raise ValueError(
            f"{where}; make its environment with: python -m nox -s toolkit_vlmevalkit (or set"
            f" {VARIABLE} to its python)."
        )
    return found[0]


@contextmanager
def _folder(file: Path) -> Iterator[Path]:
    """A folder for one conversation. It is the kit's LMUData too: images that an earlier file
    left there are not reused."""
    with tempfile.TemporaryDirectory(prefix="selfsight-vlmevalkit-") as name:
        (Path(name) / file.name).symlink_to(file.resolve())
        yield Path(name)


def _ask(
    folder: Path, task: str, request: Mapping[str, Any], interpreter: Path | None = None
) -> Any:
    """Let the child do one task in the kit's environment; its reply.

    Raises:
        ValueError: it failed; its last words are in the sentence.
    """
    (folder / "request.json").write_text(json.dumps({"task": task, **request}), encoding="utf-8")
    judged = request.get("judge", "") not in ("", EXACT)
    kept = (
        name
        for name in os.environ
        if not name.startswith("PYTHON") and (judged or name not in KEYS)
    )
    environment = {
        **{name: os.environ[name] for name in kept},
        "LMUData": str(folder),
        "PRED_FORMAT": "tsv",
        "EVAL_FORMAT": "csv",
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(interpreter or python()), "-I", str(CHILD), str(folder)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    reply = folder / "reply.json"
    if done.returncode or not reply.exists():
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])[-600:]
        raise ValueError(
            f"VLMEvalKit failed at {task} ({said or f'exit code {done.returncode}'}); the answers"
            " are kept."
        )
    return json.loads(reply.read_text(encoding="utf-8"))
