"""What the LLaVA-Instruct and COCO layouts share: a JSON file beside a folder of images.

Every image must exist when the pool is opened, inside the given folder. A missing image, or a name
that leads out of the folder, is an error before any work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.files import is_file
from harness.artifacts.fingerprint import storable
from harness.data.image_file import read_image
from harness.data.pool import Pool
from harness.data.text_file import BadText, checked_text, parse_json, read_text
from harness.errors import UserError
from methods.interface import Field, Item


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """An image's file and its texts."""

    path: Path
    question: str | None = None
    reference: str | None = None


def annotations_and_folder(spec: str) -> tuple[Path, Path]:
    """The JSON file and the folder of a spec ``<kind>:<json file>:<folder of images>``.

    Raises:
        UserError: one of them does not exist.
    """
    kind, _, rest = spec.partition(":")
    file, _, folder = rest.rpartition(":")
    if not folder.strip() or not Path(file).is_file() or not Path(folder).is_dir():
        raise UserError(
            f"The pool {spec!r} must be {kind}:<json file>:<folder of images>, both there."
        )
    return Path(file), Path(folder)


def read_annotations(file: Path) -> Any:
    """The file's JSON.

    Raises:
        UserError: it is not UTF-8 (the line is named) or not JSON.
    """
    return parse_json(read_text(file), str(file), "download it again.")


def annotation_text(value: object, where: str) -> str:
    """A question or caption of the JSON file, without white space around it.

    Raises:
        UserError: it is no usable text; ``where`` begins the sentence.
    """
    try:
        return checked_text(value)
    except BadText as error:
        raise UserError(f"{where} {error}; mend the file or take the entry out.") from None


def image_path(folder: Path, name: str, where: str) -> Path:
    """The path of an image by its name in the JSON file, which is not trusted.

    Raises:
        UserError: the name leads out of the folder.
    """
    if not storable(name):
        raise UserError(f"{where}: UTF-8 cannot store the image's name {name!r}; rename it.")
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not name:
        raise UserError(
            f"{where}: the image {name!r} leads out of the folder of images; name it as it lies"
            " there."
        )
    return folder / name


def annotated_pool(spec: str, images: Mapping[str, AnnotatedImage]) -> Pool:
    """The pool of these images, by id. It has a field where every image has the text.

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

    def read(id: str) -> Item:
        image = images[id]
        return Item(
            id=id,
            image=read_image(image.path),
            question=image.question,
            reference=image.reference,
        )

    fields: set[Field] = {"image"}
    fields |= {"question"} if all(image.question for image in images.values()) else set()
    fields |= {"reference"} if all(image.reference for image in images.values()) else set()
    return Pool(spec=spec, ids=tuple(images), fields=frozenset(fields), read=read)
