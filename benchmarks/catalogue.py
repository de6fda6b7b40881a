"""All benchmarks by name. A new benchmark is one module that ends in its ``SPEC``, and one word
here.

``lmms_eval:<task>`` and ``vlmevalkit:<data set>`` name any benchmark of those toolkits. The harness
turns a ValueError of this module into a UserError."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import (
    amber,
    coco,
    mmbench,
    mme,
    mmhal,
    pope,
    unavailable,
    via_lmms_eval,
    via_vlmevalkit,
)
from benchmarks.files import LocalData
from benchmarks.interface import Benchmark
from benchmarks.spec import Spec
from benchmarks.synthetic import suite

BENCHMARKS: Mapping[str, Spec] = {
    spec.name: spec
    for spec in (
        *suite.SPECS,
        *coco.SPECS,
        *pope.SPECS,
        *amber.SPECS,
        mmhal.SPEC,
        *unavailable.SPECS,
        mme.SPEC,
        mmbench.SPEC,
    )
}

TOOLKITS: Mapping[str, tuple[str, Callable[..., Benchmark]]] = {
    "lmms_eval": ("task", via_lmms_eval.benchmark),
    "vlmevalkit": ("data set", via_vlmevalkit.benchmark),
}
"""By toolkit: its own word for a benchmark, and how one is opened."""


def find(name: str) -> Spec:
    """The spec of a benchmark here, or of ``lmms_eval:<task>`` or ``vlmevalkit:<data set>``.

    Raises:
        KeyError: there is no such benchmark and no such toolkit.
    """
    toolkit, _, inner = name.partition(":")
    if toolkit not in TOOLKITS or not inner:
        return BENCHMARKS[name]
    kind, open_one = TOOLKITS[toolkit]
    twin = next((spec for spec in BENCHMARKS.values() if name in spec.twins), None)
    return Spec(
        name=name,
        factory=partial(open_one, inner),
        group=twin.group if twin else "general",
        size=twin.size if twin else 0,
        about=f"The {kind} {inner} of {toolkit}, graded by the toolkit's own code.",
        licence=twin.licence if twin else f"as the {kind} says",
        local=LocalData(name=toolkit, files=(), get="the toolkit's own data folder"),
    )


def open_benchmarks(
    names: Sequence[str],
    split: str,
    limit: int | None,
    local_data: Sequence[str] = (),
    *,
    synthetic: bool = True,
) -> tuple[Benchmark, ...]:
    """These benchmarks in order.

    ``local_data``: texts ``NAME=FOLDER``; NAME is a benchmark's or its data's. ``synthetic``:
    whether the base is the synthetic one; it decides which near names are suggested first.

    Raises:
        ValueError: a benchmark is unknown, a folder serves none of them, or data are missing or
            broken (with file and line).
    """
    folders = named_folders(local_data)
    specs = {}
    for name in names:
        try:
            specs[name] = find(name)
        except KeyError:
            raise ValueError(_unknown_benchmark(name, synthetic)) from None
    data_names = list(dict.fromkeys(name for spec in specs.values() for name in spec.data_names))
    for name in folders:
        if name not in data_names:
            raise ValueError(_unread_folder(name, names, data_names))
    return tuple(spec.factory(split, limit, spec.folder(folders)) for spec in specs.values())


def named_folders(local_data: Iterable[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` texts as a mapping.

    Raises:
        ValueError: a text has another form, its folder does not exist, or a name is given twice.
    """
    folders: dict[str, Path] = {}
    for text in local_data:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ValueError(f"--local-data {text!r} must be NAME=FOLDER, such as coco=data/coco.")
        if not Path(path).is_dir():
            raise ValueError(
                f"--local-data {name}: there is no folder {path}; give the one that holds the"
                " benchmark's files."
            )
        if name in folders:
            raise ValueError(f"--local-data {name} is given twice; give one folder.")
        folders[name] = Path(path)
    return folders


def _unknown_benchmark(name: str, synthetic: bool) -> str:
    """The message for an unknown benchmark: near names first, those for the base's kind before
    others."""
    lowered = name.lower()
    near_names = [
        candidate for candidate in BENCHMARKS if lowered in candidate or candidate in lowered
    ]
    near_names = near_names or difflib.get_close_matches(lowered, list(BENCHMARKS), n=1, cutoff=0.5)
    near_names.sort(key=lambda candidate: candidate.startswith("synthetic_") != synthetic)
    hint = f"did you mean {' or '.join(map(repr, near_names))}? " if near_names else ""
    kits = (f"{kit}:<{kind}>" for kit, (kind, _) in TOOLKITS.items())
    return f"There is no benchmark {name!r}; {hint}Known: {', '.join([*BENCHMARKS, *kits])}."


def _unread_folder(name: str, benchmarks: Sequence[str], data_names: Sequence[str]) -> str:
    """The message for a folder that none of the benchmarks asked for reads."""
    readers = [spec.name for spec in BENCHMARKS.values() if name in spec.data_names]
    if readers:
        return (
            f"--local-data {name} is read by {' and '.join(readers)}, and only"
            f" {' and '.join(benchmarks)} {'is' if len(benchmarks) == 1 else 'are'} asked for;"
            " leave it out, or add such a benchmark."
        )
    near_names = difflib.get_close_matches(name, data_names, n=1, cutoff=0.5)
    hint = f"did you mean {near_names[0]!r}? " if near_names else ""
    return f"There is no local data {name!r}; {hint}Known: {', '.join(data_names) or 'none'}."
