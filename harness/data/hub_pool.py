"""A pool from a data set of the hub, or from a folder of its parquet files.

``hub:<org>/<name>[/<configuration>][@<revision>][:<split>]`` or ``hub:<folder>[:<split>]``; the
default split is ``train``. The ``datasets`` library reads it and runs no code of the repository.
The revision is resolved to a commit when the pool is opened. Columns are recognised by name: the
image in ``image``; a question in ``question``, ``query`` or ``prompt``; a reference in
``reference``, ``answer``, ``answers`` or ``caption`` (of a list the first). Other columns are not
read. A row without usable text is an error only for methods that need the text.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import datasets

from harness.data.image_file import UnreadableImage, read_image
from harness.data.pool import Pool, fields_of
from harness.data.text_file import IMAGE_TOKEN, BadText, checked_text
from harness.errors import UserError
from harness.models.hub_snapshots import FAILURES, commit_of
from methods.interface import Item

ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")
QUESTIONS = ("question", "query", "prompt")
REFERENCES = ("reference", "answer", "answers", "caption")


def hub_pool(spec: str) -> Pool:
    """The data set's rows, numbered from 0. The pool's ``spec`` names the resolved commit.

    Raises:
        UserError: it cannot be loaded, is empty, or has no column ``image``.
    """
    name, _, split = spec.removeprefix("hub:").partition(":")
    name, _, revision = name.partition("@")
    if not name.strip():
        raise UserError(f"The pool {spec!r} names no data set; give hub:<org>/<name> or a folder.")
    if Path(name).is_dir():
        table = _from_folder(spec, Path(name), split)
    else:
        commit, table = _from_hub(spec, name, revision, split)
        spec = f"hub:{name}@{commit}" + (f":{split}" if split else "")
    if "image" not in table.column_names:
        raise UserError(
            f"The pool {spec} has no column image; its columns are {', '.join(table.column_names)}."
        )
    if not len(table):
        raise UserError(f"The pool {spec} is empty; give another split.")
    question = next((column for column in QUESTIONS if column in table.column_names), None)
    reference = next((column for column in REFERENCES if column in table.column_names), None)
    columns = ["image", *filter(None, (question, reference))]
    try:
        # read_image decodes, because it applies our limits.
        table = table.select_columns(columns).cast_column("image", datasets.Image(decode=False))
    except Exception as error:  # pyarrow and datasets raise TypeError, ArrowException, ...
        feature = table.features["image"]
        raise UserError(
            f"The pool {spec}: its column image holds {feature!r:.80}, not one image a row; give a"
            " data set with images there."
        ) from error

    def read(id: str) -> Item:
        row = table[int(id)]
        image = row["image"]
        if not image or not (image.get("bytes") or image.get("path")):
            raise UnreadableImage("no image in its row")
        source = io.BytesIO(image["bytes"]) if image.get("bytes") else Path(image["path"])
        texts = [_text(row[column]) if column else None for column in (question, reference)]
        return Item(id=id, image=read_image(source), question=texts[0], reference=texts[1])

    fields = fields_of(question=question is not None, reference=reference is not None)
    digits = len(str(len(table) - 1))
    ids = tuple(f"{index:0{digits}d}" for index in range(len(table)))
    return Pool(spec=spec, ids=ids, fields=fields, read=read)


def _from_folder(spec: str, folder: Path, split: str) -> Any:
    """The table of the folder's parquet files, or of those whose name begins with the split."""
    pattern = f"{split}-*.parquet" if split else "*.parquet"
    files = sorted(map(str, folder.rglob(pattern)))
    if not files:
        raise UserError(f"The pool {spec}: {folder} holds no {pattern}; give its folder.")
    split = split or "train"
    return _load(spec, "parquet", data_files={split: files}, split=split)


def _from_hub(spec: str, name: str, revision: str, split: str) -> tuple[str, Any]:
    """The commit that the revision resolves to, and the table at that commit."""
    if not ID.fullmatch(name):
        raise UserError(
            f"The pool {spec} must be hub:<org>/<name>[/<configuration>][@<revision>][:<split>],"
            " or hub:<folder with parquet files>."
        )
    org, id, *configuration = name.split("/")
    commit = commit_of(f"The pool {spec}", f"{org}/{id}", revision or None)
    table = _load(spec, f"{org}/{id}", *configuration, revision=commit, split=split or "train")
    # Offline, the library takes any commit of the data set that its cache has.
    cached = [Path(file["filename"]) for file in table.cache_files]
    if cached and not any(commit in path.parts for path in cached):
        raise UserError(
            f"The pool {spec} is in the local cache, but not at its commit {commit}; go online."
        )
    return commit, table


def _load(spec: str, *name: str, **options: Any) -> Any:
    """The data set's table; images are not decoded."""
    try:
        return datasets.load_dataset(*name, **options)
    except (*FAILURES, datasets.exceptions.DatasetsError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"The pool {spec} could not be loaded: {lines[0].rstrip('.')}; check the name, revision"
            " and split."
        ) from error


def _text(value: Any) -> str | None:
    """A cell's text, of a list the first; None: it is no usable text.

    Data sets in LLaVA's form begin or end a question with IMAGE_TOKEN, the place of the image. It
    is removed there: the image always comes first.
    """
    text = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(text, str):
        text = text.strip().removeprefix(IMAGE_TOKEN).removesuffix(IMAGE_TOKEN)
    try:
        return checked_text(text)
    except BadText:
        return None
