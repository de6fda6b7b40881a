"""What the tables and figures read of a study, from a whole results folder or from a packed one.

A whole folder has a folder for each stage (ARCHITECTURE.md, "Files of a run"). A packed folder
(``python -m harness pack``) holds the same numbers in a few Parquet files, without answers, pairs
and images. Both are read through :class:`Stored`, so everything after this file is the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts.results_folder import Results, read_json, read_jsonl
from harness.errors import UserError

FORMAT = 1
"""The version of the packed layout: in packed.json, and in the metadata of each Parquet file."""

FORMAT_KEY = b"selfsight_packed_format"
STAGES, QUESTIONS, GRADES, CAPS, LOG = (
    f"{name}.parquet" for name in ("stages", "questions", "grades", "caps", "log")
)
FILES = (STAGES, QUESTIONS, GRADES, CAPS, LOG)
_Sorted = dict[str, dict[str, npt.NDArray[Any]]]
"""The columns of each stage's rows, by the stage's folder below the results folder."""

TEXTS = ["read_as", "why", "truth", "wrong"]
"""Columns of ``grades.parquet`` that no table and no packed figure reads."""


class Stored(Protocol):
    """A study's stored results. A stage is named by its folder, as :class:`Results` gives it."""

    def stages(self) -> tuple[Path, ...]:
        """The folders of all stages that have an identity or a record, sorted by path."""

    def done(self, folder: Path) -> bool:
        """Whether the stage is finished."""

    def identity(self, folder: Path) -> dict[str, Any] | None:
        """The stage's identity; None: it has none."""

    def record(self, folder: Path) -> dict[str, Any] | None:
        """What the stage measured; None: it has no record."""

    def grades(self, folder: Path) -> pd.DataFrame:
        """Of a stage "grade": question, cluster, value (nan: unscored), ``count_*``."""

    def caps(self, folder: Path) -> pd.DataFrame:
        """Of a stage "caps": question, cluster, cap, ``count_*``."""

    def log(self, folder: Path) -> list[dict[str, Any]]:
        """Of a stage "train": a dict an optimizer step; empty where nothing was logged."""

    def asked(self, benchmark: str) -> Mapping[str, Any]:
        """``sha256`` of the benchmark's questions ("": not stored) and ``max_new_tokens``,
        sorted."""

    def leaks(self) -> Mapping[str, Any] | None:
        """The fields of :class:`harness.reporting.leakage.Leaks`; None: not compared yet."""


def opened(out: Path) -> Stored:
    """The study in this folder, whichever form it has.

    Raises:
        UserError: it is packed in another format, or its parts do not fit together.
    """
    return Packed(out) if Results(out).packed.exists() else Whole(out)


class Whole:
    """A results folder as a run writes it."""

    def __init__(self, out: Path) -> None:
        self._results = Results(out)

    def stages(self) -> tuple[Path, ...]:
        out = self._results.out
        places = ("questions/*", "runs/*/seed*/round*/**")
        found = {
            path.parent
            for place in places
            for name in ("identity.json", "record.json")
            for path in out.glob(f"{place}/{name}")
        }
        return tuple(sorted(found))

    def done(self, folder: Path) -> bool:
        return (folder / "DONE").exists()

    def identity(self, folder: Path) -> dict[str, Any] | None:
        return _json(folder / "identity.json")

    def record(self, folder: Path) -> dict[str, Any] | None:
        return _json(folder / "record.json")

    def grades(self, folder: Path) -> pd.DataFrame:
        frame = pd.read_parquet(folder / "grades.parquet").drop(columns=TEXTS, errors="ignore")
        return frame.assign(value=frame["value"].astype("float64"))

    def caps(self, folder: Path) -> pd.DataFrame:
        return pd.read_parquet(folder / "caps.parquet")

    def log(self, folder: Path) -> list[dict[str, Any]]:
        path = folder / "log.jsonl"
        return read_jsonl(path) if path.exists() else []

    def asked(self, benchmark: str) -> Mapping[str, Any]:
        path = self._results.questions(benchmark) / "questions.jsonl"
        if not path.exists():
            return {"sha256": "", "max_new_tokens": []}
        caps = {row["max_new_tokens"] for row in read_jsonl(path) if "max_new_tokens" in row}
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"sha256": sha, "max_new_tokens": sorted(caps)}

    def leaks(self) -> Mapping[str, Any] | None:
        return None


def _json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


class Packed:
    """A packed folder. Each file is read when it is first asked for, and checked against
    packed.json.

    Raises:
        UserError: another format, a missing or changed file, or other benchmarks than study.json.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._results = out, Results(out)
        self._manifest = read_json(self._results.packed)
        there = self._manifest.get("format") if isinstance(self._manifest, dict) else None
        if there != FORMAT:
            raise UserError(
                f"{out} is packed in format {there}, this version reads format {FORMAT}; read it"
                " with the version that packed it, or pack the whole folder again with `python -m"
                " harness pack`."
            )
        if lacks := [
            name for name in ("benchmarks", "files", "leaks") if name not in self._manifest
        ]:
            raise UserError(f"{self._results.packed} lacks {', '.join(lacks)}; {AGAIN}")
        named = [entry["name"] for entry in read_json(self._results.study)["benchmarks"]]
        held = self._manifest["benchmarks"]
        for these, those, words in (
            (named, held, "study.json names {} but the packed files lack it"),
            (held, named, "the packed files hold {} but study.json does not name it"),
        ):
            if apart := [name for name in these if name not in those]:
                raise UserError(f"In {out} {words.format(', '.join(apart))}; {AGAIN}")

    def stages(self) -> tuple[Path, ...]:
        return tuple(self._out / place for place in self._stages)

    def done(self, folder: Path) -> bool:
        stage = self._stages.get(self._place(folder))
        return stage is not None and bool(stage["done"])

    def identity(self, folder: Path) -> dict[str, Any] | None:
        return self._parsed(folder, "identity")

    def record(self, folder: Path) -> dict[str, Any] | None:
        return self._parsed(folder, "record")

    def grades(self, folder: Path) -> pd.DataFrame:
        return self._rows(self._grades, folder)

    def caps(self, folder: Path) -> pd.DataFrame:
        return self._rows(self._caps, folder)

    def log(self, folder: Path) -> list[dict[str, Any]]:
        mine = self._log.get(self._place(folder), {})
        lines = zip(*(values.tolist() for values in mine.values()), strict=True)
        return [dict(zip(mine, line, strict=True)) for line in lines]

    def asked(self, benchmark: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._manifest["benchmarks"][benchmark]
        return found

    def leaks(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] = self._manifest["leaks"]
        return found

    def _place(self, folder: Path) -> str:
        return folder.relative_to(self._out).as_posix()

    def _parsed(self, folder: Path, part: str) -> dict[str, Any] | None:
        stage = self._stages.get(self._place(folder))
        found: dict[str, Any] | None = json.loads(stage[part]) if stage and stage[part] else None
        return found

    @cached_property
    def _stages(self) -> dict[str, dict[str, Any]]:
        return {row["stage"]: row for row in self._read(STAGES).to_pylist()}

    @cached_property
    def _questions(self) -> pd.DataFrame:
        found: pd.DataFrame = self._read(QUESTIONS).to_pandas()
        counted = found["benchmark"].value_counts()
        for name, held in self._manifest["benchmarks"].items():
            if held["questions"] != int(counted.get(name, 0)):
                raise UserError(
                    f"{self._out / QUESTIONS} holds {int(counted.get(name, 0))} questions of"
                    f" {name}, packed.json names {held['questions']}; {AGAIN}"
                )
        return found

    @cached_property
    def _grades(self) -> _Sorted:
        return self._sorted(GRADES)

    @cached_property
    def _caps(self) -> _Sorted:
        return self._sorted(CAPS)

    @cached_property
    def _log(self) -> _Sorted:
        return self._sorted(LOG)

    def _sorted(self, name: str) -> _Sorted:
        """The file's rows by stage; it holds them by question, which compresses far better."""
        table = self._read(name)
        columns = {one: table[one].to_numpy() for one in table.column_names}
        order = np.argsort(columns["stage"], kind="stable")
        columns = {one: values[order] for one, values in columns.items()}
        stages = columns.pop("stage")
        starts = np.flatnonzero(np.diff(stages, prepend=-1))
        places = list(self._stages)
        spans = zip(starts, [*starts[1:], len(stages)], strict=True)
        return {
            places[int(stages[start])]: {one: values[start:end] for one, values in columns.items()}
            for start, end in spans
        }

    def _rows(self, found: _Sorted, folder: Path) -> pd.DataFrame:
        """A stage's rows with their questions' ids, and its own counts alone, as float64."""
        mine = found[self._place(folder)]
        asked = self._questions[["question", "cluster"]].iloc[mine["question"]]
        own = {"cap": mine["cap"]} if "cap" in mine else {}
        for name, values in mine.items():
            if name.startswith("count_") or name == "value":
                numbers = values.astype("float64")
                if name == "value" or not np.isnan(numbers).all():
                    own[name] = numbers
        return pd.concat([asked.reset_index(drop=True), pd.DataFrame(own)], axis=1)

    def _read(self, name: str) -> pa.Table:
        path = self._out / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
        if hashlib.sha256(content).hexdigest() != self._manifest["files"].get(name):
            raise UserError(
                f"{path} is cut or changed: it is not the file that packed.json names; {AGAIN}"
            )
        return pq.read_table(io.BytesIO(content))


AGAIN = (
    "get the packed folder again (from git), or pack the whole one again with `python -m harness"
    " pack`."
)
