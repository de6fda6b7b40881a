"""The audit: the untrained base and the weights that authors released, on the benchmarks' official
files. Nothing is trained; published values stand beside the measured ones.

    python -m harness plan audit                  downloads, hours, disk; needs no GPU and no data
    python -m harness run audit                   LLaVA-1.5-7B, and what is in data/released
    python -m harness run audit --base llava-1.5-13b
    python -m harness run audit --only sima-7b csr-round3-7b --row "mine=path/to/model"

The data are in ``data/`` (another folder: ``--pool``): benchmarks as for the study paper,
downloaded checkpoints in ``data/original/NAME``, converted ones in ``data/released/NAME``. Rows
whose weights and benchmarks whose files are not there are left out, each with the command that
brings them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.catalogue import BENCHMARKS, find, named_folders
from harness.errors import UserError, unknown, user_errors
from harness.models.base_cards import find_base
from harness.models.hub_snapshots import cached_model
from harness.models.released_cards import ReleasedCard, cards_of
from harness.study import compare, cost_model
from harness.study.paper import DATA, open_local_benchmarks
from harness.study.study import Run, Study
from harness.training.memory import GIB
from methods.untrained import Released, Untrained

BENCHMARK_NAMES = ("pope", "coco_chair", "amber_g", "amber_d", "mme")
"""The audit's benchmarks."""

TO_DOWNLOAD = "to download and convert"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A row or benchmark that is left out."""

    about: str
    """``row LABEL`` or ``benchmark NAME``."""
    says: str
    """What is lacking, and its cure."""

    @property
    def note(self) -> str:
        return f"Left out: {self.about}: {self.says}."


def select_cards(base: str, only: Sequence[str]) -> tuple[ReleasedCard, ...]:
    """The released checkpoints of the base, or those named in ``only``.

    Raises:
        UserError: there is no such checkpoint of this base.
    """
    cards = {card.name: card for card in cards_of(base)}
    for name in only:
        if name not in (*cards, compare.BASELINE):
            raise unknown(f"released checkpoint of {base}", name, cards)
    return tuple(card for card in cards.values() if not only or card.name in only)


def run_of(card: ReleasedCard, data: Path) -> Run:
    revision = f"@{card.revision}" if card.revision else ""
    method = Released(
        published_base=card.base, published_rows=card.rows, source=card.source + revision
    )
    return Run(label=card.label, base=str(card.converted(data)), method=method)


def data_folders(data: Path, given_folders: Mapping[str, Path]) -> dict[str, Path]:
    """The folders of the benchmarks' files by name: those given, else those in the data folder."""
    names = {spec.local.name for name in BENCHMARK_NAMES if (spec := BENCHMARKS[name]).local}
    return {name: data / name for name in sorted(names)} | dict(given_folders)


def find_missing(
    base: str,
    data: Path,
    only: Sequence[str],
    folders: Mapping[str, Path],
    names: Sequence[str] = (),
) -> tuple[list[LeftOut], list[LeftOut]]:
    """The released rows, and the benchmarks (``names``; empty: the audit's own), that are not
    there.

    Raises:
        UserError: an unknown checkpoint or benchmark.
    """
    rows = [
        LeftOut(about=f"row {card.label}", says=says)
        for card in select_cards(base, only)
        if (says := card.lacking(data))
    ]
    benchmarks = []
    for name in names or BENCHMARK_NAMES:
        try:
            spec = find(name)
        except KeyError:
            raise unknown("benchmark", name, BENCHMARKS) from None
        folder = spec.folder(folders) or (data / spec.local.name if spec.local else None)
        if spec.local and (missing_files := spec.missing(folder)):
            more = f" and {len(missing_files) - 4} more" if len(missing_files) > 4 else ""
            says = (
                f"{folder} lacks {', '.join(missing_files[:4])}{more}; get {spec.local.get}"
                " (benchmarks/README.md)"
            )
            benchmarks.append(LeftOut(about=f"benchmark {name}", says=says))
    return rows, benchmarks


def needs(
    *,
    base: str = "llava-1.5-7b",
    pool: str = DATA,
    only: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    local_data: Sequence[str] = (),
    **_: object,
) -> tuple[Run, list[LeftOut]]:
    """The baseline, and all rows and benchmarks that are not there; needs no data.

    Raises:
        UserError: an unknown checkpoint or benchmark, or a wrong folder.
    """
    with user_errors():
        folders = data_folders(Path(pool), named_folders(local_data))
    rows, absent = find_missing(base, Path(pool), only, folders, benchmarks)
    return Run(label=compare.BASELINE, base=base, method=Untrained()), [*rows, *absent]


def study(
    *,
    base: str = "llava-1.5-7b",
    pool: str = DATA,
    only: Sequence[str] = (),
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    rows: Sequence[str] = (),
    local_data: Sequence[str] = (),
) -> Study:
    """The audit.

    Args:
        base: the untrained base, and that of the released checkpoints.
        pool: the data folder.
        only: names of released checkpoints; empty: all of this base. ``untrained``: none.
        limit: most test images of a benchmark.
        benchmarks: names; empty: those of :data:`BENCHMARK_NAMES` whose files are there.
        rows: ``LABEL=CHECKPOINT`` texts; more checkpoints.
        local_data: ``NAME=FOLDER`` texts; the folders of benchmarks' official files.

    Raises:
        UserError: an unknown base, checkpoint or benchmark; a checkpoint named in ``only`` is not
            there; or no benchmark's files are.
    """
    compare.check_at_least_one(limit=limit)
    with user_errors():
        given_folders = named_folders(local_data)
    data, name = Path(pool), find_base(base).name
    folders = data_folders(data, given_folders)
    absent_rows, absent_benchmarks = find_missing(base, data, only, folders)
    if only and absent_rows:
        raise UserError(" ".join(row.note for row in absent_rows))
    left_out = {left_out_row.about.removeprefix("benchmark ") for left_out_row in absent_benchmarks}
    names = list(benchmarks or [name for name in BENCHMARK_NAMES if name not in left_out])
    if not names:
        raise UserError(" ".join(left_out_row.note for left_out_row in absent_benchmarks))
    cards = [card for card in select_cards(base, only) if not card.lacking(data)]
    return Study(
        name=compare.folder_name("audit", base, limit),
        question=(
            f"Do {name} and the weights that authors trained from it have their published values?"
        ),
        runs=(
            Run(label=compare.BASELINE, base=base, method=Untrained()),
            *(run_of(card, data) for card in cards),
            *(compare.run_from_text(text) for text in rows),
        ),
        benchmarks=open_local_benchmarks(data, names, limit, local_data),
        baseline=compare.BASELINE,
        limit=limit,
        notes=tuple(
            left_out_row.note
            for left_out_row in (*absent_rows, *(() if benchmarks else absent_benchmarks))
        ),
    )


def lines(
    *,
    base: str = "llava-1.5-7b",
    pool: str = DATA,
    only: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    **_: object,
) -> list[str]:
    """Downloads, time and disk of the whole audit, with the rows and files that are not there yet.

    Raises:
        UserError: an unknown base or checkpoint.
    """
    data, card = Path(pool), find_base(base)
    specs = [find(name) for name in benchmarks or BENCHMARK_NAMES]
    counts = {spec.name: count for spec in specs if (count := spec.question_count(limit))}
    not_counted = ", ".join(spec.name for spec in specs if spec.name not in counts)
    seconds = cost_model.answer_seconds(counts, {spec.name for spec in specs if spec.captions}) * (
        (card.parameters or cost_model.REFERENCE) / cost_model.REFERENCE
    )
    hours, weights_gb = seconds / 3600, cost_model.weights_gib(card) * GIB / 1e9
    is_local = isinstance(card.source, Path) or cached_model(card.source, card.revision) is not None
    rows = [_Line(compare.BASELINE, "here" if is_local else "to download", weights_gb, weights_gb)]
    for released in select_cards(base, only):
        state = released.lacking(data)
        state = state and ("to convert" if "not converted" in state else TO_DOWNLOAD)
        disk_gb = 2 * weights_gb if released.form == "full" else None
        rows.append(_Line(released.label, state or "here", released.gigabytes, disk_gb))
    width = max(len(line.label) for line in rows)
    downloads = [line.download for line in rows if "download" in line.state]
    sizes = [size for size in downloads if size is not None]
    unknown_sizes = len(downloads) - len(sizes)
    more = f", and {unknown_sizes} checkpoints of unknown size" if unknown_sizes else ""
    disk = sum(line.disk or 0.0 for line in rows)
    return [
        f"The audit of {card.name}: {len(rows)} rows, nothing is trained.",
        f"  {'row':<{width}}  {'weights':<24}{'download':>10}{'disk':>10}{'answers':>10}",
        *(
            f"  {line.label:<{width}}  {line.state:<24}{_gigabytes(line.download)}"
            f"{_gigabytes(line.disk)}{hours:>8.2f} h"
            for line in rows
        ),
        f"In all at least {len(rows) * seconds / 3600:.1f} GPU-hours for"
        f" {sum(counts.values()):,} questions a row ({', '.join(counts) or 'none'}"
        f"{not_counted and f'; not counted: {not_counted}'}): a lower bound by"
        " arithmetic for one H200; expect twice as much.",
        f"To download: about {sum(sizes):.0f} GB{more}. Disk: about {disk:.0f} GB, a whole"
        " checkpoint as downloaded and as converted (data/original can be deleted after the"
        f" conversion). One GPU needs {cost_model.answering_memory(card):.0f} GiB.",
    ]


def _gigabytes(size: float | None) -> str:
    return f"{'not known' if size is None else f'{size:.1f} GB':>10}"


@dataclass(frozen=True)
class _Line:
    """A row of the plan. ``download`` and ``disk`` in 10^9 bytes; None: not known."""

    label: str
    state: str
    download: float | None
    disk: float | None
