"""``python -m harness verify FOLDER``: compares every stored file with its recorded SHA-256.

It reads nothing outside the folder and writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import read_json
from harness.artifacts.stored_files import cure, problems, read_done
from harness.errors import UserError
from harness.pipeline.stages.shards import read_shard
from harness.reporting.stored import FILES, PackedFolder, Stored, open_stored
from harness.reporting.study_file import SHA


def verify(out: Path) -> tuple[str, list[str]]:
    """A sentence that sums up the folder, whole or packed, and a sentence for each broken file.

    Raises:
        UserError: nothing in the folder can be compared, or a link in it leads out of it.
    """
    broken: list[str] = []
    counts: Counter[str] = Counter()
    packed = sorted(path.parent for path in (*out.glob("packed.json"), *out.glob("*/packed.json")))
    for folder in packed:
        counts["stages"] += 1
        counts["compared"] += len(FILES)
        try:
            stored = open_stored(folder)
            broken += stored.broken_files() if isinstance(stored, PackedFolder) else []
            _count_study(stored, counts)
        except UserError as problem:
            broken.append(str(problem))
    if not packed:
        try:
            open_stored(out)  # checks the links
        except UserError as problem:
            broken.append(str(problem))
        else:
            names = ("identity.json", "DONE")
            for folder in sorted({path.parent for name in names for path in out.rglob(name)}):
                broken += _check_stage(folder, counts)
            for path in sorted((*out.glob("study.json"), *out.glob("*/study.json"))):
                try:
                    _count_study(Stored(path.parent), counts)
                except UserError as problem:
                    broken.append(str(problem))
    if not counts and not broken:
        raise UserError(
            f"There are no results in {out}; give the folder of a study, an export or answers."
        )
    kind = "packed studies" if packed else "finished stages"
    sentences = [f"{out}: {counts['compared']:,} files of {counts['stages']:,} {kind} compared"]
    if counts["old"]:
        sentences.append(f"{counts['old']:,} stages not checked: written before hashes were kept")
    if counts["unsigned"]:
        sentences.append(
            f"{counts['unsigned']:,} study.json files not checked: written before they had a hash"
        )
    if counts["open"]:
        sentences.append(f"{counts['open']:,} stages not finished")
    sentences.append(f"{len(broken)} problems" if broken else "no problem")
    return "; ".join(sentences) + ".", broken


def _count_study(stored: Stored, counts: Counter[str]) -> None:
    """Count study.json as compared, or as one without a hash.

    Raises:
        UserError: it was cut or changed.
    """
    stored.study()
    counts["compared" if SHA in read_json(stored.results.study) else "unsigned"] += 1


def _check_stage(folder: Path, counts: Counter[str]) -> Iterator[str]:
    done = None
    try:
        done = read_done(folder)
        if done is None:
            counts["open"] += 1
            read_json(folder / "identity.json")
        elif done.files is None:
            counts["old"] += 1
        else:
            counts["stages"] += 1
            counts["compared"] += len(done.files)
            file_problems = list(problems(folder))
            yield from (f"{words}; {cure(folder)}" for _, words in file_problems)
            path = folder / "identity.json"
            listed = "identity.json" in done.files and path not in dict(file_problems)
            if listed and fingerprint(read_json(path)) != done.fingerprint:
                yield f"{path} is not the one that DONE names; {cure(folder)}"
    except UserError as problem:
        yield str(problem)
    for shard in sorted(folder.glob("shards/*.jsonl")) if done is None else ():
        try:
            read_shard(shard)
        except UserError as problem:
            yield str(problem)
