"""A pool from a data set of the hub, or a folder of its parquet files: ``hub:<name>``,
``hub:<name>@<revision>:<split>``.

A data set with several configurations is named with one: ``hub:<org>/<name>/<configuration>``. It
is read by the ``datasets`` library, which runs no code of the repository, at the commit that the
revision is at when the pool is opened. Columns are found by their names: the image in ``image``;
a question in ``question``, ``query`` or ``prompt``; a reference in ``reference``,
``answer``, ``answers`` or ``caption`` (of a list the first).
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from harness.data.pool import Pool, UnreadableImage, read_image
from harness.errors import UserError
from harness.models.hub_snapshots import FAILURES, commit_of
from methods.interface import Field, Item

ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")
QUESTIONS = ("question", "query", "prompt")
REFERENCES = ("reference", "answer", "answers", "caption")


def hub_pool(spec: str) -> Pool:
    """The opened data set: its rows are the images, numbered from 0.

    Raises:
        UserError: it cannot be loaded, or has no column of images.
    """
    import datasets

    name, _, split = spec.removeprefix("hub:").partition(":")
    name, _, revision = name.partition("@")
    wanted = split or "train"
    if Path(name).is_dir():
        files = sorted(
            str(path)
            for path in Path(name).rglob("*.parquet")
            if not split or path.name.startswith(f"{split}-")
        )
        if not files:
            raise UserError(
                f"The pool {spec}: {name} holds no {f'{split}-*' if split else '*'}.parquet; give"
                " its folder."
            )
        table = _loaded(spec, "parquet", data_files={wanted: files}, split=wanted)
    else:
        if not ID.fullmatch(name):
            raise UserError(
                f"The pool {spec} must be"
                " hub:<org>/<name>[/<configuration>][@<revision>][:<split>], or hub:<folder with"
                " parquet files>."
            )
        org, id, *configuration = name.split("/")
        commit = commit_of(f"The pool {spec}", f"{org}/{id}", revision or None)
        table = _loaded(spec, f"{org}/{id}", *configuration, revision=commit, split=wanted)
        # Where the hub cannot be reached, the library takes what it has of the data set, of
        # whatever commit.
        kept = [Path(one["filename"]) for one in table.cache_files]
        if kept and not any(commit in path.parts for path in kept):
            raise UserError(
                f"The pool {spec} is in the local cache, but not at its commit {commit}; go online."
            )
        spec = f"hub:{name}@{commit}" + (f":{split}" if split else "")
    if "image" not in table.column_names:
        raise UserError(
            f"The pool {spec} has no column image; its columns are {', '.join(table.column_names)}."
        )
    if not len(table):
        raise UserError(f"The pool {spec} is empty; give another split.")
    table = table.cast_column(
        "image", datasets.Image(decode=False)
    )  # decoded here, with our limits on size
    question = next((column for column in QUESTIONS if column in table.column_names), None)
    reference = next((column for column in REFERENCES if column in table.column_names), None)

    def read(id: str) -> Item:
        row = table[int(id)]
        image = row["image"]
        if not image or not (image.get("bytes") or image.get("path")):
            raise UnreadableImage("no image in its row")
        source = io.BytesIO(image["bytes"]) if image.get("bytes") else Path(image["path"])
        texts = [
            _text(row[column], id, column, spec) if column else None
            for column in (question, reference)
        ]
        return Item(id=id, image=read_image(source), question=texts[0], reference=texts[1])

    fields: set[Field] = {"image"}
    fields |= {"question"} if question else set()
    fields |= {"reference"} if reference else set()
    width = len(str(len(table) - 1))
    return Pool(
        spec=spec,
        ids=tuple(f"{number:0{width}d}" for number in range(len(table))),
        fields=frozenset(fields),
        read=read,
    )


def _loaded(spec: str, *name: str, **options: Any) -> Any:
    """The data set's table, whose images are not decoded yet."""
    import datasets

    try:
        return datasets.load_dataset(*name, **options)
    except (*FAILURES, datasets.exceptions.DatasetsError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The pool {spec} could not be loaded: {said.rstrip('.')}; check the name, revision and"
            " split."
        ) from error


def _text(value: Any, id: str, column: str, spec: str) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    if not isinstance(first, str) or not first.strip():
        raise UserError(
            f"The pool {spec}, row {id}: {column} is not text ({first!r:.60}); give a data set with"
            " texts there."
        )
    return first.strip()
