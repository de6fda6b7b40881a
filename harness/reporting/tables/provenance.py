"""Notes about the origin of the numbers: checkpoints, training, prompt sets, questions, decoding,
graders, tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.artifacts.fingerprint import canonical, fingerprint
from harness.reporting.display_names import display_name, grouped, metric_name
from harness.reporting.results import StudyResults

KEPT = 0.9
"""A training that keeps less of its update is named below the table."""

SHORT = 12
"""Characters of a fingerprint that are printed; identity.json has all of them."""


def sentences(study: StudyResults) -> list[str]:
    """The study's own notes, then one sentence per subject. Subjects without stored data are left
    out."""
    content = study.stored.study()
    runs = content["runs"]
    graders = [f"{display_name(column.name)} {column.version}" for column in study.benchmarks]
    seeds = {row.label: " ".join(map(str, row.seeds)) for row in study.rows if row.rounds}
    subjects = {
        "Checkpoints, by fingerprint": _checkpoints(study),
        "Families of models": _families(runs, study.baseline),
        "Answers read from files": _foreign_answers(study),
        "Training seeds": _grouped(seeds),
        "Training": _recipes(runs),
        "Updates that the precision of the weights rounds away": _rounded_away(study),
        "Prompt sets, with their fingerprints": _prompts(runs),
        "Questions and decoding": _questions(study),
        "Graders": ", ".join(graders),
        "Primary metrics, written to study.json before the first stage": _primary(study),
    }
    lines = [f"{subject}: {text}." for subject, text in subjects.items() if text]
    return [*map(str, content.get("notes", ())), *lines, _tuning(content, study)]


def _grouped(texts: Mapping[str, str]) -> str:
    """Each row's text; rows with the same text share it: ``0 1 2 (sena, sima)``."""
    rows = grouped((text, label) for label, text in texts.items())
    return "; ".join(f"{text} ({', '.join(labels)})" for text, labels in rows.items())


def _checkpoints(study: StudyResults) -> str:
    """The models of each row's last round, from the identities of its answers."""
    stored, texts = study.stored, []
    for row in (row for row in study.rows if row.role != "matched"):
        models: list[str] = []
        for seed in row.seeds:
            identities = (
                stored.identity(stored.results.answers(row.label, seed, row.rounds, benchmark.name))
                for benchmark in study.benchmarks
            )
            names = (
                str(identity.get("model", "unknown"))[:SHORT] for identity in identities if identity
            )
            models += sorted(set(names))
        if models:
            texts.append(f"{row.label} {' '.join(models)}")
    return "; ".join(texts)


def _foreign_answers(study: StudyResults) -> str:
    """How many questions the given answers answer, and the model that their files name."""
    stored, texts = study.stored, []
    for row in (row for row in study.rows if row.given):
        for benchmark in study.benchmarks:
            stage = stored.results.answers(row.label, 0, 0, benchmark.name)
            record, identity = stored.record(stage), stored.identity(stage) or {}
            if record is None:
                continue
            counts = record["counts"]
            answered = counts["questions"] - counts["missing"]
            by = f" by {identity['said_by']}" if identity.get("said_by") else ""
            unused = f", {counts['extra']:,} beyond --limit unused" if counts["extra"] else ""
            texts.append(
                f"{row.label} {display_name(benchmark.name)} {answered:,} of"
                f" {counts['questions']:,}{by}{unused}"
            )
    return "; ".join(texts)


def _families(runs: list[Mapping[str, Any]], baseline: str) -> str:
    """Rows whose model family differs from the baseline's, with a warning; else empty."""
    families = {run["label"]: str(run["family"]) for run in runs if run.get("family")}
    base = families.get(baseline)
    differing = [f"{label} is {family}" for label, family in families.items() if family != base]
    if base is None or not differing:
        return ""
    return (
        f"{', '.join(differing)}, {baseline} {base}; all get the same questions, each in its own"
        " chat template and with images from its own processor. Differences between families"
        " compare two models; they are not the gain of a method"
    )


def _recipes(runs: list[Mapping[str, Any]]) -> str:
    """Rows by training recipe."""
    labels: dict[str, dict[str, None]] = {}
    for run in runs:
        if recipe := run.get("recipe"):
            steps = f", {run['steps']} steps a round" if run.get("steps") else ""
            by = ", by trl's DPOTrainer" if run.get("trainer") == "trl" else ""
            labels.setdefault(_recipe(recipe) + steps + by, {})[run["label"]] = None
    return "; ".join(f"{', '.join(rows)}: {text}" for text, rows in labels.items())


def _rounded_away(study: StudyResults) -> str:
    """Rows of which some training kept less than KEPT of its update, with the smallest share."""
    stored, texts = study.stored, []
    for row in (row for row in study.rows if row.rounds and row.role != "matched"):
        folders = [stored.results.train(row.label, *training) for training in row.trainings]
        records = [(stored.record(folder) or {}).get("training", {}) for folder in folders]
        kept = (record.get("update_kept") for record in records)
        shares = [share for share in kept if share is not None]
        if shares and min(shares) < KEPT:
            texts.append(f"{row.label} keeps {100 * min(shares):.0f} % of a training's update")
    if not texts:
        return ""
    return (
        f"{', '.join(texts)}, so its answers are nearly those of the model before; train with LoRA"
        " (adapters stay in float32), with a larger learning rate, or from a base saved in float32"
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    words = {"lr": "learning rate", "global_batch": "batch", "lora": "LoRA"}
    texts = []
    for name, value in recipe.items():
        if value is None:
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {inner}" for key, inner in value.items())
        texts.append(f"{words.get(name, name.replace('_', ' '))} {text}")
    return ", ".join(texts)


def _prompts(runs: list[Mapping[str, Any]]) -> str:
    texts = {}
    for run in runs:
        prompts = run.get("settings", {}).get("prompts")
        if isinstance(prompts, Mapping):
            texts[run["label"]] = f"{prompts.get('name', 'unnamed')} {fingerprint(prompts)[:SHORT]}"
    return _grouped(texts)


def _questions(study: StudyResults) -> str:
    """Each benchmark's questions (fingerprint of the file), decoding and limit on tokens."""
    stored, texts = study.stored, []
    for benchmark in study.benchmarks:
        where = (study.baseline, 0, study.base_row.rounds, benchmark.name)
        identity = stored.identity(stored.results.answers(*where))
        if identity is None:
            continue
        decoding = identity.get("decoding") or {}
        text = canonical(decoding) if decoding else "decoding not recorded"
        text = "greedy" if decoding == {"temperature": 0.0} else text
        limits = stored.questions(benchmark.name)["max_new_tokens"]
        limit = f", at most {' or '.join(map(str, limits))} tokens" if limits else ""
        sha = str(identity.get("questions", "unknown"))[:SHORT]
        texts.append(f"{display_name(benchmark.name)} {sha}, {text}{limit}")
    return "; ".join(texts)


def _primary(study: StudyResults) -> str:
    return ", ".join(
        metric_name(benchmark.name, display_name(metric.name))
        for benchmark in study.benchmarks
        for metric in benchmark.metrics
        if metric.primary
    )


def _tuning(content: Mapping[str, Any], study: StudyResults) -> str:
    if tuning := content.get("tuning"):
        return f"Tuning: {str(tuning).rstrip('.')}."
    if study.split == "dev":
        return (
            "Tuning: these are questions of the development split; test the chosen settings on"
            " other questions."
        )
    return (
        f"Tuning: the study records no tuning trials. It uses the {study.split} split; tune on the"
        " development split, with the same number of trials for each method."
    )
