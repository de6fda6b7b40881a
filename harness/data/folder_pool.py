"""A pool from a folder of images, searched recursively; an id is the path below the folder.

Linked folders are searched too, each once. Hidden files and folders (``.thumbnails``) are no part
of the pool. A file that cannot be used (HEIC without a PIL plug-in, a name that UTF-8 cannot hold)
is passed over at the draw and counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harness.artifacts.fingerprint import storable
from harness.data.image_file import UnreadableImage, read_image
from harness.data.pool import Pool
from harness.errors import UserError
from methods.interface import Item

SUFFIXES = frozenset(".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .avif .heic .heif".split())


def folder_pool(folder: Path) -> Pool:
    """The folder's images.

    Raises:
        UserError: it holds no file with one of the SUFFIXES.
    """
    paths = {}
    for path in _list_files(folder):
        if path.suffix.lower() in SUFFIXES:
            id = path.relative_to(folder).as_posix()
            paths[id if storable(id) else ascii(id)[1:-1]] = path
    if not paths:
        raise UserError(
            f"The folder {folder} holds no image; its files must end in"
            f" {' '.join(sorted(SUFFIXES))}."
        )

    def read(id: str) -> Item:
        if not storable(str(paths[id])):
            raise UnreadableImage("UTF-8 cannot hold its name; rename it")
        return Item(id=id, image=read_image(paths[id]))

    return Pool(spec=str(folder), ids=tuple(sorted(paths)), fields=frozenset({"image"}), read=read)


def _list_files(folder: Path) -> Iterator[Path]:
    """All files below the folder but hidden ones. Linked folders come last, and each real folder is
    searched once: links in a circle end, and a link to a folder of the pool adds nothing."""
    roots, visited = [folder], set()
    for root in roots:  # grows by the linked folders
        for parent, folders, files in os.walk(root, onerror=_raise_unreadable):
            real_path = os.path.realpath(parent)
            if real_path in visited:
                folders.clear()
                continue
            visited.add(real_path)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            subfolders = (Path(parent, name) for name in folders)
            roots += [path for path in subfolders if path.is_symlink()]
            yield from (Path(parent, name) for name in files if not name.startswith("."))


def _raise_unreadable(error: OSError) -> None:
    raise UserError(
        f"The folder {error.filename!a} of the pool cannot be read ({error.strerror}); allow"
        " it, or take it out."
    )
