"""Models of the hub as folders of the local cache, and the commits that revisions resolve to.

transformers could download them itself. But where a repository has no safetensors, it would take a
torch file (a pickle) and call the hub's conversion service; and it would find a cut file only after
it has read the files before it. Here only the needed files are downloaded, and all are checked
before any is loaded.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError  # raised for a torch file that holds more than tensors

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the version that it uses
from safetensors import SafetensorError

from harness.errors import UserError
from harness.models import adapters
from harness.models.checkpoints import (
    INDEX,
    SHA256,
    SINGLE,
    check_precision,
    content_sha,
    indexed_files,
    tensor_shapes,
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
SETTINGS = ["*.json", "*.txt", "*.jinja", "*.model"]
"""File patterns of a model's settings and its tokenizer."""
TORCH = "pytorch_model.bin"
PROBE_SECONDS = 3.0
FAILURES = (OSError, ValueError, HfHubHTTPError, httpx.HTTPError)
"""The exceptions of a failed request; httpx's own, such as a broken connection, are no OSError."""

REASONS: Mapping[type[BaseException], str] = {
    GatedRepoError: (
        "it is gated: accept its terms on its page and log in with `hf auth login` (or set"
        " HF_TOKEN)"
    ),
    RevisionNotFoundError: (
        "it has no revision {revision!r}: give one of its commits, tags or branches"
    ),
    RepositoryNotFoundError: (
        "there is no such repository, or it is private: check the id, or log in with `hf auth"
        " login`"
    ),
    LocalEntryNotFoundError: (
        "it is not in the local cache and the hub cannot be reached: go online, or give a folder"
        " that holds it"
    ),
    EntryNotFoundError: (
        "it lacks a file that is needed (config.json, or safetensors weights): give another"
        " checkpoint"
    ),
    UnpicklingError: (
        "its torch file holds more than tensors and was not run; give a model with safetensors"
    ),
    SafetensorError: "a weight file is cut or damaged: delete it and download it again",
    httpx.TransportError: (
        "the connection to the hub broke off: run the same command again, which continues the"
        " download"
    ),
}
"""The message for each kind of failure; the first that matches counts."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id (``org/name`` or ``org/name@revision``)."""
    return bool(HUB_ID.fullmatch(name))


def cached_folder(source: str | Path, revision: str | None) -> Path | None:
    """The folder, or that of a hub model in the local cache; None where it is not there."""
    if isinstance(source, Path):
        return source
    config = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def reachable() -> bool:
    """Whether the hub answers within :data:`PROBE_SECONDS`. Asked once: its library would try again
    for half a minute."""
    return not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)


@cache
def _answers(endpoint: str) -> bool:
    try:
        get_session().head(endpoint, timeout=PROBE_SECONDS)
    except FAILURES:
        return False
    return True


def fetch(
    label: str, id: str, revision: str | None, *, weights: bool = True, torch_file: bool = False
) -> Path:
    """Download the missing files of a model and return its folder, named by its commit.

    Args:
        label: the model's name in messages.
        weights: False: settings and tokenizer only.
        torch_file: accept a torch file where the repository has no safetensors.

    Raises:
        UserError: the model does not exist, is gated or unreachable; it has no such weights; a
            file is cut; the disk is full.
    """
    offline = not reachable()
    try:
        download = partial(snapshot_download, id, local_files_only=offline)
        settings = {"allow_patterns": SETTINGS, "ignore_patterns": ["*/*"]}
        folder = Path(download(revision=revision, **settings))
        if not weights:
            return folder
        if (folder / INDEX).is_file():
            names = indexed_files(folder)
            if not all((folder / name).is_file() for name in names):
                download(revision=folder.name, allow_patterns=names)
        else:
            names = [_single_file(label, id, folder.name, torch_file, offline)]
    except FAILURES as error:
        raise load_error(label, id, revision, error) from error
    for name in names:
        _check_file(label, id, folder / name)
    return folder


def cached_model(id: str, revision: str | None) -> Path | None:
    """The folder of a model's commit in the local cache, where settings, tokenizer and weights are
    all there; asks no network."""
    folder, tokenizers = cached_folder(id, revision), ("tokenizer.json", "tokenizer_config.json")
    if folder is None or not any((folder / name).is_file() for name in tokenizers):
        return None
    names = indexed_files(folder) if (folder / INDEX).is_file() else [SINGLE]
    return folder if all((folder / name).is_file() for name in names) else None


def fetch_config(id: str, revision: str | None) -> tuple[Path, str]:
    """The folder with a repository's config.json (or a whole adapter), and its commit.

    Raises:
        UserError: the repository, the revision or both files do not exist, it is gated, or the
            hub cannot be reached.
    """
    offline = not reachable()
    try:
        try:
            path = hf_hub_download(id, "config.json", revision=revision, local_files_only=offline)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            path = hf_hub_download(id, adapters.CONFIG, revision=revision)
            files = [adapters.CONFIG, adapters.WEIGHTS, adapters.RECORD]
            snapshot_download(id, revision=revision, allow_patterns=files)
    except FAILURES as error:
        raise load_error(f"The checkpoint {id!r}", id, revision, error) from error
    folder = Path(path).parent
    return folder, folder.name  # the cache names a snapshot's folder by its commit


def commit_of(label: str, dataset: str, revision: str | None) -> str:
    """The commit of a data set's branch or tag; offline, the last one that the cache has.

    Raises:
        UserError: the data set or revision does not exist, it is gated, or the hub cannot be
            reached and the cache has no commit.
    """
    try:
        resolved = HfApi().resolve_revision(dataset, repo_type="dataset", revision=revision)
        return str(resolved.resolved)
    except RevisionResolutionError as error:
        raise UserError(
            f"{label} could not be loaded from {dataset}: it is not in the local cache and the hub"
            " cannot be reached: go online, or give a folder of its parquet files."
        ) from error
    except FAILURES as error:
        raise load_error(label, dataset, revision, error) from error


def _single_file(label: str, id: str, commit: str, torch_file: bool, offline: bool) -> str:
    """Download the one file with the weights and return its name; ``offline``: without the hub."""
    try:
        hf_hub_download(id, SINGLE, revision=commit, local_files_only=offline)
    except EntryNotFoundError as error:
        if torch_file:  # offline, an earlier run may have it
            hf_hub_download(id, TORCH, revision=commit, local_files_only=offline)
            return TORCH
        not_cached = isinstance(error, LocalEntryNotFoundError)
        if not_cached or not HfApi().file_exists(id, TORCH, revision=commit):
            raise
        raise UserError(
            f"{label} could not be loaded from {id}: at {commit[:12]} it has {TORCH} alone, a torch"
            f" file, which is not read; give a revision with {SINGLE} (the hub's conversions are"
            f" its pull requests: {id}@refs/pr/N), or a folder."
        ) from None
    return SINGLE


def _check_file(label: str, id: str, file: Path) -> None:
    """Raise UserError unless the weight file exists and has the content that the hub promised: the
    size in its header and, of a large file, the SHA-256 that is its name in the cache."""
    if not file.is_file():
        raise UserError(
            f"{label} could not be loaded from {id}: {file.name}, which its index names, is not"
            " there."
        )
    expected_sha = file.resolve().name
    intact = not SHA256.fullmatch(expected_sha) or content_sha(file) == expected_sha
    try:
        if file.suffix == ".safetensors":
            tensor_shapes(file)
    except UserError:
        intact = False
    if not intact:
        # The file behind the cache's link must go; the link alone would be made again.
        raise UserError(
            f"{label} could not be loaded from {id}: {file.name} is cut or damaged in the local"
            f" cache; delete {file.resolve()} and run the same command again: it is downloaded"
            " anew."
        )
    if file.suffix == ".safetensors":
        check_precision(file)


def load_error(label: str, source: str, revision: str | None, error: BaseException) -> UserError:
    """The sentence for a model that could not be loaded, from ``error`` or one of its causes."""
    errors: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in errors:
        errors.append(cause)
        cause = cause.__cause__ or cause.__context__
    prefix = f"{label} could not be loaded from {source}:"
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in errors):
        return UserError(
            f"{prefix} the disk is full; free some space below {constants.HF_HUB_CACHE}, or set"
            " HF_HOME to another disk, and run the same command again."
        )
    for error_type, reason in REASONS.items():
        if any(isinstance(e, error_type) for e in errors):
            return UserError(f"{prefix} {reason.format(revision=revision)}.")
    reason = " ".join(str(error).split("\n")[0].split())[:300]
    if "backend tokenizer" in reason:  # followed by a list of five libraries
        return UserError(f"{prefix} it has no tokenizer; put its tokenizer.json there.")
    if not isinstance(error, (OSError, ValueError)):
        reason = f"{type(error).__name__}: {reason}"  # such as KeyError, whose text is a name
    return UserError(f"{prefix} {reason or type(error).__name__}")
