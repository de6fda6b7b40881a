"""VLMEvalKit (open-compass/VLMEvalKit) behind the interface of a benchmark: its prompts, its
grading, our answers.

The kit lives in its own environment (``nox -s toolkit_vlmevalkit``). ``via_vlmevalkit_child.py``
runs there. Questions come out as files, answers go in. The data set file comes from the user: a
folder with ``<NAME>.tsv`` (the kit's ``LMUData``), which ``via_vlmevalkit_tsv`` reads first.

- From the kit: the text of the prompt, the reading of each answer, right or wrong, totals.
- From us: greedy decoding of at most ``MAX_NEW_TOKENS`` (the kit gives each model wrapper its own
  settings and prompts); the metrics' names (the kit's "Overall" is F1 for POPE and accuracy
  elsewhere); every metric is computed again from the rows and must equal the kit's total. The kit's
  totals are in the report under ``vlmevalkit:`` and their own names.

A judge is never left out silently. Where a data set's rule asks a language model about an
unreadable answer, the data set's name says which: ``MMBench_DEV_EN+exact_matching`` (none: such an
answer is wrong) or ``MMBench_DEV_EN+gpt-4o-mini``."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from benchmarks import files, grading, kit_process
from benchmarks.interface import Grade, Group, Metric, Question, Report, report
from benchmarks.via_vlmevalkit_families import FAMILIES, Counts, Family, Reading
from benchmarks.via_vlmevalkit_tsv import Row, read_rows

CHILD = Path(__file__).with_name("via_vlmevalkit_child.py")
VARIABLE = "SELFSIGHT_VLMEVALKIT_PYTHON"
RULES_VERSION = "1"
MAX_NEW_TOKENS = 128
EXACT = "exact_matching"
KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "LOCAL_LLM")
_ROTATION_OFFSET = 1_000_000
"""The kit numbers the rotations of question i as i + 10^6, i + 2 * 10^6, ..."""


def benchmark(
    dataset: str, split: str, limit: int | None, data: Path | None = None
) -> ViaVlmevalkit:
    """The kit's data set (``POPE``, ``MME``, ``MMBench_DEV_EN+exact_matching`` ...) on the file in
    the folder ``data``.

    ``limit``: at most so many images, chosen by a hash, each with all its questions.

    Raises:
        ValueError: no such data set, a split other than test, no folder, an unusable file, a judge
            that is not named or has no key, or the kit is not installed.
    """
    name, _, judge = dataset.partition("+")
    if name not in FAMILIES:
        raise ValueError(
            f"VLMEvalKit's {name!r} is not among those that are graded row by row:"
            f" {', '.join(FAMILIES)}."
        )
    grading.only_test_split(f"vlmevalkit:{dataset}", split)
    grading.check_limit(limit)
    _check_judge(name, judge, FAMILIES[name])
    if data is None:
        raise ValueError(
            f"vlmevalkit:{dataset} needs a folder that holds {name}.tsv (the kit's LMUData); give"
            " it as its data."
        )
    python()
    result = ViaVlmevalkit(dataset=name, judge=judge, limit=limit, file=data / f"{name}.tsv")
    _ = result.rows
    return result


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
            " is not OpenAI's, in OPENAI_API_BASE); without a key the kit would use exact matching:"
            f" ask for {name}+{EXACT} if that is meant."
        )


@dataclass(frozen=True, kw_only=True)
class ViaVlmevalkit:
    """One of the kit's data sets on a user's file. ``judge``: "" (none is needed), exact_matching,
    or a model's name."""

    dataset: str
    judge: str
    limit: int | None
    file: Path

    source = ""  # the version does not separate questions from grading

    @property
    def name(self) -> str:
        """Its name in the results folder; a colon cannot be in a folder's name."""
        return f"vlmevalkit.{self.dataset}" + (f"+{self.judge}" if self.judge else "")

    @property
    def group(self) -> Group:
        return self.family.group

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.family.metrics

    @property
    def family(self) -> Family:
        return FAMILIES[self.dataset]

    @cached_property
    def version(self) -> str:
        """The kit's commit, the data set, a hash of its file, our counting, the bound on tokens,
        the judge."""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()[:12]
        judge = f" judge-{self.judge}" if self.judge else ""
        return (
            f"vlmevalkit-{commit(python())} {self.dataset}-{digest} rules-{RULES_VERSION}"
            f" tokens-{MAX_NEW_TOKENS}{judge}"
        )

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The questions in the file's order. The rotations of a question count as one image's.

        Raises:
            ValueError: the file cannot be used; every fault is named by its line.
        """
        rows = read_rows(self.file, self.family.needed)
        if allowed := self.family.answers:
            wrong = [row for row in rows if row.cells["answer"] not in allowed]
            if wrong:
                raise ValueError(
                    f"{self.file}: {len(wrong)} answers are not {' or '.join(allowed)}, first"
                    f" {wrong[0].location} ({wrong[0].cells['answer'][:20]!r}); the kit compares"
                    " letter by letter and would call every reply wrong."
                )
        circular = self.family.circular
        if circular:
            indices = {row.index for row in rows}
            strays = [
                row for row in rows if not row.index.isdigit() or _group_index(row) not in indices
            ]
            if strays:
                raise ValueError(
                    f"{strays[0].location}: the index {strays[0].index} is no rotation of a"
                    f" question of {self.file}."
                )
        if self.limit is None:
            return tuple(rows)
        kept_clusters = set(grading.shuffled({row.cluster for row in rows}, "limit")[: self.limit])
        kept_rows = [row for row in rows if row.cluster in kept_clusters]
        if circular:
            groups = {_group_index(row) for row in kept_rows}
            kept_rows = [row for row in rows if _group_index(row) in groups]
        return tuple(kept_rows)

    def questions(self) -> Iterator[Question]:
        """The kit's own prompts.

        Raises:
            ValueError: the kit fails (with its last words), or a prompt has text before an image.
        """
        clusters = {row.index: row.cluster for row in self.rows}
        with _folder(self.file) as folder:
            request = {"dataset": self.dataset, "indices": list(clusters)}
            for row in _ask(folder, "export", request)["rows"]:
                kinds = [part["type"] for part in row["parts"]]
                if sorted(kinds) != kinds:  # "image" before "text"
                    raise ValueError(
                        f"vlmevalkit:{self.dataset}, index {row['index']}: text before an image"
                        " cannot be asked."
                    )
                values: dict[str, list[str]] = {"image": [], "text": []}
                for part in row["parts"]:
                    values[part["type"]].append(part["value"])
                # Each folder has its own paths, so nothing is gained by a cache.
                images = (
                    files.decode_image(f"The image {path}", Path(path)) for path in values["image"]
                )
                yield Question(
                    id=row["index"],
                    images=tuple(images),
                    text="\n".join(values["text"]),
                    max_new_tokens=MAX_NEW_TOKENS,
                    cluster=clusters[row["index"]],
                )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """A grade a row, in the file's order, from the kit's own ``evaluate``. An answer that the
        kit cannot read is unscored; in the metrics it counts as the kit counts it: wrong.

        Raises:
            ValueError: an answer belongs to no question, the kit fails, or its totals do not equal
                those of its rows.
        """
        grading.check_answers(answers, [row.index for row in self.rows])
        skipped = _skipped_rows(self.rows, answers, self.family.circular)
        graded = [row for row in self.rows if row.index not in skipped]
        safe_answers = {row.index: tsv_safe(answers[row.index]) for row in graded}
        reply: dict[str, Any] = {"rows": {}, "totals": None, "seen": {}, "trouble": ""}
        if safe_answers:
            request = {"answers": safe_answers, "judge": self.judge, "family": self.family.reader}
            with _folder(self.file) as folder:
                reply = _ask(folder, "grade", {"dataset": self.dataset, **request})
        readings: Mapping[str, Reading] = reply["rows"]
        if missing := [index for index in safe_answers if index not in readings]:
            raise ValueError(
                f"VLMEvalKit graded no row {missing[0]!r} of {self.dataset} ({len(missing)} such"
                " rows)."
            )
        counts = self.family.count(graded, readings)
        grades = []
        for row in self.rows:
            index = row.index
            if index in skipped:
                grade = Grade(
                    question=index, cluster=row.cluster, value=None, read_as="", why=skipped[index]
                )
            else:
                kit_answer = reply["seen"][index]
                grade = self._grade(row, readings[index], counts[index], answers[index], kit_answer)
            grades.append(grade)
        our_report = report(self.metrics, grades)
        kit_totals = self._totals(reply, our_report, complete=self.limit is None and not skipped)
        return replace(our_report, values={**our_report.values, **kit_totals})

    def estimate(self, answers: Mapping[str, str]) -> None:
        """None: requests to a judge are the kit's own and are not counted here."""

    def _grade(
        self, row: Row, reading: Reading, counts: Counts, answer: str, kit_answer: str
    ) -> Grade:
        read_as, truth = str(reading["read_as"]), row.cells["answer"]
        correct = reading["alone"] if "alone" in reading else reading["hit"]
        unread = read_as in self.family.unread or not answer.strip()
        notes = ["the kit reads nothing in it and counts it as wrong"] if unread else []
        notes += (
            ["control characters were handed on as blanks"] if tsv_safe(answer) != answer else []
        )
        notes += [f"the kit took it for {kit_answer!r}"] if kit_answer != tsv_safe(answer) else []
        notes += [f"the answer is {truth}"] if not correct else []
        option = row.cells.get(truth) if len(truth) == 1 else None
        return Grade(
            question=row.index,
            cluster=row.cluster,
            value=None if unread else float(correct),
            read_as="" if unread else read_as,
            why="; ".join(notes),
            counts=counts,
            truth=f"{truth}: {option}" if option else truth,
        )

    def _totals(
        self, reply: Mapping[str, Any], our_report: Report, *, complete: bool
    ) -> dict[str, float | None]:
        """The kit's totals under their own names, after a check that they equal our metrics."""
        if reply["trouble"]:
            # The totals need every category and both questions of each image; a part of the data
            # may lack some.
            if complete:
                raise ValueError(
                    f"VLMEvalKit gave no totals for {self.dataset}: {reply['trouble']}."
                )
            warnings.warn(
                f"VLMEvalKit gives no totals for this part of {self.dataset} ({reply['trouble']});"
                " it graded the rows, and the metrics are those of the categories in this part.",
                stacklevel=2,
            )
        totals: Sequence[Mapping[str, Any]] = reply["totals"] or []
        kit_totals: dict[str, float | None] = {}
        for number, total in enumerate(totals):
            split = total.get("split", str(number) if number else "none")
            suffix = "" if split in ("none", "Overall") else f"|{split}"
            for column, value in total.items():
                if column != "split" and isinstance(value, float):
                    kit_totals[f"vlmevalkit:{column}{suffix}"] = value
        for metric, (column, split, factor) in self.family.totals.items():
            for total in totals:
                same_split = total.get("split") == split or (split is None and len(totals) == 1)
                if column not in total or not same_split:
                    continue
                value, expected = our_report.values[metric] or 0.0, factor * total[column]
                if abs(value - expected) > 1e-6 * max(1.0, abs(value)):
                    raise ValueError(
                        f"{metric} of {self.dataset} is {value} by the kit's rows and {expected} by"
                        f" its total {column}; the two must agree: this version of the kit counts"
                        " in another way."
                    )
        return kit_totals


def _group_index(row: Row) -> str:
    """The index of the question of which the row is a rotation."""
    return row.cells.get("g_index") or str(int(row.index) % _ROTATION_OFFSET)


def _skipped_rows(
    rows: Sequence[Row], answers: Mapping[str, str], circular: bool
) -> dict[str, str]:
    """The rows that are not sent to the kit, and why. In circular evaluation the kit would call a
    group right though rotations are missing, so such a group is left out whole."""
    missing = {row.index: "no answer" for row in rows if row.index not in answers}
    if not circular:
        return missing
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[_group_index(row)].append(row.index)
    incomplete: dict[str, str] = {}
    for indices in groups.values():
        if count := sum(index in missing for index in indices):
            reason = f"no answer to {count} of the {len(indices)} rotations of its question"
            incomplete |= dict.fromkeys(indices, reason)
    return {**incomplete, **missing}


def tsv_safe(answer: str) -> str:
    """The answer with blanks for what a TSV file cannot carry: control characters (but line feed
    and tab) and lone surrogates."""

    def is_allowed(character: str) -> bool:
        control = (character < " " and character not in "\n\t") or character == "\x7f"
        return not control and not "\ud800" <= character <= "\udfff"

    return "".join(character if is_allowed(character) else " " for character in answer)


def python() -> Path:
    """The interpreter of the kit's environment; ValueError: there is none."""
    return kit_process.find_python("VLMEvalKit", "toolkit_vlmevalkit", VARIABLE)


@cache
def commit(interpreter: Path) -> str:
    """The kit's installed commit, 12 digits (``+changed`` if its files were edited)."""
    with tempfile.TemporaryDirectory(prefix="selfsight-vlmevalkit-") as folder:
        full_hash = str(_ask(Path(folder), "version", {}, interpreter)["commit"])
    return full_hash[:12] + ("+changed" if full_hash.endswith("+changed") else "")


@contextmanager
def _folder(file: Path) -> Iterator[Path]:
    """A folder for one request. It is the kit's LMUData too, so that images which the kit stored
    for an earlier file are not used."""
    with tempfile.TemporaryDirectory(prefix="selfsight-vlmevalkit-") as name:
        (Path(name) / file.name).symlink_to(file.resolve())
        yield Path(name)


def _ask(
    folder: Path, task: str, request: Mapping[str, Any], interpreter: Path | None = None
) -> Any:
    """Run one task of the program in the kit's environment; its reply.

    Raises:
        ValueError: it failed; its last words are in the sentence.
    """
    judged = request.get("judge", "") not in ("", EXACT)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and (judged or name not in KEYS)
    }
    environment |= {
        "LMUData": str(folder),
        "PRED_FORMAT": "tsv",
        "EVAL_FORMAT": "csv",
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(interpreter or python()), "-I", str(CHILD)]
    return kit_process.run(
        "VLMEvalKit", task, command, folder, {"task": task, **request}, environment
    )
