"""The card of a trained model or adapter: README.md in its folder, in the hub's form (front matter,
then what a reader needs).

Everything on it comes from the files of the run: identities, counts, records and, once the study's
table is made, its cells; nothing is claimed that was not measured there. Names, pools and reasons
are users' and data's words: they are escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.artifacts.results_folder import Results, read_json, write_bytes
from harness.reporting.tables.text import escape

if TYPE_CHECKING:  # the table needs no torch, and so must not the cards
    from harness.reporting.comparison import Cell
    from harness.reporting.results import Records, Row

RESULTS = "\n## Results\n"
"""The last heading: what follows it is written anew with every table."""

UNGRADED = "The study that this belongs to is not graded yet: nothing here says how good it is."

HUB_LICENCES = ("apache-2.0", "llama2", "mit")
"""Licences by the hub's own names; others are "other" there, with their name beside."""

Kind = Literal["model", "adapter"]


def write(
    train: Path, *, identity: Mapping[str, Any], record: Mapping[str, Any], pairs: Path
) -> None:
    """Write ``README.md`` into a training's ``model/`` and, where there is one, ``adapter/``.
    ``identity`` and ``record`` are the training stage's; ``pairs`` is the folder of the round's
    pairs."""
    made, counted = read_json(pairs / "identity.json"), read_json(pairs / "record.json")
    kinds: tuple[Kind, ...] = ("model", "adapter")
    for kind in kinds:
        if (train / kind).is_dir():
            told = read_json(train / kind / "adapter_config.json") if kind == "adapter" else {}
            write_bytes(
                train / kind / "README.md", card(identity, record, made, counted, told).encode()
            )


def card(
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
    made: Mapping[str, Any],
    counted: Mapping[str, Any],
    adapter: Mapping[str, Any] | None = None,
) -> str:
    """The card's text; ``made`` and ``counted`` are the pairs' identity and record, ``adapter`` its
    adapter_config.json."""
    from harness.models.base_cards import BASES

    base = BASES.get(str(identity["base"]))
    source = (
        str(base.source)
        if base is not None and isinstance(base.source, str)
        else str(identity["base"])
    )
    commit = base.revision if base is not None else None
    licence = None if base is None else base.licence
    method = dict(made["method"])
    name, counts, training = str(method.pop("name")), counted["counts"], record.get("training", {})
    pool = counted.get("pool", {})
    drops = ", ".join(
        f"{reason} {count}" for reason, count in counts.get("drops_by_reason", {}).items()
    )
    table = (
        ("started from (fingerprint)", identity["model"]),
        ("pairs (fingerprint)", identity["pairs"]),
        *(
            (("weights of the merged model (fingerprint)", record["weights"]),)
            if "weights" in record
            else ()
        ),
        (
            "pool",
            f"{pool.get('name', 'unknown')}, fingerprint {pool.get('fingerprint', 'unknown')}",
        ),
        (
            "images, pairs made, dropped",
            f"{counts['images']}, {counts['pairs']}, {counts['dropped']}",
        ),
        ("drops by reason", drops or "none"),
        (
            "optimiser steps, pairs used, visits",
            ", ".join(str(training.get(key)) for key in ("steps", "pairs_used", "visits")),
        ),
        ("seconds", record.get("seconds")),
        (
            "hardware",
            ", ".join(f"{key} {value}" for key, value in record.get("hardware", {}).items()),
        ),
        (
            "versions",
            ", ".join(f"{key} {value}" for key, value in record.get("versions", {}).items()),
        ),
    )
    lines = [
        "---",
        *_front(source, name, licence, adapter),
        "---",
        "",
        (
            f"# {escape(name)}, round {identity['round']}, seed"
            f" {identity['seed']}{', LoRA adapter' if adapter else ''}"
        ),
        "",
        f"{'Low-rank adapters' if adapter else 'A model'} trained by SelfSight from {_code(source)}"
        + (f" (commit {_code(commit)})" if commit else "")
        + f" with the method {escape(name)}, on preference pairs that the model of the round before"
        " made itself.",
        "",
        *(_use(adapter, identity["round"]) if adapter else ()),
        "| | |",
        "| :-- | :-- |",
        *(f"| {what} | {escape(str(value))} |" for what, value in table),
        "",
        "## Settings",
        "",
        "How pairs were made:",
        "",
        *_block(method),
        "",
        "How they became this model:",
        "",
        *_block(identity["recipe"]),
        "",
        "## Licences",
        "",
        f"The weights derive from {_code(source)}"
        + (
            f", licensed {escape(licence)}: its terms hold here too."
            if licence
            else "; its licence holds here too."
        )
        + " The images of the pool have licences of their own, which this card does not know.",
    ]
    return "\n".join(lines) + f"\n{RESULTS}\n{UNGRADED}\n"


def _front(
    source: str, method: str, licence: str | None, adapter: Mapping[str, Any] | None
) -> list[str]:
    """The lines of YAML; a base is named where the hub knows it."""
    front: dict[str, Any] = {}
    if source.count("/") == 1:
        front |= {"base_model": source, "base_model_relation": "adapter" if adapter else "finetune"}
    front |= {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
    }
    front["tags"] = ["selfsight", method, *(["lora"] if adapter else [])]
    if licence in HUB_LICENCES:
        front["license"] = licence
    elif licence:
        front |= {"license": "other", "license_name": licence}
    return [f"{key}: {json.dumps(value)}" for key, value in front.items()]


def _use(adapter: Mapping[str, Any], round: int) -> list[str]:
    """How an adapter is loaded, and what it sits on."""
    parent, revision = str(adapter["base_model_name_or_path"]), adapter.get("revision")
    hub = (
        f"AutoModelForImageTextToText.from_pretrained({json.dumps(parent)},"
        f" revision={json.dumps(revision)})"
    )
    after = (
        f" It is the model of round {round - 1}; that round's adapter may lie there in its place."
        if round > 1
        else ""
    )
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText",
        "",
        f"base = {hub if revision else '...  # the model named above'}",
        'model = PeftModel.from_pretrained(base, "this folder")',
    ]
    return [
        f"It sits on {_code(parent)}"
        + (
            f" at commit {_code(str(revision))}"
            if revision
            else "; the fingerprint of that one's weights is in selfsight.json"
        )
        + f'.{after} As a row of a comparison: `python -m harness run compare --row "mine=this'
        ' folder"`. With peft:',
        "",
        "```python",
        *lines,
        "```",
        "",
    ]


def with_results(out: Path, records: Records, cells: Sequence[Cell]) -> None:
    """Put what the study's table says of each trained row onto the cards of its models and
    adapters, in place of what stood there before; a folder without models is left as it is."""
    results = Results(out)
    for row in records.methods:
        for seed in row.seeds:
            for number in range(1, row.rounds + 1):
                train = results.train(row.label, seed, number)
                for path in (train / "model" / "README.md", train / "adapter" / "README.md"):
                    if (train / "DONE").exists() and path.is_file():
                        before = path.read_text(encoding="utf-8").partition(RESULTS)[0]
                        said = "\n".join(results_of(records, cells, row, seed, number))
                        write_bytes(path, f"{before}{RESULTS}\n{said}\n".encode())


def results_of(
    records: Records, cells: Sequence[Cell], row: Row, seed: int, number: int
) -> list[str]:
    """The row's primary metrics after a round, in Markdown: this seed's value, all seeds', the
    difference from the baseline with its interval, how much was asked, and whether a control
    reaches it."""
    mine = [
        cell
        for cell in cells
        if (cell.label, cell.round) == (row.label, number)
        and cell.primary
        and np.isfinite(cell.value)
    ]
    planned = [
        one.full_name for one in cells if one.label == row.label and one.primary and one.last
    ]
    if not mine:
        return [
            (
                UNGRADED
                if planned
                else "The study names no primary metric for this row: see its table."
            )
        ]
    absent = [name for name in planned if name not in {cell.full_name for cell in mine}]
    last = number == row.rounds
    lines = [
        f"From the study {escape(records.name)} ({escape(records.question)}), row"
        f" {escape(row.label)}, {records.split} split"
        + (f", limited to {records.limit} a benchmark" if records.limit is not None else "")
        + f". Differences are from {escape(records.baseline)}, with 95 % intervals over images"
        + (
            ", averaged over the seeds."
            if len(row.seeds) > 1
            else "; one training seed: they speak for this model only."
        ),
        "",
        (
            f"| metric | this model (seed {seed}) | all seeds | difference [95 % interval] | after"
            " Holm | seeds | images, questions |"
        ),
        "| :-- | --: | --: | --: | :-- | --: | --: |",
        *(_line(cell, seed, last) for cell in mine),
        "",
        *([f"Not graded yet: {', '.join(map(escape, absent))}.", ""] if absent else []),
        *(f"{escape(text)}\n" for text in records.facts.get("leaks", ())),
        *(
            [ROLES[row.role].format(of=escape(row.of or "another row")), ""]
            if row.role in ROLES
            else []
        ),
    ]
    if not last:
        return [
            *lines,
            (
                f"This is round {number} of {row.rounds}: tests and controls are for the last round"
                " alone."
            ),
        ]
    return (
        [*lines, *(_control(records, row, cell, cells) for cell in mine)]
        if row.role in ("method", "bound")
        else lines[:-1]
    )


ROLES = {
    "bound": "This row is a bound: it was shown what a method may not see.",
    "control": (
        "This row is a control of {of}, which has one thing taken from it: it is kept to be"
        " compared with."
    ),
}


def _line(cell: Cell, seed: int, last: bool) -> str:
    from harness.reporting.tables.build import number

    by_seed = dict(zip(cell.seeds.split(), cell.seed_values.split(), strict=True))
    own = (
        number(float(by_seed[str(seed)]), cell.places) if str(seed) in by_seed else "not graded yet"
    )
    change = cell.verdict if cell.verdict == "other questions" else "-"
    if np.isfinite(cell.difference):
        change = number(cell.difference, cell.places, sign=True)
        change += (
            f" [{number(cell.lo, cell.places)}, {number(cell.hi, cell.places)}]"
            if np.isfinite(cell.lo)
            else ""
        )
    verdict = cell.verdict if last else "not tested"
    seeds = f"{cell.n_seeds} of {cell.seeds_planned}"
    texts = (
        f"{cell.full_name.split(' / ')[0]}, {cell.heading}",
        own,
        number(cell.value, cell.places),
        change,
        verdict,
        seeds,
    )
    return f"| {' | '.join(map(escape, texts))} | {cell.pictures}, {cell.questions} |"


def _control(records: Records, row: Row, cell: Cell, cells: Sequence[Cell]) -> str:
    """Whether a control does as well, in a sentence."""
    name = escape(cell.full_name)
    if cell.verdict != "better":
        return f"- {name}: no clear gain, so there is nothing for a control to reach."
    if cell.reached_by:
        return (
            f"- {name}: a control gains as much ({escape(', '.join(cell.reached_by))}), so the gain"
            " is not the method's own."
        )
    planned = [
        one.label for one in records.rows if one.of == row.label and one.covers(cell.benchmark)
    ]
    same = [
        one
        for one in cells
        if (one.benchmark, one.metric, one.last) == (cell.benchmark, cell.metric, True)
    ]
    held = [one.label for one in same if one.label in planned and np.isfinite(one.difference)]
    later = [label for label in planned if label not in held]
    if not planned:
        return (
            f"- {name}: the study holds no control of this row, so whether one would gain as much"
            " is not known."
        )
    said = (
        f"none of its controls gains as much ({escape(', '.join(held))})"
        if held
        else "none of its controls is graded yet"
    )
    return (
        f"- {name}:"
        f" {said}{f'; not graded yet: {escape(chr(44).join(later))}' if held and later else ''}."
    )


def _block(settings: object) -> list[str]:
    # A fence longer than any inside: settings may hold a user's prompts.
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}json", *text.split("\n"), fence]


def _code(value: str) -> str:
    """Text in a code span, which it cannot leave."""
    return f"`{' '.join(value.split()).replace('`', chr(39))}`"
