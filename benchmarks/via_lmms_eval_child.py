"""The program that runs in lmms-eval's own environment (see ``via_lmms_eval``): ``python -P
via_lmms_eval_child.py FOLDER``.

It reads ``FOLDER/request.json`` and writes ``FOLDER/reply.json``, and images as PNG below
``FOLDER/images``; nothing else passes between the kit and this project. The kit's code is
unchanged: its ``TaskManager`` builds the task, ``build_all_requests`` the prompts, and
``simple_evaluate`` reads, filters, scores and aggregates, with a model that returns stored answers.

Traps of the kit (0.7.3) and what is done here:
- Importing it makes PIL fill truncated images with grey (``LOAD_TRUNCATED_IMAGES``). Switched off.
- It retries loading data and scoring an answer five times, two seconds apart, and ends in an error
  that hides the first one. The first one is reported.
- It gives a task without ``until`` the stop ``"\\n\\n"``, which most of its own models ignore.
  ``stops`` ignores it too.
- MMBench picks a random option when its judge fails. The reply says so.
- Several tasks write files into the working directory. That is the folder of the request.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MAX_SHOWN = 5
SCORING_ERRORS = (ArithmeticError, AssertionError, LookupError, ImportError, OSError, ValueError)


class KitProblem(Exception):  # noqa: N818  (a sentence for the user)
    """Why nothing can be asked or graded, in words for the user."""


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        reply = {"describe": describe, "export": export, "grade": grade}[request["do"]](
            request, folder
        )
    except KitProblem as problem:
        reply = {"trouble": str(problem)}
    (folder / "reply.json").write_text(
        json.dumps(reply, ensure_ascii=False, default=str), encoding="utf-8"
    )


def describe(request: Json, _folder: Path) -> Json:
    """The kit's version and the task's settings, without importing the kit (which takes seconds).

    ``fingerprint`` covers the task's YAML with its includes, every file of its folder (code,
    judge's rules) and the code that tasks share."""
    import yaml

    package = importlib.util.find_spec("lmms_eval")
    if package is None or not package.submodule_search_locations:
        raise KitProblem("there is no lmms_eval in this environment")
    kit = Path(next(iter(package.submodule_search_locations))) / "tasks"
    folders = [*(Path(folder) for folder in request["include"]), kit]
    path = task_file(request["task"], folders)

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Keeps ``!function`` as text."""

    Loader.add_constructor("!function", lambda _loader, node: f"!function {node.value}")

    def read(yaml_path: Path) -> tuple[Json, list[Path]]:
        settings = yaml.load(yaml_path.read_text(encoding="utf-8"), Loader)
        names = settings.pop("include", [])
        merged: Json = {}
        files = [yaml_path]
        for name in reversed([names] if isinstance(names, str) else names):
            included, included_files = read(
                Path(name) if Path(name).is_file() else yaml_path.parent / name
            )
            merged |= included
            files += included_files
        return merged | settings, files

    config, files = read(path)
    hashed_files = [*path.parent.iterdir(), *(kit / "_task_utils").iterdir(), *files]
    digest = hashlib.sha256()
    for file in sorted({path for path in hashed_files if path.is_file() and path.suffix != ".pyc"}):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    task_metadata = config.get("metadata") or {}
    task_metadata = (
        task_metadata[0] if isinstance(task_metadata, list) and task_metadata else task_metadata
    )
    return {
        "kit": metadata.version("lmms-eval"),
        "task": str(task_metadata.get("version", "")) if isinstance(task_metadata, dict) else "",
        "fingerprint": digest.hexdigest()[:12],
        "folder": str(path.parent),
        "dataset_path": config.get("dataset_path"),
        "dataset_name": config.get("dataset_name"),
        "split": config.get("test_split") or config.get("validation_split"),
        "output_type": config.get("output_type", "generate_until"),
        "metrics": config.get("metric_list") or [],
    }


def task_file(task: str, folders: Sequence[Path]) -> Path:
    """The YAML that defines the task, found by its ``task:`` line."""
    line = re.compile(r"^task\s*:\s*[\"']?([\w.+-]+)[\"']?\s*(?:#.*)?$", re.MULTILINE)
    names: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            for name in line.findall(path.read_text(encoding="utf-8", errors="replace")):
                names.setdefault(name, path)
    if task not in names:
        near = difflib.get_close_matches(task, names, 4)
        hint = f"; near it are {', '.join(near)}" if near else " (a group of tasks is none)"
        raise KitProblem(f"it has no task {task!r}{hint}")
    return names[task]


def load_task(request: Json) -> tuple[Any, str]:
    """The kit's task on its data, and the name of its split. Local data are in the working
    directory under the name that the task asks for."""
    import PIL.ImageFile
    from lmms_eval.tasks import TaskManager, get_task_dict
    from tenacity import RetryError

    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    manager = TaskManager(include_path=request["folder"], include_defaults=False, verbosity="ERROR")
    # Options such as token and trust_remote_code concern a download.
    config = {"task": request["task"], **({"dataset_kwargs": {}} if request["local"] else {})}
    try:
        (task,) = get_task_dict([config], manager, "simple").values()
    except RetryError as error:
        raise KitProblem(
            f"the data could not be loaded: {error_text(error.last_attempt.exception())}"
        ) from error
    except (OSError, ValueError, KeyError, ImportError, LookupError) as error:
        raise KitProblem(f"the task could not be set up: {error_text(error)}") from error
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    return task, task.config.test_split or task.config.validation_split


def error_text(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def export(request: Json, folder: Path) -> Json:
    """Every question as the kit asks it, of at most ``limit`` images, chosen by a hash."""
    task, split = load_task(request)
    documents = task.dataset[split]
    check_ids(documents)
    images, problems = [], []
    for row_index in range(len(documents)):
        try:
            images.append(save_images(task.doc_to_visual(documents[row_index]), folder / "images"))
        except Exception as error:  # the kit's code on whatever the file holds
            images.append([])
            problems.append(f"row {row_index + 1}: {error_text(error)}")
    raise_problems(problems, split, "have no image that can be read")
    clusters = [cluster_id(names, row_index) for row_index, names in enumerate(images)]
    kept_clusters = set(clusters)
    if request["limit"] is not None:
        order = sorted(
            kept_clusters, key=lambda id: hashlib.sha256(f"limit {id}".encode()).digest()
        )
        kept_clusters = set(order[: request["limit"]])
    row_indices = [row_index for row_index, id in enumerate(clusters) if id in kept_clusters]
    select_rows(task, split, row_indices)
    try:
        task.build_all_requests()
    except Exception as error:
        raise KitProblem(
            f"a prompt could not be built from split {split}: {error_text(error)}"
        ) from error
    rows = []
    for instance in task.instances:
        text, options, *_ = instance.args
        row_index = row_indices[instance.doc_id]
        if controls := sorted(
            character for character in text if ord(character) < 32 and character not in "\n\r\t"
        ):
            problems.append(
                f"row {row_index + 1}: the prompt holds the control character {controls[0]!r}"
            )
        rows.append(
            {
                "doc": row_index,
                "text": text,
                "images": images[row_index],
                "cluster": clusters[row_index],
                "target": target_text(task, documents[row_index]),
                "max_new_tokens": options.get("max_new_tokens"),
                "until": stops(options),
            }
        )
    raise_problems(problems, split, "cannot be asked")
    used_names = {name for row in rows for name in row["images"]}
    for path in (folder / "images").glob("*.png"):
        if path.name not in used_names:
            path.unlink()
    return {"rows": rows, "of": len(documents), "split": split}


def check_ids(documents: Any) -> None:
    """Refuse a file in which an id or index occurs twice: its rows would count twice."""
    for name in ("id", "index"):
        if name in documents.column_names:
            first_rows: Json = {}
            problems = [
                f"row {row_index + 1}: its {name} {id!r} is that of row {first_rows[id] + 1}"
                for row_index, id in enumerate(documents[name])
                if first_rows.setdefault(id, row_index) != row_index
            ]
            raise_problems(problems, "the file", "are there twice")


def raise_problems(problems: Sequence[str], source: str, fault: str) -> None:
    if problems:
        more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise KitProblem(
            f"{len(problems)} rows of {source} {fault}: {'; '.join(problems[:MAX_SHOWN])}{more}"
        )


def save_images(images: Sequence[Any], folder: Path) -> list[str]:
    """Write the images as PNG under the hash of their pixels; their names in order."""
    folder.mkdir(exist_ok=True)
    names = []
    for image in images:
        if not hasattr(image, "convert"):
            raise TypeError(f"a {type(image).__name__} is no image (video and sound are not asked)")
        rgb = image.convert("RGB")
        digest = hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()
        path = folder / f"{digest[:32]}.png"
        if not path.exists():
            rgb.save(path, compress_level=1)
        names.append(path.name)
    return names


def cluster_id(names: Sequence[str], row_index: int) -> str:
    """The id of a row's images."""
    if not names:
        return f"row{row_index}"
    digest = hashlib.sha256(" ".join(names).encode()).hexdigest()
    return names[0][:16] if len(names) == 1 else digest[:16]


def stops(options: Json) -> list[str]:
    """The task's stop strings without the kit's default, an empty line: captions have
    paragraphs."""
    until = options.get("until") or []
    stop_strings = [until] if isinstance(until, str) else until
    return [stop for stop in stop_strings if stop and stop != "\n\n"]


def target_text(task: Any, document: Json) -> str:
    try:
        return str(task.doc_to_target(document))[:500]
    except Exception:  # it is only shown
        return ""


def select_rows(task: Any, split: str, row_indices: Sequence[int]) -> None:
    """Keep only these rows of the task's data."""
    for name in ("dataset", "dataset_no_image"):
        data = getattr(task, name)
        setattr(task, name, type(data)({**data, split: data[split].select(row_indices)}))
    task.task_docs = task.dataset[split]


def grade(request: Json, _folder: Path) -> Json:
    """The kit's evaluation of stored answers: its result on each, and its totals."""
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from tenacity import RetryError

    answers: list[str] = request["answers"]

    class Stored(lmms):  # type: ignore[misc]
        """A model that returns stored answers."""

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [answers[request.doc_id] for request in requests]

        def loglikelihood(self, _requests: list[Any]) -> Any:
            raise KitProblem(
                "the task asks for log-probabilities; only tasks with written answers are graded"
            )

        generate_until_multi_round = loglikelihood

    task, split = load_task(request)
    select_rows(task, split, request["docs"])
    recorder = GradingRecorder(task)
    try:
        # One worker: the judge's replies come in the questions' order, as do the logs.
        results = simple_evaluate(
            model=Stored(),
            tasks=[task],
            task_manager=object(),
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
        )
    except RetryError as error:
        raise KitProblem(
            f"an answer could not be scored: {error_text(error.last_attempt.exception())}"
        ) from error
    except SCORING_ERRORS as error:
        raise KitProblem(f"the kit's scoring ended in {error_text(error)}") from error
    name = task.config.task
    # A task with several filters lists its rows once a filter.
    samples = results["samples"][name][: len(answers)]
    metric_names = set(task.aggregation())
    rows = [
        {
            "doc": request["docs"][sample["doc_id"]],
            "metrics": {key: sample[key] for key in sample if key in metric_names},
        }
        for sample in samples
    ]
    totals = {}
    for key, value in results["results"][name].items():
        metric, _, _filter = key.partition(",")
        if metric in metric_names and metric not in totals and isinstance(value, int | float):
            totals[metric] = float(value)
    return {"rows": rows, "totals": totals, "choices": recorder.choices(), "log": recorder.log}


class GradingRecorder:
    """Records, while the kit grades, the warnings of its log, and MMBench's reading of each row and
    each group of rotations."""

    def __init__(self, task: Any) -> None:
        from loguru import logger

        self.log: list[str] = []
        logger.remove()
        logger.add(
            lambda line: self.log.append(str(line).strip()[:300]),
            level="INFO",
            format="{message}",
            filter=is_warning,
        )
        self.groups: Json = {}
        self.judged: Json = {}
        self.rows: list[Any] = []
        # The kit runs a task's file once for each function that the YAML names, so the total has an
        # evaluator of its own.
        scopes = [getattr(function, "__globals__", {}) for function in task.aggregation().values()]
        name = "mmbench_evaluator"
        evaluators = [scope[name] for scope in scopes if name in scope]
        self.evaluator = evaluators[0] if evaluators else None
        for evaluator in evaluators:
            self.watch(evaluator)

    def watch(self, evaluator: Any) -> None:
        eval_group, ask_judge = evaluator.eval_sub_data, evaluator.extract_answer_from_item

        def group(data: Any, *args: Any, **kwargs: Any) -> Any:
            is_right = eval_group(data, *args, **kwargs)
            self.groups[str(data.iloc[0]["index"])] = is_right
            self.rows += [data.iloc[row_index].to_dict() for row_index in range(len(data))]
            return is_right

        def judge(item: Any) -> Any:
            option, reply = ask_judge(item)
            self.judged[str(item["index"])] = [option, reply]
            return option, reply

        evaluator.eval_sub_data, evaluator.extract_answer_from_item = group, judge

    def choices(self) -> Json:
        """``read``: row index -> the option read without a judge ("": none); ``judged``: row index
        -> the judge's option and reply; ``groups``: index of a group's first row -> whether all its
        rotations are right."""
        if self.evaluator is None:
            return {}
        read = {str(row["index"]): self.evaluator.prefetch_answer(row) or "" for row in self.rows}
        return {"read": read, "judged": self.judged, "groups": self.groups}


def is_warning(record: Any) -> bool:
    return bool(record["level"].no >= 30 or "failed" in record["message"].lower())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
