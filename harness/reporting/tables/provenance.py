"""Where the numbers come from, for the notes: checkpoints, decoding, questions, prompt sets,
recipes, graders, tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.artifacts.fingerprint import canonical, fingerprint
from harness.artifacts.results_folder import Results, read_json
from harness.reporting.results import Records, shown
from harness.reporting.stored import Stored, opened

SHORT = 12
"""Characters of a fingerprint that are printed; the whole one stands in the identity files."""


def sentences(out: Path, records: Records) -> list[str]:
    """What the study itself has to say, then one sentence a subject; a subject of which nothing is
    stored is left out."""
    results, stored = Results(out), opened(out)
    study = read_json(results.study)
    said = [
        ("Checkpoints, by fingerprint", _checkpoints(results, stored, records)),
        ("Families of models", _families(study["runs"], records.baseline)),
        (
            "Training seeds",
            _together({row.label: _list(row.seeds) for row in records.rows if row.rounds}),
        ),
        ("Training", _recipes(study["runs"])),
        ("Prompt sets, with their fingerprints", _prompts(study["runs"])),
        ("Questions and decoding", _questions(results, stored, records)),
        (
            "Graders",
            ", ".join(
                f"{shown(benchmark.name)} {benchmark.version}" for benchmark in records.benchmarks
            ),
        ),
        ("Primary metrics, written to study.json before the first stage", _primary(records)),
    ]
    told = [f"{words}: {text}." for words, text in said if text]
    return [*map(str, study.get("notes", ())), *told, _tuning(study, records)]


def _list(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))


def _together(found: Mapping[str, str]) -> str:
    """What each row has, rows that have the same said together: ``0 1 2 (sena, sima)``."""
    rows: dict[str, list[str]] = {}
    for label, text in found.items():
        rows.setdefault(text, []).append(label)
    return "; ".join(f"{text} ({', '.join(labels)})" for text, labels in rows.items())


def _checkpoints(results: Results, stored: Stored, records: Records) -> str:
    """The model of each row and seed in its last round, from the identity of any of its answers."""
    rows = []
    for row in (row for row in records.rows if row.role != "derived"):
        found = []
        for seed in row.seeds:
            places = (
                results.answers(row.label, seed, row.rounds, one.name) for one in records.benchmarks
            )
            known = [
                identity for place in places if (identity := stored.identity(place)) is not None
            ]
            models = {str(identity.get("model", "unknown"))[:SHORT] for identity in known}
            found += sorted(models)
        if found:
            rows.append(f"{row.label} {' '.join(found)}")
    return "; ".join(rows)


def _families(runs: list[Mapping[str, Any]], baseline: str) -> str:
    """Which rows are of another family than the baseline, and what that means; nothing where all
    are of one."""
    found = {run["label"]: str(run["family"]) for run in runs if run.get("family")}
    others = {label: family for label, family in found.items() if family != found.get(baseline)}
    if baseline not in found or not others:
        return ""
    return (
        f"{', '.join(f'{label} is {family}' for label, family in others.items())}, {baseline}"
        f" {found[baseline]}; each is asked the same questions in its own chat template, with"
        " images prepared as its own processor does: such a difference is one between two"
        " models, not what a method adds"
    )


def _recipes(runs: list[Mapping[str, Any]]) -> str:
    """Rows by recipe; rows that share one are said together."""
    by_recipe: dict[str, list[str]] = {}
    for run in runs:
        if recipe := run.get("recipe"):
            said = _recipe(recipe) + (f", {run['steps']} steps a round" if run.get("steps") else "")
            labels = by_recipe.setdefault(said, [])
            labels += [] if run["label"] in labels else [run["label"]]
    return "; ".join(f"{', '.join(labels)}: {said}" for said, labels in by_recipe.items())


def _recipe(recipe: Mapping[str, Any]) -> str:
    words = {"lr": "learning rate", "global_batch": "batch", "lora": "LoRA"}
    parts = []
    for name, value in recipe.items():
        if value is not None:
            text = (
                ", ".join(f"{key} {inner}" for key, inner in value.items())
                if isinstance(value, Mapping)
                else f"{value:g}"
                if isinstance(value, float)
                else str(value)
            )
            parts.append(f"{words.get(name, name.replace('_', ' '))} {text}")
    return ", ".join(parts)


def _prompts(runs: list[Mapping[str, Any]]) -> str:
    found = {}
    for run in runs:
        prompts = run.get("settings", {}).get("prompts")
        if isinstance(prompts, Mapping):
            found[run["label"]] = f"{prompts.get('name', 'unnamed')} {fingerprint(prompts)[:SHORT]}"
    return _together(found)


def _questions(results: Results, stored: Stored, records: Records) -> str:
    """Each benchmark's questions (fingerprint of the file), how they were decoded and the cap on
    tokens."""
    parts = []
    for benchmark in records.benchmarks:
        row = records.row(records.baseline)
        known = stored.identity(results.answers(row.label, 0, row.rounds, benchmark.name))
        if known is None:
            continue
        decoding = known.get("decoding") or {}
        how = (
            "greedy"
            if decoding == {"temperature": 0.0}
            else canonical(decoding)
            if decoding
            else "decoding not recorded"
        )
        caps = stored.asked(benchmark.name)["max_new_tokens"]
        cap = f", at most {' or '.join(map(str, caps))} tokens" if caps else ""
        parts.append(
            f"{shown(benchmark.name)} {str(known.get('questions', 'unknown'))[:SHORT]}, {how}{cap}"
        )
    return "; ".join(parts)


def _primary(records: Records) -> str:
    return ", ".join(
        f"{shown(benchmark.name)} / {shown(metric.name)}"
        for benchmark in records.benchmarks
        for metric in benchmark.metrics
        if metric.primary
    )


def _tuning(study: Mapping[str, Any], records: Records) -> str:
    if said := study.get("tuning"):
        return f"Tuning: {str(said).rstrip('.')}."
    if records.split == "dev":
        return (
            "Tuning: these are questions of the development split; what was chosen by them is no"
            " result on them."
        )
    return (
        f"Tuning: this study records no trials of its settings; the {records.split} split is asked"
        " here, trials belong on the development split, with the same number for each method."
    )
