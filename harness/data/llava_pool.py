"""A pool in the layout of LLaVA-Instruct (Liu et al., arXiv 2304.08485): ``llava:<json>:<folder>``.

The JSON is a list of ``{"id", "image", "conversations"}``. The first question of a conversation is
the image's question, its answer the reference. LLaVA's subsets are such files
(``detail_23k.json``, ``complex_reasoning_77k.json``).
"""

from __future__ import annotations

from typing import Any

from harness.artifacts.fingerprint import storable
from harness.data.annotated_images import (
    AnnotatedImage,
    annotated_pool,
    annotation_text,
    annotations_and_folder,
    image_path,
    read_annotations,
)
from harness.data.pool import Pool
from harness.data.text_file import IMAGE_TOKEN
from harness.errors import UserError


def llava_pool(spec: str) -> Pool:
    """The file's entries that have an image.

    Raises:
        UserError: the file has another form, an entry is wrong, or an image is missing.
    """
    file, folder = annotations_and_folder(spec)
    entries = read_annotations(file)
    if not isinstance(entries, list):
        raise UserError(
            f'{file} is no LLaVA-Instruct file: it must be a list of {{"id", "image",'
            ' "conversations"}.'
        )
    images: dict[str, AnnotatedImage] = {}
    for number, entry in enumerate(entries):
        where = f"{file}, entry {number}"
        if (texts := _texts(entry, where)) is None:
            continue
        name, question, reference = texts
        id = f"{entry.get('id', number)}"
        if not storable(id):
            raise UserError(f"{where}: UTF-8 cannot store the id {id!r}; give another.")
        if id in images:  # several entries may ask about one image
            id = f"{id}#{number}"
        images[id] = AnnotatedImage(
            path=image_path(folder, name, where), question=question, reference=reference
        )
    return annotated_pool(spec, images)


def _texts(entry: Any, where: str) -> tuple[str, str, str] | None:
    """An entry's image name, question and answer; None for an entry without an image."""
    try:
        image, turns = entry.get("image"), entry["conversations"]
        if image is None:
            return None
        roles = [turns[place]["from"] for place in (0, 1)]
        asked, answered = (turns[place]["value"] for place in (0, 1))
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
    asked = asked.replace(IMAGE_TOKEN, "") if isinstance(asked, str) else asked
    question = annotation_text(asked, f"{where}: the question")
    return image, question, annotation_text(answered, f"{where}: the answer")
