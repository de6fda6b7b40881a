"""Reads and writes ``study.json``, which holds its own fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import Results, check_name, read_json
from harness.errors import UserError

SHA = "sha256"
"""The field of study.json with the fingerprint of all others; earlier versions wrote none."""

REPACK = (
    "get the packed folder again (from git), or pack the whole one again with `python -m harness"
    " pack`."
)


def check_names(study: Mapping[str, Any]) -> None:
    """Check every name of study.json that becomes a part of a path.

    Raises:
        UserError: such a name could lead elsewhere.
    """
    for run in study["runs"]:
        check_name("label", run["label"])
        for field in ("seed", "rounds"):
            number = run.get(field, 0)
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise TypeError(f"{field} {number!r}")
    for benchmark in study["benchmarks"]:
        check_name("benchmark", benchmark["name"])


def with_sha(study: Mapping[str, Any]) -> dict[str, Any]:
    """The content of study.json with its own fingerprint, which reading compares."""
    return {**study, SHA: fingerprint(study)}


def read_study(results: Results) -> dict[str, Any]:
    """The content of study.json as it was written, without the fingerprint.

    Raises:
        UserError: there is none, or it was cut or changed.
    """
    path = results.study
    if not path.is_file():
        raise UserError(
            f"{results.out} holds no study.json; give the folder of a study, as `python -m"
            " harness run` prints it."
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise bad_study(results, TypeError("its fields"))
    written = content.pop(SHA, None)
    if written is not None and written != fingerprint(content):
        again = REPACK if results.packed.exists() else "run again: it is then written anew."
        raise UserError(
            f"{path} was changed after it was written; put the original back, or {again}"
        )
    return content


def bad_study(results: Results, error: Exception) -> UserError:
    return UserError(
        f"{results.study} lacks {error} or has it in another form; run the study again with this"
        " version."
    )
