"""Reads a study's stored results, from a whole results folder or from a packed one.

A whole folder has a folder for each stage (ARCHITECTURE.md, "Files of a run"). A packed folder
(``python -m harness pack``) holds the same numbers in a few Parquet files, without answers, pairs
and images. Both have the same methods, so tables and figures need not know which form they read.
Both may have older names (harness/reporting/old_names.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts.results_folder import Results, check_name, read_json, read_jsonl
from harness.artifacts.safe_files import check_links
from harness.artifacts.stored_files import is_stored, read_bytes, unreadable
from harness.errors import UserError
from harness.reporting import old_names
from harness.reporting.study_file import REPACK, bad_study, check_names, read_study
from methods.text import repeats_sentence

FORMAT = 1
"""Version of the packed layout: in packed.json, and in the metadata of each Parquet file."""

_IMAGE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

FORMAT_KEY = b"selfsight_packed_format"
STAGES, QUESTIONS, GRADES, CAPS, LOG = (
    f"{name}.parquet" for name in ("stages", "questions", "grades", "caps", "log")
)
ENDED = "ended.json"
"""Of a training that could not be done."""
FILES = (STAGES, QUESTIONS, GRADES, CAPS, LOG)
REPEATS = "repeats"
"""A column of packed captions; packs of earlier versions lack it."""
TEXTS = ["read_as", "why", "truth", "wrong"]
"""Columns of ``grades.parquet`` that no table and no packed figure reads."""

OLD_FIELDS = {"picture": "image"}
"""Fields of a packed leak that were named otherwise."""

_StageColumns = dict[str, dict[str, npt.NDArray[Any]]]
"""The columns of each stage's rows, by the stage's path below the results folder."""


class Stored:
    """A results folder as a run writes it. A stage is named by the folder that ``results`` gives
    it. The packed form is a :class:`PackedFolder`."""

    def __init__(self, out: Path) -> None:
        self.results = Results(out)

    def study(self) -> dict[str, Any]:
        """The content of study.json, with the present names.

        Raises:
            UserError: there is no study.json, it was changed, or it lacks a field.
        """
        try:
            content: dict[str, Any] = old_names.study(read_study(self.results))
            check_names(content)
        except (KeyError, TypeError) as error:
            raise bad_study(self.results, error) from error
        return content

    def stages(self) -> tuple[Path, ...]:
        """The folders of all stages that have an identity or a record, sorted by path."""
        return tuple(sorted(self._folders))

    def folder(self, stage: Path) -> Path:
        """Where the stage's files are; differs from ``stage`` in a folder with old names."""
        return stage if stage.exists() else self._folders.get(stage, stage)

    @cached_property
    def _folders(self) -> dict[Path, Path]:
        """Each stage's folder by its present name."""
        out = self.results.out
        paths = {
            path.parent
            for stages in ("questions/*", "runs/*/seed*/round*/**")
            for name in ("identity.json", "record.json")
            for path in out.glob(f"{stages}/{name}")
        }
        return {out / old_names.present(path.relative_to(out).as_posix()): path for path in paths}

    def done(self, stage: Path) -> bool:
        """Whether the stage is finished."""
        return (self.folder(stage) / "DONE").exists()

    def identity(self, stage: Path) -> dict[str, Any] | None:
        """The stage's identity; None: it has none."""
        return _json(self.folder(stage) / "identity.json")

    def record(self, stage: Path) -> dict[str, Any] | None:
        """The stage's measurements; None: it has no record."""
        return _json(self.folder(stage) / "record.json")

    def finished(self, stage: Path) -> dict[str, Any] | None:
        """The stage's record; None: the stage is not finished, or has none."""
        return self.record(stage) if self.done(stage) else None

    def ended(self, train: Path) -> str:
        """Why the row ended at this training; empty: it did not."""
        path = self.folder(train) / ENDED
        return str(read_json(path)["reason"]) if path.exists() else ""

    def lines(self, stage: Path, name: str) -> list[dict[str, Any]]:
        """The lines of a JSONL file of the stage; empty: it has none."""
        path = self.folder(stage) / name
        return read_jsonl(path) if is_stored(path) else []

    def grades(self, stage: Path) -> pd.DataFrame:
        """Of a stage "grade": question, cluster, value (nan: unscored), ``count_*``."""
        frame = read_parquet(self.folder(stage) / "grades.parquet")
        frame = frame.drop(columns=TEXTS, errors="ignore")
        return frame.assign(value=frame["value"].astype("float64"))

    def caps(self, stage: Path) -> pd.DataFrame:
        """Of a stage "caps": question, cluster, cap (words), ``count_*``, and for uncut captions
        (cap 0) ``repeats``: whether a sentence occurs twice. The stage does not store it: it is
        read in the answers, where these are kept, and packed with the captions' counts."""
        frame = read_parquet(self.folder(stage) / "caps.parquet")
        if rows := self.lines(stage.parent.parent / "answers" / stage.name, "answers.jsonl"):
            repeats = {row["id"]: float(repeats_sentence(row["answer"])) for row in rows}
            frame[REPEATS] = frame["question"].map(repeats).where(frame["cap"] == 0)
        return frame

    def log(self, stage: Path) -> list[dict[str, Any]]:
        """Of a stage "train": a dict an optimizer step; empty: nothing was logged."""
        return self.lines(stage, "log.jsonl")

    def questions(self, benchmark: str) -> Mapping[str, Any]:
        """Of the benchmark's questions: ``sha256`` ("": not stored) and ``max_new_tokens``, all
        that occur, sorted."""
        path = self.folder(self.results.questions(benchmark)) / "questions.jsonl"
        if not is_stored(path):
            return {"sha256": "", "max_new_tokens": []}
        caps = {row["max_new_tokens"] for row in read_jsonl(path) if "max_new_tokens" in row}
        sha = hashlib.sha256(read_bytes(path)).hexdigest()
        return {"sha256": sha, "max_new_tokens": sorted(caps)}

    def leaks(self) -> Mapping[str, Any] | None:
        """The fields of :class:`harness.reporting.leakage.Leaks`; None: not compared yet."""
        return None


def _json(path: Path) -> dict[str, Any] | None:
    return old_names.present(read_json(path)) if is_stored(path) else None


def read_parquet(path: Path) -> pd.DataFrame:
    """The file as a frame.

    Raises:
        UserError: it is missing, cut, or not the one that its stage wrote.
    """
    content = read_bytes(path)
    try:
        return pd.read_parquet(io.BytesIO(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, "Parquet", error) from error


class PackedFolder(Stored):
    """A packed folder: stages are rows of its files, named as in a whole folder. Each file is read
    when it is first needed, and checked against packed.json.

    Raises:
        UserError: another format, a missing or changed file, or other benchmarks than study.json.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        manifest = read_json(self.results.packed)
        version = manifest.get("format") if isinstance(manifest, dict) else None
        if version != FORMAT:
            raise UserError(
                f"{out} is packed in format {version}, this version reads format {FORMAT}; read it"
                " with the version that packed it, or pack the whole folder again with `python -m"
                " harness pack`."
            )
        absent = [name for name in ("benchmarks", "files", "leaks") if name not in manifest]
        if absent:
            raise UserError(f"{self.results.packed} lacks {', '.join(absent)}; {REPACK}")
        self._manifest = old_names.present(manifest)
        self._columns: dict[str, _StageColumns] = {}
        planned = [entry["name"] for entry in self.study()["benchmarks"]]
        packed = self._manifest["benchmarks"]
        for names, other_names, words in (
            (planned, packed, "study.json names {} but the packed files lack it"),
            (packed, planned, "the packed files hold {} but study.json does not name it"),
        ):
            if unmatched := [name for name in names if name not in other_names]:
                raise UserError(f"In {out} {words.format(', '.join(unmatched))}; {REPACK}")

    def stages(self) -> tuple[Path, ...]:
        return tuple(self.results.out / path for path in self._stages)

    def done(self, stage: Path) -> bool:
        row = self._stages.get(self._path(stage))
        return row is not None and bool(row["done"])

    def identity(self, stage: Path) -> dict[str, Any] | None:
        return self._parsed(stage, "identity")

    def record(self, stage: Path) -> dict[str, Any] | None:
        return self._parsed(stage, "record")

    def ended(self, train: Path) -> str:
        return str(self._manifest.get("ended", {}).get(self._path(train), ""))

    def grades(self, stage: Path) -> pd.DataFrame:
        return self._rows(GRADES, stage)

    def caps(self, stage: Path) -> pd.DataFrame:
        return self._rows(CAPS, stage)

    def log(self, stage: Path) -> list[dict[str, Any]]:
        columns = self._by_stage(LOG).get(self._path(stage), {})
        steps = zip(*(values.tolist() for values in columns.values()), strict=True)
        return [dict(zip(columns, step, strict=True)) for step in steps]

    def questions(self, benchmark: str) -> Mapping[str, Any]:
        entry: Mapping[str, Any] = self._manifest["benchmarks"][benchmark]
        return entry

    def leaks(self) -> Mapping[str, Any] | None:
        leaks: dict[str, Any] = self._manifest["leaks"]
        fields = [
            {OLD_FIELDS.get(name, name): leak[name] for name in leak} for leak in leaks["found"]
        ]
        return {**leaks, "found": fields}

    def broken_files(self) -> list[str]:
        """A sentence for each packed file that is missing, cut or changed."""
        sentences = []
        for name in FILES:
            try:
                self._read(name)
            except UserError as problem:
                sentences.append(str(problem))
        return sentences

    def _path(self, stage: Path) -> str:
        return stage.relative_to(self.results.out).as_posix()

    def _parsed(self, stage: Path, field: str) -> dict[str, Any] | None:
        row = self._stages.get(self._path(stage))
        return old_names.present(json.loads(row[field])) if row and row[field] else None

    @cached_property
    def _stages(self) -> dict[str, dict[str, Any]]:
        rows = self._read(STAGES).to_pylist()
        for row in rows:
            for name in row["stage"].split("/"):
                check_name("stage", name)
        return {old_names.present(row["stage"]): row for row in rows}

    @cached_property
    def _questions(self) -> pd.DataFrame:
        frame: pd.DataFrame = self._read(QUESTIONS).to_pandas()
        sizes = frame["benchmark"].map(old_names.present).value_counts()
        for name, entry in self._manifest["benchmarks"].items():
            if entry["questions"] != int(sizes.get(name, 0)):
                raise UserError(
                    f"{self.results.out / QUESTIONS} holds {int(sizes.get(name, 0))} questions of"
                    f" {name}, packed.json names {entry['questions']}; {REPACK}"
                )
        return frame

    def _by_stage(self, name: str) -> _StageColumns:
        """The file's rows by stage. The file holds them by question, which compresses better."""
        if name in self._columns:
            return self._columns[name]
        table = self._read(name)
        columns = {column: table[column].to_numpy() for column in table.column_names}
        order = np.argsort(columns["stage"], kind="stable")
        columns = {column: values[order] for column, values in columns.items()}
        stages = columns.pop("stage")
        starts = np.flatnonzero(np.diff(stages, prepend=-1))
        paths = list(self._stages)
        self._columns[name] = {
            paths[int(stages[start])]: {
                column: values[start:end] for column, values in columns.items()
            }
            for start, end in zip(starts, [*starts[1:], len(stages)], strict=True)
        }
        return self._columns[name]

    def _rows(self, name: str, stage: Path) -> pd.DataFrame:
        """A stage's rows: its questions' ids and the counts that it has, as float64."""
        columns = self._by_stage(name)[self._path(stage)]
        ids = self._questions[["question", "cluster"]].iloc[columns["question"]]
        stage_columns = {"cap": columns["cap"]} if "cap" in columns else {}
        for column, values in columns.items():
            if column.startswith("count_") or column in ("value", REPEATS):
                numbers = values.astype("float64")
                if column == "value" or not np.isnan(numbers).all():
                    stage_columns[column] = numbers
        return pd.concat([ids.reset_index(drop=True), pd.DataFrame(stage_columns)], axis=1)

    def _read(self, name: str) -> pa.Table:
        path = self.results.out / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {REPACK}") from error
        if hashlib.sha256(content).hexdigest() != self._manifest["files"].get(name):
            raise UserError(
                f"{path} is cut or changed: it is not the file that packed.json names; {REPACK}"
            )
        return pq.read_table(io.BytesIO(content))


def image_file(folder: Path, name: object) -> Path:
    """The exported image ``name`` of a benchmark's ``folder`` of images.

    Raises:
        UserError: the name leads elsewhere.
    """
    if not isinstance(name, str) or not _IMAGE.fullmatch(name):
        raise UserError(f"{name!r} in {folder.parent / 'questions.jsonl'} is no image's file name.")
    return folder / name


def open_stored(out: Path) -> Stored:
    """The study in this folder, whole or packed.

    Raises:
        UserError: it is packed in another format, its parts do not fit together, or a link in it
            leads out of it.
    """
    check_links(out)
    return PackedFolder(out) if Results(out).packed.exists() else Stored(out)
