"""A pool from a folder of images, searched recursively; an id is the path below the folder."""

from __future__ import annotations

from pathlib import Path

from harness.data.image_file import read_image
from harness.data.pool import Pool
from harness.errors import UserError
from methods.interface import Item

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def folder_pool(folder: Path) -> Pool:
    """The folder's images.

    Raises:
        UserError: it holds no file with one of the SUFFIXES.
    """
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
    }
    if not paths:
        raise UserError(
            f"The folder {folder} holds no image; its files must end in"
            f" {' '.join(sorted(SUFFIXES))}."
        )

    def read(id: str) -> Item:
        return Item(id=id, image=read_image(paths[id]))

    return Pool(spec=str(folder), ids=tuple(sorted(paths)), fields=frozenset({"image"}), read=read)
