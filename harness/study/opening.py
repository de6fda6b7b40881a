"""Benchmarks by name, with the folders of their data; without torch: they can be exported and
graded where there is none."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.catalogue import BENCHMARKS, TOOLKITS, find
from benchmarks.interface import Benchmark
from harness.errors import UserError, unknown

__all__ = ["BENCHMARKS", "methods", "named_folders", "open_benchmarks"]


def open_benchmarks(
    names: Sequence[str],
    split: Literal["dev", "test"],
    limit: int | None,
    local_data: Sequence[str] = (),
    *,
    embedded: bool = True,
) -> tuple[Benchmark, ...]:
    """These benchmarks of the catalogue, in order; ``local_data``: texts ``NAME=FOLDER``, the
    benchmark's or its data's name and the folder of its files. ``embedded`` says whether the base
    is the world's: which names are nearest to a wrong one.

    Raises:
        UserError: there is no such benchmark (with the nearest name), a folder is given for none of
            them, or one's data is missing or broken (file and line).
    """
    folders = named_folders(local_data)
    entries = {}
    for name in names:
        try:
            entries[name] = find(name)
        except KeyError:
            raise _no_benchmark(name, embedded) from None
    served = [
        known
        for name, entry in entries.items()
        for known in (name, *((entry.local.name,) if entry.local else ()))
    ]
    for name in folders:
        if name not in served:
            raise _unread(name, names, list(dict.fromkeys(served)))
    try:
        return tuple(
            entry.factory(split, limit, entry.folder(name, folders))
            for name, entry in entries.items()
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _no_benchmark(name: str, embedded: bool) -> UserError:
    """The problem of an unknown benchmark, with all names that hold the given one: those of the
    base's own kind first."""
    asked = name.lower()
    near = [known for known in BENCHMARKS if asked in known or known in asked]
    near = near or difflib.get_close_matches(asked, list(BENCHMARKS), n=1, cutoff=0.5)
    near.sort(
        key=lambda known: known.startswith("synthetic_") != embedded
    )  # stable: else in the catalogue's order
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    known = ", ".join([*BENCHMARKS, *(f"{kit}:<{what}>" for kit, what in TOOLKITS.items())])
    return UserError(f"There is no benchmark {name!r}; {hint}Known: {known}.")


def _unread(name: str, benchmarks: Sequence[str], served: Sequence[str]) -> UserError:
    """The problem of a folder that none of the benchmarks asked for reads."""
    readers = [
        known
        for known, entry in BENCHMARKS.items()
        if name in (known, entry.local.name if entry.local else "")
    ]
    if readers:
        return UserError(
            f"--local-data {name} is read by {' and '.join(readers)}, and only"
            f" {' and '.join(benchmarks)} {'is' if len(benchmarks) == 1 else 'are'} asked for;"
            " leave it out, or add such a benchmark."
        )
    return unknown("local data", name, served)


def named_folders(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` texts as a mapping.

    Raises:
        UserError: a text has another form, its folder is not there, or a name is given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise UserError(f"--local-data {text!r} must be NAME=FOLDER, such as coco=data/coco.")
        if not Path(path).is_dir():
            raise UserError(
                f"--local-data {name}: there is no folder {path}; give the one that holds the"
                " benchmark's files."
            )
        if name in found:
            raise UserError(f"--local-data {name} is given twice; give one folder.")
        found[name] = Path(path)
    return found


def methods() -> Mapping[str, Any]:
    """The methods of the catalogue; none where torch is not installed."""
    try:
        from methods.catalogue import METHODS
    except ImportError:
        return {}
    return {name: entry.published for name, entry in METHODS.items()}
