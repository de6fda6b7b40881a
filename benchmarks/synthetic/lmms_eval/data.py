"""Writes the synthetic questions as data sets that lmms-eval loads: ``python -m
benchmarks.synthetic.lmms_eval.data FOLDER``.

A data set is a folder with one Parquet file. As with the datasets library, its schema marks the
column that holds images."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmarks.synthetic import suite

TASKS = ("synthetic_pope", "synthetic_vqa")
_TEXTS = ("id", "question", "answer", "kind")
_COLUMNS = {name: {"dtype": "string", "_type": "Value"} for name in _TEXTS} | {
    "image": {"_type": "Image"}
}
_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def write(task: str, folder: Path, split: str, limit: int | None) -> Path:
    """Write the task's questions on at most ``limit`` images of the split below ``folder``; returns
    the data set's folder.

    Raises:
        ValueError: no such task, split or limit.
    """
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}; there are {' and '.join(TASKS)}.")
    rows = list(_rows(task, split, limit))
    schema = pyarrow.schema(
        [*((name, pyarrow.string()) for name in _TEXTS), ("image", _IMAGE)],
        metadata={"huggingface": json.dumps({"info": {"features": _COLUMNS}})},
    )
    dataset_folder = folder / task
    dataset_folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows, schema=schema),
        dataset_folder / "test-00000-of-00001.parquet",
    )
    return dataset_folder


def _rows(task: str, split: str, limit: int | None) -> Iterator[dict[str, Any]]:
    if task == "synthetic_pope":
        for probe in suite.pope(split, limit).items():
            yield _row(probe, "yes" if probe.truth.present else "no", probe.truth.setting)
    else:
        for item in suite.visual_questions(split, limit).items():
            yield _row(item, item.truth.answer, item.truth.kind)


def _row(item: Any, answer: str, kind: str) -> dict[str, Any]:
    content = io.BytesIO()
    item.load_image().save(content, format="PNG")
    image = {"bytes": content.getvalue(), "path": f"{item.cluster.replace('/', '_')}.png"}
    return {"id": item.id, "question": item.text, "answer": answer, "kind": kind, "image": image}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the synthetic questions as data sets for lmms-eval."
    )
    parser.add_argument(
        "folder", type=Path, help="data sets go to FOLDER/selfsight; run lmms-eval in FOLDER"
    )
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--limit", type=int, default=None, help="number of images, at most")
    options = parser.parse_args()
    for task in TASKS:
        print(write(task, options.folder / "selfsight", options.split, options.limit))


if __name__ == "__main__":
    main()
