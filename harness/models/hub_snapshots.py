"""A model of the hub as a folder of its local cache: the files that are needed and no others, all
there before any is loaded; and the commit that a data set's revision is at.

transformers could fetch them by itself. It would take a torch file (a pickle) where there are no
safetensors, and then tell the hub's conversion service so; and a file that was cut would be found
only when the files before it have been read."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the fork of it that this version speaks through
from safetensors import SafetensorError, safe_open

from harness.errors import UserError
from harness.models import checkpoints

SETTINGS = ["*.json", "*.txt", "*.jinja", "*.model"]
"""A model's settings and its tokenizer's files."""

SINGLE, TORCH = "model.safetensors", "pytorch_model.bin"
FAILURES = (OSError, ValueError, HfHubHTTPError, httpx.HTTPError)
"""What a request may end with; httpx's own, such as a connection that breaks off, are no
OSError."""


def fetch(
    what: str, id: str, revision: str | None, *, weights: bool = True, torch_file: bool = False
) -> Path:
    """The folder of the model ``id`` at a revision, downloaded as far as it is not there: its
    settings and, unless ``weights`` is False, its safetensors; where it has none and ``torch_file``
    is True its torch file. ``what`` names it in sentences.

    Raises:
        UserError: it is not there, gated, or not to be reached; it has no such weights; a file is
            cut; the disk is full.
    """
    try:
        folder = Path(
            snapshot_download(
                id, revision=revision, allow_patterns=SETTINGS, ignore_patterns=["*/*"]
            )
        )
        if not weights:
            return folder
        index = folder / checkpoints.INDEX
        if index.is_file():
            names = sorted(set(checkpoints.read_json(index).get("weight_map", {}).values()))
            if not all((folder / name).is_file() for name in names):
                snapshot_download(id, revision=folder.name, allow_patterns=names)
        else:
            names = [_single(what, id, folder.name, torch_file)]
    except FAILURES as error:
        raise checkpoints.why(what, id, revision, error) from error
    for name in names:
        _check(what, id, folder / name)
    return folder


def commit_of(what: str, dataset: str, revision: str | None) -> str:
    """The commit that a data set's branch or tag is at; without a network the one that it was at
    when it was last asked.

    Raises:
        UserError: there is no such data set or revision, it is gated, or it is not known here and
            the hub cannot be reached.
    """
    try:
        return str(
            HfApi().resolve_revision(dataset, repo_type="dataset", revision=revision).resolved
        )
    except RevisionResolutionError as error:
        raise UserError(
            f"{what} could not be loaded from {dataset}: it is not in the local cache and the hub"
            " cannot be reached: go online, or give a folder of its parquet files."
        ) from error
    except FAILURES as error:
        raise checkpoints.why(what, dataset, revision, error) from error


def _single(what: str, id: str, commit: str, torch_file: bool) -> str:
    """The name of the one file with the weights, which is there then."""
    try:
        hf_hub_download(id, SINGLE, revision=commit)
    except LocalEntryNotFoundError:
        if not torch_file:
            raise
        hf_hub_download(id, TORCH, revision=commit)  # offline: what an earlier run took
        return TORCH
    except EntryNotFoundError:
        if torch_file:
            hf_hub_download(id, TORCH, revision=commit)
            return TORCH
        if not HfApi().file_exists(id, TORCH, revision=commit):
            raise
        raise UserError(
            f"{what} could not be loaded from {id}: at {commit[:12]} it has {TORCH} alone, a torch"
            f" file, which is not read; give a revision with {SINGLE} (the hub's conversions are"
            f" its pull requests: {id}@refs/pr/N), or a folder."
        ) from None
    return SINGLE


def _check(what: str, id: str, file: Path) -> None:
    """Raise UserError unless the weights are there and as long as their header says."""
    if not file.is_file():
        raise UserError(
            f"{what} could not be loaded from {id}: {file.name}, which its index names, is not"
            " there."
        )
    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        # The link alone would be made again, to the same content.
        raise UserError(
            f"{what} could not be loaded from {id}: {file.name} is cut or damaged in the local"
            f" cache ({error}); delete {file.resolve()} and run the same command again: it is"
            " downloaded anew."
        ) from error
