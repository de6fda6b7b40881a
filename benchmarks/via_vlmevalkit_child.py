"""The program that runs inside VLMEvalKit's own environment (see ``via_vlmevalkit``): ``python
via_vlmevalkit_child.py FOLDER``.

It reads ``FOLDER/request.json`` and writes ``FOLDER/reply.json``; nothing else passes between the
kit and this project. The kit needs its own process: importing it turns gradients off, disables the
verification of certificates, seeds random generators, and loads torchvision, whose operators are
missing if torch is a CPU build and torchvision is not."""

from __future__ import annotations

import ast
import json
import random
import ssl
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

OPERATORS = ("nms", "qnms")
"""Operators for which torchvision registers fake versions at import."""
NO_JUDGEMENT = ("Failed to obtain answer via API", "Failed to predict, thus randomly generate one")


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    task = {"version": version, "export": export, "grade": grade}[request["task"]]
    reply = json.dumps(task(request, folder), ensure_ascii=False)
    (folder / "reply.json").write_text(reply, encoding="utf-8")


def version(_request: dict[str, Any], _folder: Path) -> dict[str, Any]:
    """The installed commit, without importing the kit; ``+changed`` if its files were edited."""
    installed = metadata.distribution("vlmeval")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id")
    clone = unquote(urlparse(origin.get("url", "")).path)
    if origin.get("dir_info", {}).get("editable") and clone:

        def git(*args: str) -> str:
            return subprocess.run(
                ["git", "-C", clone, *args], check=True, capture_output=True, text=True
            ).stdout.strip()

        changed = git("status", "--porcelain", "--untracked-files=no")
        commit = git("rev-parse", "HEAD") + ("+changed" if changed else "")
    if not commit:
        raise SystemExit(
            "the installed vlmeval names no commit; install it from git, pinned by commit"
        )
    return {"commit": commit}


def import_kit() -> Any:
    """The kit's ``vlmeval.dataset``, without the side effects of its import that matter here."""
    import torch

    default_context = ssl._create_default_https_context
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    import vlmeval.dataset as datasets

    ssl._create_default_https_context = default_context
    random.seed(0)
    return datasets


def build_dataset(request: dict[str, Any]) -> Any:
    """The kit's data set on the file in ``$LMUData``. Without a known checksum the kit downloads
    nothing."""
    datasets, name = import_kit(), request["dataset"]
    for kind in datasets.DATASET_CLASSES:
        if name in kind.supported_datasets():
            kind.DATASET_MD5 = {**getattr(kind, "DATASET_MD5", {}), name: None}
    data = datasets.build_dataset(name)
    if data is None:
        raise SystemExit(f"the kit builds no data set {name}")
    return data


def row_positions(data: Any, indices: list[str]) -> list[int]:
    """The places of the rows with these indices, in the given order."""
    positions = {str(index): position for position, index in enumerate(data.data["index"])}
    if missing := [index for index in indices if index not in positions]:
        raise SystemExit(
            f"the kit has dropped {len(missing)} rows, first the one with index {missing[0]}"
        )
    return [positions[index] for index in indices]


def export(request: dict[str, Any], _folder: Path) -> dict[str, Any]:
    """The kit's own prompts: a list of parts a row, images as paths below the folder."""
    data = build_dataset(request)
    rows = []
    for index, position in zip(
        request["indices"], row_positions(data, request["indices"]), strict=True
    ):
        parts = [
            {"type": part["type"], "value": str(part["value"])}
            for part in data.build_prompt(position)
        ]
        rows.append({"index": index, "parts": parts})
    return {"rows": rows}


def grade(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The kit's ``evaluate`` on the answers: its reading of every row, and its totals (or why there
    are none)."""
    data = build_dataset(request)
    from vlmeval.smp import dump, load  # after import_kit(), which makes importing possible

    answers: dict[str, str] = request["answers"]
    table = data.data.iloc[row_positions(data, list(answers))].copy()
    table = table.drop(columns="image", errors="ignore")
    table["prediction"] = list(answers.values())
    file = str(folder / f"selfsight_{request['dataset']}.tsv")
    dump(table, file)
    read_back = load(file)
    if [str(index) for index in read_back["index"]] != list(answers):
        raise SystemExit("the kit does not read its own answer file back row by row")
    kit_answers = {
        index: str(text) for index, text in zip(answers, read_back["prediction"], strict=True)
    }
    model = request["judge"] or "exact_matching"
    if model != "exact_matching":
        from vlmeval.dataset.utils import build_judge

        if not build_judge(model=model).working():
            raise SystemExit(
                f"the judge {model} does not answer; the kit would go on with exact matching"
            )
    isolate_circular_file(folder)
    totals, problem = None, ""
    try:
        totals = table_rows(data.evaluate(file, model=model, nproc=1))
    # The kit's totals need every category and both questions of an image.
    except (KeyError, IndexError, AssertionError) as error:
        problem = f"{type(error).__name__}: {error}"
    rows = READERS[request["family"]](table, file, data, model)
    return {"rows": rows, "seen": kit_answers, "totals": totals, "trouble": problem}


def isolate_circular_file(folder: Path) -> None:
    """Put the table of the kit's circular evaluation into the folder. The kit writes it to
    ``/tmp/<the second>.tsv``, where two gradings in one second would read each other's."""
    from vlmeval.dataset.utils import multiple_choice

    multiple_choice.timestr = lambda: f"..{folder}/circular"


def yes_no(_table: Any, file: str, _data: Any, _model: str) -> dict[str, dict[str, Any]]:
    from vlmeval.smp import get_intermediate_file_path, load

    rows = load(get_intermediate_file_path(file, "_auxmatch"))
    columns = zip(rows["index"], rows["extracted"], rows["score"], strict=True)
    return {str(index): {"read_as": str(read), "hit": float(hit)} for index, read, hit in columns}


def choice(table: Any, file: str, data: Any, model: str) -> dict[str, dict[str, Any]]:
    """Each row as the kit's ``prefetch_answer`` reads it, and the hit from its evaluation: a row's
    own, or in circular evaluation one for the whole group, at its first row."""
    from vlmeval.dataset.utils.multiple_choice import prefetch_answer
    from vlmeval.smp import get_intermediate_file_path, load

    judged = {"chatgpt-0125": "openai", "gpt-4-0125": "gpt4"}.get(model, model)
    results = load(get_intermediate_file_path(file, f"_{judged}_result"))
    columns = zip(results["index"], results["hit"], results["log"], strict=True)
    hits = {str(index): (float(hit), str(log)) for index, hit, log in columns}
    answers = zip(data.data["index"], data.data["answer"], strict=True)
    truth = {str(index): str(answer) for index, answer in answers}
    readings = {}
    for _, row in table.iterrows():
        index, read = str(row["index"]), prefetch_answer(row) or ""
        hit, log = hits.get(index, (None, ""))
        if any(message in log for message in NO_JUDGEMENT):
            raise SystemExit(
                f"the judge {model} gave no judgement on {index}, and the kit made one up: {log}"
            )
        single_hit = float(read == truth[index])
        readings[index] = {"read_as": str(read), "hit": hit, "alone": single_hit, "log": log}
    return readings


def words(_table: Any, file: str, data: Any, _model: str) -> dict[str, dict[str, Any]]:
    from vlmeval.dataset.utils.vqa_eval import hit_calculate
    from vlmeval.smp import get_intermediate_file_path, load

    rows = load(get_intermediate_file_path(file, "_results"))
    readings = {}
    columns = zip(rows["index"], rows["eval_pred"], rows["eval_match"], strict=True)
    for index, read, match in columns:
        (hit,) = hit_calculate([{"match": ast.literal_eval(str(match))}], data.dataset_name)
        readings[str(index)] = {"read_as": str(read), "hit": float(hit)}
    return readings


READERS = {"yes_no": yes_no, "choice": choice, "words": words}


def table_rows(totals: Any) -> list[dict[str, Any]]:
    """The kit's table (or dict) of totals as rows of JSON."""
    rows = totals.to_dict("records") if hasattr(totals, "to_dict") else [dict(totals)]
    return [{str(name): as_number(value) for name, value in row.items()} for row in rows]


def as_number(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        count = len(import_kit().SUPPORTED_DATASETS)
        print(f"VLMEvalKit {version({}, Path())['commit'][:12]}: {count} data sets can be built")
    else:
        main(Path(sys.argv[1]).resolve())
