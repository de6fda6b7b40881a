"""Pools from a JSON file beside a folder of images: ``llava:<json>:<folder>`` and
``coco:<json>:<folder>``.

LLaVA-Instruct (Liu et al., arXiv 2304.08485) is a list of ``{"id", "image", "conversations"}``. The
first question of a conversation is the image's question, its answer the reference. LLaVA's subsets
are such files (``detail_23k.json``, ``complex_reasoning_77k.json``).

Of COCO's caption annotations all captions of an image that are not blank, one a line, are its
reference; COCO has no questions.

Every image must exist when the pool is opened, inside the given folder. A missing image, or a name
that leads out of the folder, is an error before any work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.files import is_file
from harness.artifacts.fingerprint import storable
from harness.data.pool import Pool, PoolFile, pool_of_files
from harness.data.text_file import IMAGE_TOKEN, BadText, checked_text, parse_json, read_text
from harness.errors import UserError


def llava_pool(spec: str) -> Pool:
    """The file's entries that have an image.

    Raises:
        UserError: the file has another form, an entry is wrong, or an image is missing.
    """
    file, folder, entries = _read_annotations(spec)
    if not isinstance(entries, list):
        raise UserError(
            f'{file} is no LLaVA-Instruct file: it must be a list of {{"id", "image",'
            ' "conversations"}.'
        )
    images: dict[str, PoolFile] = {}
    for number, entry in enumerate(entries):
        where = f"{file}, entry {number}"
        if (texts := _parse_entry(entry, where)) is None:
            continue
        name, question, reference = texts
        id = f"{entry.get('id', number)}"
        if not storable(id):
            raise UserError(f"{where}: UTF-8 cannot store the id {id!r}; give another.")
        if id in images:  # several entries may ask about one image
            id = f"{id}#{number}"
        images[id] = PoolFile(
            path=_image_path(folder, name, where), question=question, reference=reference
        )
    return _checked_pool(spec, images)


def _parse_entry(entry: Any, where: str) -> tuple[str, str, str] | None:
    """An entry's image name, question and answer; None for an entry without an image."""
    try:
        image, turns = entry.get("image"), entry["conversations"]
        if image is None:
            return None
        roles = [turns[index]["from"] for index in (0, 1)]
        question_value, answer_value = (turns[index]["value"] for index in (0, 1))
    except (AttributeError, KeyError, IndexError, TypeError):
        raise UserError(
            f'{where}: an entry is {{"id", "image", "conversations": [{{"from": "human",'
            ' "value"}, ...]}.'
        ) from None
    if roles != ["human", "gpt"] or not isinstance(image, str):
        raise UserError(
            f"{where}: image must be a file's name, and a conversation begins with a question"
            " (human) and its answer (gpt), neither empty."
        )
    # IMAGE_TOKEN stands for the image in a question. Here the image always comes first.
    if isinstance(question_value, str):
        question_value = question_value.replace(IMAGE_TOKEN, "")
    question = _check_text(question_value, f"{where}: the question")
    return image, question, _check_text(answer_value, f"{where}: the answer")


def coco_pool(spec: str) -> Pool:
    """The file's images, each with the id of its file name.

    Raises:
        UserError: the file has another form, names an image twice, has a caption of an image that
            it does not list, or an image is missing.
    """
    file, folder, content = _read_annotations(spec)
    names: dict[Any, str] = {}
    captions: dict[Any, list[str]] = {}
    files: set[str] = set()
    try:
        for image in content["images"]:
            id, name = image["id"], image["file_name"]
            if not isinstance(name, str):
                raise UserError(f"{file}: the image {id!r} has the file name {name!r}, no text.")
            if id in names or name in files:
                duplicate = f"the id {id!r}" if id in names else f"the image {name!r}"
                raise UserError(
                    f"{file}: {duplicate} is there twice among its images; give each image one"
                    " entry."
                )
            names[id], captions[id] = name, []
            files.add(name)
        for annotation in content["annotations"]:
            if (id := annotation["image_id"]) not in names:
                raise UserError(
                    f"{file}: a caption is of the image {id!r}, which is not among its images;"
                    " give it whole."
                )
            where = f"{file}: a caption of the image {id!r}"
            if isinstance(annotation["caption"], str) and not annotation["caption"].strip():
                continue
            captions[id].append(_check_text(annotation["caption"], where))
    except (KeyError, TypeError) as error:
        raise UserError(
            f'{file} is no COCO captions file ({error!r}): it must hold {{"images": [{{"id",'
            ' "file_name"}], "annotations": [{"image_id", "caption"}]}.'
        ) from None
    images = {
        name: PoolFile(
            path=_image_path(folder, name, str(file)), reference="\n".join(captions[id]) or None
        )
        for id, name in names.items()
    }
    return _checked_pool(spec, images)


def _read_annotations(spec: str) -> tuple[Path, Path, Any]:
    """The JSON file and the folder of a spec ``<kind>:<json file>:<folder of images>``, and the
    JSON.

    Raises:
        UserError: one of them does not exist, or the file is not UTF-8 (the line is named) or not
            JSON.
    """
    kind, _, paths = spec.partition(":")
    name, _, folder = paths.rpartition(":")
    file = Path(name)
    if not folder.strip() or not file.is_file() or not Path(folder).is_dir():
        raise UserError(
            f"The pool {spec!r} must be {kind}:<json file>:<folder of images>, both there."
        )
    return file, Path(folder), parse_json(read_text(file), str(file), "download it again.")


def _check_text(value: object, where: str) -> str:
    """A question or caption of the JSON file, without white space around it.

    Raises:
        UserError: it is no usable text; ``where`` begins the sentence.
    """
    try:
        return checked_text(value)
    except BadText as error:
        raise UserError(f"{where} {error}; mend the file or take the entry out.") from None


def _image_path(folder: Path, name: str, where: str) -> Path:
    """The path of an image by its name in the JSON file, which is not trusted.

    Raises:
        UserError: the name leads out of the folder.
    """
    if not storable(name):
        raise UserError(f"{where}: UTF-8 cannot store the image's name {name!r}; rename it.")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name:
        raise UserError(
            f"{where}: the image {name!r} leads out of the folder of images; name it as it lies"
            " there."
        )
    return folder / name


def _checked_pool(spec: str, images: Mapping[str, PoolFile]) -> Pool:
    """The pool of these images, by id.

    Raises:
        UserError: there are none, or files are missing.
    """
    if not images:
        raise UserError(f"The pool {spec} holds no image; give another file.")
    paths = {image.path for image in images.values()}
    if missing := [path for path in paths if not is_file(path)]:
        raise UserError(
            f"{len(missing)} of the {len(paths)} images of the pool {spec} are missing, such as"
            f" {min(missing)}; finish the download, or give a manifest of those that are there."
        )
    return pool_of_files(spec, images)
