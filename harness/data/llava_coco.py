"""Pools of images with texts in the layouts of LLaVA-Instruct and COCO: a JSON file beside a
folder of images.

``llava:<json>:<folder>``: LLaVA-Instruct (Liu et al., arXiv 2304.08485): a list of ``{"id",
"image", "conversations"}``; the first question of a conversation and its answer. Its subsets are
files (``detail_23k.json``, ``complex_reasoning_77k.json``).
``coco:<json>:<folder>``: COCO's captions; the captions of an image, one a line, are its reference.
Every image must be there when the pool is opened, in the folder that is given: one that is
missing, or whose name leads out of it, is named before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.data.pool import Pool, read_image
from harness.errors import UserError
from methods.interface import Field, Item

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image's file and the texts beside it."""

    path: Path
    question: str | None = None
    reference: str | None = None


def llava_pool(spec: str) -> Pool:
    file, folder = _parts(spec)
    entries: dict[str, Entry] = {}
    rows = _json(file)
    if not isinstance(rows, list):
        raise UserError(
            f'{file} is no LLaVA-Instruct file: it must be a list of {{"id", "image",'
            ' "conversations"}.'
        )
    for number, row in enumerate(rows):
        where = f"{file}, entry {number}"
        try:
            image, turns = row.get("image"), row["conversations"]
            if image is None:
                continue  # text alone: LLaVA's mixture holds such entries
            asked, told = (turns[place]["value"] for place in (0, 1))
            roles = [turns[place]["from"] for place in (0, 1)]
        except (AttributeError, KeyError, IndexError, TypeError):
            raise UserError(
                f'{where}: an entry is {{"id", "image", "conversations": [{{"from": "human",'
                ' "value"}, ...]}.'
            ) from None
        question = str(asked).replace(IMAGE_TOKEN, "").strip()
        if roles != ["human", "gpt"] or not question or not str(told).strip():
            raise UserError(
                f"{where}: a conversation begins with a question (human) and its answer (gpt),"
                " neither empty."
            )
        key = f"{row.get('id', number)}"
        key = (
            key if key not in entries else f"{key}#{number}"
        )  # an image may be asked about in several entries
        entries[key] = Entry(
            path=_inside(folder, str(image), where), question=question, reference=str(told).strip()
        )
    return _pool(spec, entries, {"image", "question", "reference"})


def coco_pool(spec: str) -> Pool:
    file, folder = _parts(spec)
    content = _json(file)
    names: dict[Any, str] = {}
    captions: dict[Any, list[str]] = {}
    files: set[str] = set()
    try:
        for image in content["images"]:
            id, name = image["id"], str(image["file_name"])
            if id in names or name in files:
                twice = f"the id {id!r}" if id in names else f"the image {name!r}"
                raise UserError(
                    f"{file}: {twice} is there twice among its images; give each image one entry."
                )
            names[id], captions[id] = name, []
            files.add(name)
        for note in content["annotations"]:
            if note["image_id"] not in names:
                strange = note["image_id"]
                raise UserError(
                    f"{file}: a caption is of the image {strange!r}, which is not among its"
                    " images; give it whole."
                )
            captions[note["image_id"]].append(str(note["caption"]).strip())
    except (KeyError, TypeError) as error:
        raise UserError(
            f'{file} is no COCO captions file ({error!r}): it must hold {{"images": [{{"id",'
            ' "file_name"}], "annotations": [{"image_id", "caption"}]}.'
        ) from None
    told = {name: "\n".join(captions[id]) or None for id, name in names.items()}
    entries = {
        name: Entry(path=_inside(folder, name, str(file)), reference=text)
        for name, text in told.items()
    }
    return _pool(spec, entries, {"image", "reference"} if all(told.values()) else {"image"})


def _parts(spec: str) -> tuple[Path, Path]:
    kind, _, rest = spec.partition(":")
    file, _, folder = rest.rpartition(":")
    if not Path(file).is_file() or not Path(folder).is_dir():
        raise UserError(
            f"The pool {spec!r} must be {kind}:<json file>:<folder of images>, both there."
        )
    return Path(file), Path(folder)


def _inside(folder: Path, name: str, where: str) -> Path:
    """The image's path; the name is another's text, and stays in the folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not name:
        raise UserError(
            f"{where}: the image {name!r} leads out of the folder of images; name it as it lies"
            " there."
        )
    return folder / name


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); download it again.") from None


def _pool(spec: str, entries: Mapping[str, Entry], fields: set[Field]) -> Pool:
    if not entries:
        raise UserError(f"The pool {spec} holds no image; give another file.")
    there = {path: path.is_file() for path in {entry.path for entry in entries.values()}}
    if missing := [path for path, found in there.items() if not found]:
        raise UserError(
            f"{len(missing)} of the {len(there)} images of the pool {spec} are missing, such as"
            f" {min(missing)}; finish the download, or give a manifest of those that are there."
        )

    def read(id: str) -> Item:
        entry = entries[id]
        return Item(
            id=id, image=read_image(entry.path), question=entry.question, reference=entry.reference
        )

    return Pool(spec=spec, ids=tuple(entries), fields=frozenset(fields), read=read)
