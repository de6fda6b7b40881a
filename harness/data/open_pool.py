"""Opens a pool by its spec: a kind before a colon, a folder, or a manifest."""

from __future__ import annotations

from pathlib import Path

from harness.artifacts.fingerprint import storable
from harness.data.coco_pool import coco_pool
from harness.data.folder_pool import folder_pool
from harness.data.llava_pool import llava_pool
from harness.data.manifest_pool import manifest_pool
from harness.data.mixture_pool import mixture_pool
from harness.data.pool import Pool
from harness.errors import UserError


def open_pool(spec: str) -> Pool:
    """The pool of a spec: ``synthetic[:<split>]``, a folder of images, a ``.jsonl`` manifest,
    ``llava:...``, ``coco:...``, ``hub:...`` or ``mix:...`` (see the files of the layouts).

    Raises:
        UserError: there is no such pool, or its files are wrong (file and line are named).
    """
    if not spec.strip():
        raise UserError("The pool's name is empty; give synthetic, or `.` for the current folder.")
    if not storable(spec):
        raise UserError(f"UTF-8 cannot hold the pool's path {spec!a}; rename that file or folder.")
    kind = spec.partition(":")[0]
    if kind == "synthetic":
        # Imported here: it needs the synthetic benchmarks. Answering exported questions needs none.
        from harness.data.synthetic_pool import synthetic_pool

        return synthetic_pool(spec)
    if kind == "llava":
        return llava_pool(spec)
    if kind == "coco":
        return coco_pool(spec)
    if kind == "mix":
        return mixture_pool(spec, open_pool)
    if kind == "hub":
        # Imported here: it needs the datasets library and torch, which other pools do not.
        from harness.data.hub_pool import hub_pool

        return hub_pool(spec)
    path = Path(spec)
    if path.is_dir():
        return folder_pool(path)
    if path.suffix == ".jsonl" and path.is_file():
        return manifest_pool(path)
    raise UserError(
        f"There is no pool {spec!r}; give synthetic, an existing folder of images, an existing"
        " .jsonl manifest, llava:<json>:<folder>, coco:<json>:<folder>, hub:<name>, or"
        " mix:<pool>=<weight>,... of them."
    )
