"""A pool from COCO's caption annotations: ``coco:<json>:<folder>``.

All captions of an image that are not blank, one a line, are its reference; COCO has no questions.
"""

from __future__ import annotations

from typing import Any

from harness.data.annotated_images import (
    AnnotatedImage,
    annotated_pool,
    annotation_text,
    annotations_and_folder,
    image_path,
    read_annotations,
)
from harness.data.pool import Pool
from harness.errors import UserError


def coco_pool(spec: str) -> Pool:
    """The file's images, each with the id of its file name.

    Raises:
        UserError: the file has another form, names an image twice, has a caption of an image that
            it does not list, or an image is missing.
    """
    file, folder = annotations_and_folder(spec)
    names: dict[Any, str] = {}
    captions: dict[Any, list[str]] = {}
    files: set[str] = set()
    try:
        content = read_annotations(file)
        for image in content["images"]:
            id, name = image["id"], image["file_name"]
            if not isinstance(name, str):
                raise UserError(f"{file}: the image {id!r} has the file name {name!r}, no text.")
            if id in names or name in files:
                twice = f"the id {id!r}" if id in names else f"the image {name!r}"
                raise UserError(
                    f"{file}: {twice} is there twice among its images; give each image one entry."
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
            captions[id].append(annotation_text(annotation["caption"], where))
    except (KeyError, TypeError) as error:
        raise UserError(
            f'{file} is no COCO captions file ({error!r}): it must hold {{"images": [{{"id",'
            ' "file_name"}], "annotations": [{"image_id", "caption"}]}.'
        ) from None
    images = {
        name: AnnotatedImage(
            path=image_path(folder, name, str(file)), reference="\n".join(captions[id]) or None
        )
        for id, name in names.items()
    }
    return annotated_pool(spec, images)
