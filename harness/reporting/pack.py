"""``python -m harness pack FOLDER``: a light copy of a results folder for git.

A packed folder holds study.json, table.md, table.csv, three figures, and in a few Parquet files
everything that tables and figures read: each question's value and counts, caption counts by
length, training curves, and the identity and record of every stage. packed.json has the format,
the files' sha256 and what was found about leaked images. It is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
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
from harness.reporting.figures.making import CURVES
from harness.reporting.figures.style import look, rendered
from harness.reporting.results import Records, read
from harness.reporting.stored import (
    CAPS,
    FORMAT,
    FORMAT_KEY,
    GRADES,
    LOG,
    QUESTIONS,
    STAGES,
    Stored,
    opened,
)
from harness.reporting.tables import build as tables
from harness.reporting.tables import text as table_text

CHOSEN = ("ablation-", "rounds", "hallucination-against-recall", "before-and-after")
"""The beginnings of the figures' names that are kept, the most wanted first."""

MOST = 3
COLOURS = 64
"""Of a kept figure: lines and text on white need no more, and the file is a third of the size."""


def pack(folder: Path, out: Path | None = None) -> list[str]:
    """Pack a study's folder, and each study in a folder directly below it (the reference's
    ablations), into ``out`` (default: beside the folder, ``<name>-packed``); ``folder`` is only
    read. Returns what to tell the user, a sentence a study.

    Raises:
        UserError: there is no study, it is packed already, nothing is graded, or ``out`` holds
            a study that is not packed.
    """
    Results(folder).check_whole("it cannot be packed again")
    if not Results(folder).study.is_file():
        raise UserError(f"{folder} holds no study.json; give the folder of a study.")
    out = out or folder.resolve().with_name(f"{folder.resolve().name}-packed")
    inner = sorted(path.parent for path in folder.glob("*/study.json"))
    places = [(one, out / one.relative_to(folder)) for one in (folder, *inner)]
    for one, place in places:
        Results(one).check_whole("it cannot be packed again")
        _check_place(one, place)
    return [_pack(one, place) for one, place in places]


def _check_place(folder: Path, out: Path) -> None:
    if out.resolve() == folder.resolve():
        raise UserError(f"--out is {folder} itself, which packing only reads; give another --out.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder as --out.")
    if (out / "runs").exists():
        raise UserError(f"{out} holds a study that is not packed; give another --out.")


def _pack(folder: Path, out: Path) -> str:
    whole, leaks = leakage.opened(folder)
    if whole.grades.empty:
        raise UserError(
            f"Nothing in {folder} is graded yet, so there is nothing to pack; run the study first."
        )
    stored = opened(folder)
    Results(out).packed.unlink(missing_ok=True)
    stages = stored.stages()
    asked = _Questions()
    grades = _rows(stored, stages, "grades", stored.grades, asked)
    files = {
        STAGES: _parquet(_stages(stored, folder, stages)),
        GRADES: _parquet(grades),
        CAPS: _parquet(_rows(stored, stages, "caps", stored.caps, asked)),
        LOG: _parquet(_log(stored, stages)),
        QUESTIONS: _parquet(asked.frame(), ids=True),
    }
    for name, content in files.items():
        write_bytes(out / name, content)
    write_bytes(Results(out).study, Results(folder).study.read_bytes())
    counted = asked.frame()["benchmark"].value_counts()
    benchmarks = {
        one.name: {"questions": int(counted.get(one.name, 0)), **stored.asked(one.name)}
        for one in whole.benchmarks
    }
    manifest = {
        "format": FORMAT,
        "benchmarks": benchmarks,
        "leaks": asdict(leaks),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    write_json(Results(out).packed, manifest)
    try:
        _check(whole, read(out), lengths(Results(folder), whole), lengths(Results(out), whole))
        kept = _draw(out)
    except BaseException:
        Results(out).packed.unlink(missing_ok=True)
        raise
    size = sum(path.stat().st_size for path in (*out.glob("*.*"), *out.glob("figures/*"))) / 2**20
    said = f"{out}: {whole.name} packed, figures {', '.join(kept) or 'none'}; {size:.1f} MiB."
    if whole.missing:
        said += (
            f" The study is not finished ({len(whole.missing)} missing: {whole.missing[0]}"
            f"{', ...' if len(whole.missing) > 1 else ''}); keep {folder}, only there it can go on."
        )
    return said


class _Questions:
    """Each (benchmark, question, cluster) once; rows refer to it by its place."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, str], int] = {}

    def places(self, benchmark: str, frame: pd.DataFrame) -> list[int]:
        keys = zip(frame["question"].map(str), frame["cluster"].map(str), strict=True)
        return [self._places.setdefault((benchmark, *key), len(self._places)) for key in keys]

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(
            [*self._places], columns=["benchmark", "question", "cluster"], dtype="str"
        )


def _stages(stored: Stored, folder: Path, stages: Sequence[Path]) -> pd.DataFrame:
    """Every stage: its place, whether it is done, identity and record as JSON text."""

    def text(value: dict[str, Any] | None) -> str | None:
        return (
            None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        )

    return pd.DataFrame(
        {
            "stage": [stage.relative_to(folder).as_posix() for stage in stages],
            "done": [stored.done(stage) for stage in stages],
            "identity": [text(stored.identity(stage)) for stage in stages],
            "record": [text(stored.record(stage)) for stage in stages],
        }
    )


def _rows(
    stored: Stored,
    stages: Sequence[Path],
    kind: str,
    load: Callable[[Path], pd.DataFrame],
    asked: _Questions,
) -> pd.DataFrame:
    """The rows of all finished stages of a kind, sorted by question: most models answer a question
    alike, so columns become long runs. Counts are the smallest integers that hold them."""
    parts = []
    for number, stage in enumerate(stages):
        if stage.parent.name == kind and stored.done(stage):
            frame = load(stage)
            numbers = frame.drop(columns=["question", "cluster"])
            parts.append(numbers.assign(stage=number, question=asked.places(stage.name, frame)))
    if not parts:
        return pd.DataFrame({"stage": np.array([], "int32"), "question": np.array([], "int32")})
    joined = pd.concat(parts, ignore_index=True)
    joined = joined.sort_values(["question", "stage"], kind="stable", ignore_index=True)
    return joined.apply(_small)


def _small(column: pd.Series[Any]) -> pd.Series[Any]:
    known = column.dropna()
    if len(known) and bool((known == known.round()).all()) and known.abs().max() < 2**31:
        return column.astype("Int32")
    return column


def _log(stored: Stored, stages: Sequence[Path]) -> pd.DataFrame:
    """What the figures draw of each optimizer step; the other columns are left out."""
    lines = [
        {
            "stage": number,
            **{
                name: line[name]
                for name in ("step", *(curve[0] for curve in CURVES))
                if name in line
            },
        }
        for number, stage in enumerate(stages)
        if stage.name == "train" and stored.done(stage)
        for line in stored.log(stage)
    ]
    return pd.DataFrame(lines) if lines else pd.DataFrame({"stage": np.array([], "int32")})


def _parquet(frame: pd.DataFrame, *, ids: bool = False) -> bytes:
    """One row group, zstd, with the format's version; ``ids``: texts that share beginnings."""
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


def _check(whole: Records, packed: Records, long: pd.DataFrame, short: pd.DataFrame) -> None:
    """See that what was packed reads as what was there, before anybody throws the whole away."""
    for name in ("stages", "drops"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(packed, name))
    pd.testing.assert_frame_equal(whole.log[packed.log.columns], packed.log, check_dtype=False)
    before = whole.grades[[str(name) for name in packed.grades]]
    pd.testing.assert_frame_equal(before, packed.grades, check_dtype=False)
    if set(before) != set(whole.grades):
        raise AssertionError(f"packed counts are missing: {set(whole.grades) - set(before)}")
    pd.testing.assert_frame_equal(long, short)
    told = {name: whole.facts[name] for name in packed.facts}
    if told != dict(packed.facts) or whole.missing != packed.missing:
        raise AssertionError(f"packed facts differ: {told} {packed.facts}")


def _draw(out: Path) -> list[str]:
    """Write the packed folder's own tables and figures, from what was packed alone."""
    made = tables.load(out)
    write_bytes(out / "table.md", table_text.markdown(made.table).encode())
    write_bytes(out / "table.csv", as_frame(made.cells).to_csv(index=False).encode())
    results = Results(out)
    for path in (out / "figures").glob("*.png"):
        path.unlink()
    with look():
        found = dict(
            figures.drawn(made.records, made.cells, results, lengths(results, made.records))
        )
        wanted = (name for start in CHOSEN for name in found if name.startswith(start))
        kept = [*islice(dict.fromkeys(wanted), MOST)]
        for name in kept:
            path = out / "figures" / f"{name.replace(' ', '-')}.png"
            write_bytes(path, _lighter(rendered(found[name], "png")))
    return kept


def _lighter(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
