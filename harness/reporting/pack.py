"""``python -m harness pack FOLDER``: a light copy of a results folder for git.

A packed folder holds study.json, table.md, table.csv, three figures, and a few Parquet files with
everything that tables and figures read: each question's value and counts, caption counts by
length, training curves, and the identity and record of every stage. packed.json has the format,
the files' sha256, the leaked images and why rows ended early. It is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.artifacts.results_folder import Results, write_bytes, write_json
from harness.errors import UserError
from harness.reporting import leakage
from harness.reporting.comparison import as_frame
from harness.reporting.figures import draw as figures
from harness.reporting.figures.captions import lengths
from harness.reporting.figures.style import rendered, style
from harness.reporting.figures.training_curves import CURVES
from harness.reporting.results import StudyResults, load_results
from harness.reporting.stored import (
    CAPS,
    ENDED,
    FORMAT,
    FORMAT_KEY,
    GRADES,
    LOG,
    QUESTIONS,
    STAGES,
    Stored,
)
from harness.reporting.study_file import with_sha
from harness.reporting.tables import build as tables
from harness.reporting.tables import text as table_text

KEPT_FIGURES = ("ablation-", "rounds", "hallucination-against-recall", "before-and-after")
"""Beginnings of the names of the figures that are kept, in order of priority."""

MAX_FIGURES = 3
COLOURS = 64
"""Colours of a kept figure. More are not visible, and the file is a third of the size."""

QuestionIndices = dict[tuple[str, str, str], int]
"""Each (benchmark, question, cluster) once; other files refer to it by this index."""


def pack(folder: Path, out: Path | None = None) -> list[str]:
    """Pack a study's folder, and each study directly below it (such as the reference's ablations),
    into ``out`` (default: ``<name>-packed`` beside the folder). ``folder`` is not changed. Returns
    a sentence a study for the user.

    Raises:
        UserError: there is no study, it is packed already, nothing is graded, or ``out`` holds
            a study that is not packed.
    """
    Results(folder).check_whole("it cannot be packed again")
    if not Results(folder).study.is_file():
        raise UserError(f"{folder} holds no study.json; give the folder of a study.")
    out = out or folder.resolve().with_name(f"{folder.resolve().name}-packed")
    studies = (folder, *sorted(path.parent for path in folder.glob("*/study.json")))
    targets = {study: out / study.relative_to(folder) for study in studies}
    for study, target in targets.items():
        Results(study).check_whole("it cannot be packed again")
        _check_target(study, target)
    return [_pack(study, target) for study, target in targets.items()]


def _check_target(folder: Path, out: Path) -> None:
    if out.resolve() == folder.resolve():
        raise UserError(f"--out is {folder} itself, which packing only reads; give another --out.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder as --out.")
    if (out / "runs").exists():
        raise UserError(f"{out} holds a study that is not packed; give another --out.")


def _pack(folder: Path, out: Path) -> str:
    study, leaks = leakage.load_with_leaks(folder)
    if study.grades.empty:
        raise UserError(
            f"Nothing in {folder} is graded yet, so there is nothing to pack; run the study first."
        )
    stored = study.stored
    Results(out).packed.unlink(missing_ok=True)
    question_indices: QuestionIndices = {}
    files = {
        STAGES: _parquet(_stages(stored)),
        GRADES: _parquet(_rows(stored, "grades", stored.grades, question_indices)),
        CAPS: _parquet(_rows(stored, "caps", stored.caps, question_indices)),
        LOG: _parquet(_log(stored)),
    }
    questions = pd.DataFrame(
        [*question_indices], columns=["benchmark", "question", "cluster"], dtype="str"
    )
    files[QUESTIONS] = _parquet(questions, ids=True)
    for name, content in files.items():
        write_bytes(out / name, content)
    write_json(Results(out).study, with_sha(stored.study()))
    sizes = questions["benchmark"].value_counts()
    names = [benchmark.name for benchmark in study.benchmarks]
    benchmarks = {
        name: {"questions": int(sizes.get(name, 0)), **stored.questions(name)} for name in names
    }
    manifest = {
        "format": FORMAT,
        "benchmarks": benchmarks,
        "leaks": asdict(leaks),
        "ended": {
            path.parent.relative_to(folder).as_posix(): stored.ended(path.parent)
            for path in sorted(folder.glob(f"runs/*/seed*/round*/train/{ENDED}"))
        },
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    write_json(Results(out).packed, manifest)
    try:
        packed = load_results(out)
        _check_equal(study, packed)
        pd.testing.assert_frame_equal(lengths(study), lengths(packed))
        figures_kept = write_outputs(out)
    except BaseException:
        Results(out).packed.unlink(missing_ok=True)
        raise
    size = sum(path.stat().st_size for path in (*out.glob("*.*"), *out.glob("figures/*"))) / 2**20
    figure_names = ", ".join(figures_kept) or "none"
    sentence = f"{out}: {study.name} packed, figures {figure_names}; {size:.1f} MiB."
    if study.missing:
        more = ", ..." if len(study.missing) > 1 else ""
        sentence += (
            f" The study is not finished ({len(study.missing)} missing: {study.missing[0]}{more});"
            f" keep {folder}, a packed study cannot be continued."
        )
    return sentence


def _stages(stored: Stored) -> pd.DataFrame:
    """Every stage: its path, whether it is done, identity and record as JSON text."""

    def text(value: dict[str, Any] | None) -> str | None:
        if value is None:
            return None
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    stages = stored.stages()
    return pd.DataFrame(
        {
            "stage": [stage.relative_to(stored.results.out).as_posix() for stage in stages],
            "done": [stored.done(stage) for stage in stages],
            "identity": [text(stored.identity(stage)) for stage in stages],
            "record": [text(stored.record(stage)) for stage in stages],
        }
    )


def _rows(
    stored: Stored,
    kind: str,
    load: Callable[[Path], pd.DataFrame],
    question_indices: QuestionIndices,
) -> pd.DataFrame:
    """The rows of all finished stages of a kind, sorted by question. Most models answer a question
    alike, so the columns have long runs of equal values and compress well. Counts are small
    integers."""
    frames = []
    for number, stage in enumerate(stored.stages()):
        if stage.parent.name == kind and stored.done(stage):
            frame = load(stage)
            keys = zip(frame["question"].map(str), frame["cluster"].map(str), strict=True)
            indices = [
                question_indices.setdefault((stage.name, *key), len(question_indices))
                for key in keys
            ]
            numbers = frame.drop(columns=["question", "cluster"])
            frames.append(numbers.assign(stage=number, question=indices))
    if not frames:
        return pd.DataFrame({"stage": np.array([], "int32"), "question": np.array([], "int32")})
    joined = pd.concat(frames, ignore_index=True)
    joined = joined.sort_values(["question", "stage"], kind="stable", ignore_index=True)
    return joined.apply(_as_integers)


def _as_integers(column: pd.Series[Any]) -> pd.Series[Any]:
    values = column.dropna()
    if len(values) and bool((values == values.round()).all()) and values.abs().max() < 2**31:
        return column.astype("Int32")
    return column


def _log(stored: Stored) -> pd.DataFrame:
    """The columns that figures draw of each optimizer step."""
    names = ("step", *(curve[0] for curve in CURVES))
    lines = [
        {"stage": number, **{name: line[name] for name in names if name in line}}
        for number, stage in enumerate(stored.stages())
        if stage.name == "train" and stored.done(stage)
        for line in stored.log(stage)
    ]
    return pd.DataFrame(lines) if lines else pd.DataFrame({"stage": np.array([], "int32")})


def _parquet(frame: pd.DataFrame, *, ids: bool = False) -> bytes:
    """One row group, zstd, with the format's version. ``ids``: texts with common beginnings."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(
        {FORMAT_KEY: str(FORMAT)}
    )
    texts = {"question": "DELTA_BYTE_ARRAY", "cluster": "DELTA_BYTE_ARRAY"} if ids else None
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=19,
        use_dictionary=["benchmark"] if ids else True,
        column_encoding=texts,
        write_statistics=False,
        row_group_size=max(1, len(frame)),
        data_page_size=2**24,
    )
    return buffer.getvalue()


def _check_equal(study: StudyResults, packed: StudyResults) -> None:
    """Check that the packed results equal those of the study, before a user deletes its folder."""
    for name in ("rounds", "drops"):
        pd.testing.assert_frame_equal(getattr(study, name), getattr(packed, name))
    pd.testing.assert_frame_equal(study.log[packed.log.columns], packed.log, check_dtype=False)
    grades = study.grades[[str(name) for name in packed.grades]]
    pd.testing.assert_frame_equal(grades, packed.grades, check_dtype=False)
    if set(grades) != set(study.grades):
        raise AssertionError(f"packed counts are missing: {set(study.grades) - set(grades)}")
    facts = {name: study.facts[name] for name in packed.facts}
    stored, packed_facts = (facts, study.missing), (dict(packed.facts), packed.missing)
    if stored != packed_facts:
        raise AssertionError(f"packed facts differ: {stored} {packed_facts}")


def write_outputs(out: Path) -> list[str]:
    """Write a packed folder's table.md, table.csv and figures from its packed numbers; return the
    figures' names."""
    comparison = tables.load(out)
    write_bytes(out / "table.md", table_text.markdown(comparison.table).encode())
    write_bytes(out / "table.csv", as_frame(comparison.cells).to_csv(index=False).encode())
    for path in (out / "figures").glob("*.png"):
        path.unlink()
    with style():
        caps = lengths(comparison.study)
        all_figures = dict(figures.draw(comparison.study, comparison.cells, caps))
        by_priority = (
            name for start in KEPT_FIGURES for name in all_figures if name.startswith(start)
        )
        kept_names = [*islice(dict.fromkeys(by_priority), MAX_FIGURES)]
        for name in kept_names:
            path = out / "figures" / f"{figures.file_stem(name)}.png"
            write_bytes(path, _fewer_colours(rendered(all_figures[name], "png")))
    return kept_names


def _fewer_colours(png: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        reduced = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    reduced.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
