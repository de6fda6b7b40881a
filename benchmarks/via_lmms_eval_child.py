"""The program that runs in lmms-eval's own environment (see ``via_lmms_eval``): ``python -P
via_lmms_eval_child.py FOLDER``.

It reads ``FOLDER/request.json`` and writes ``FOLDER/reply.json`` (and images, as PNG, below
``FOLDER/images``); nothing else passes between the kit and this project. The kit's own code is used
as it is: its ``TaskManager`` builds the task, its
``build_all_requests`` the prompts, and its ``simple_evaluate`` reads, filters, scores and
aggregates, with a model that hands out stored answers.

Traps of the kit (0.7.3), each met here:
- importing it makes PIL complete truncated images with grey (``LOAD_TRUNCATED_IMAGES``): switched
off again;
- loading data and scoring an answer are retried five times, two seconds apart, and end in an error
that hides the first one;
- a task without ``until`` is given the stop ``"\\n\\n"``, which most of the kit's own models
ignore: so does ``stops`` below;
- MMBench picks a random option when its judge fails, and goes on: such picks are told in the reply;
- several tasks write files into the working directory: it is the folder of the request.
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
SHOWN = 5


class Trouble(Exception):  # noqa: N818  (a sentence for the user, not a fault of the program)
    """Why nothing can be asked or graded; the parent shows it."""


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        reply = {"describe": describe, "export": export, "grade": grade}[request["do"]](
            request, folder
        )
    except Trouble as trouble:
        reply = {"trouble": str(trouble)}
    (folder / "reply.json").write_text(
        json.dumps(reply, ensure_ascii=False, default=str), encoding="utf-8"
    )


def describe(request: Json, _folder: Path) -> Json:
    """The kit's version and what a task is made of, without importing the kit (which takes
    seconds).

    ``fingerprint`` covers the task's YAML with all it includes, every file of its folder (code,
    judge's rules) and the code that tasks share."""
    import yaml

    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        raise Trouble("there is no lmms_eval in this environment")
    kit = Path(next(iter(found.submodule_search_locations))) / "tasks"
    places = [*(Path(place) for place in request["include"]), kit]
    path = task_file(request["task"], places)

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """``!function`` is left as its text."""

    Loader.add_constructor("!function", lambda _loader, node: f"!function {node.value}")

    def read(at: Path) -> tuple[Json, list[Path]]:
        own = yaml.load(at.read_text(encoding="utf-8"), Loader)
        names = own.pop("include", [])
        merged: Json = {}
        files = [at]
        for name in reversed([names] if isinstance(names, str) else names):
            inner, more = read(Path(name) if Path(name).is_file() else at.parent / name)
            merged |= inner
            files += more
        return merged | own, files

    config, files = read(path)
    shared = [*path.parent.iterdir(), *(kit / "_task_utils").iterdir(), *files]
    digest = hashlib.sha256()
    for file in sorted({one for one in shared if one.is_file() and one.suffix != ".pyc"}):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    stated = config.get("metadata") or {}
    stated = stated[0] if isinstance(stated, list) and stated else stated
    return {
        "kit": metadata.version("lmms-eval"),
        "task": str(stated.get("version", "")) if isinstance(stated, dict) else "",
        "fingerprint": digest.hexdigest()[:12],
        "folder": str(path.parent),
        "dataset_path": config.get("dataset_path"),
        "dataset_name": config.get("dataset_name"),
        "split": config.get("test_split") or config.get("validation_split"),
        "output_type": config.get("output_type", "generate_until"),
        "metrics": config.get("metric_list") or [],
    }


def task_file(task: str, places: Sequence[Path]) -> Path:
    """The YAML that defines the task, found by its ``task:`` line."""
    line = re.compile(r"^task\s*:\s*[\"']?([\w.+-]+)[\"']?\s*(?:#.*)?$", re.MULTILINE)
    names: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.rglob("*.yaml")):
            for name in line.findall(path.read_text(encoding="utf-8", errors="replace")):
                names.setdefault(name, path)
    if task not in names:
        near = difflib.get_close_matches(task, names, 4)
        raise Trouble(
            f"it has no task {task!r}"
            + (f"; near it are {', '.join(near)}" if near else " (a group of tasks is none)")
        )
    return names[task]


def loaded(request: Json) -> tuple[Any, str]:
    """The kit's task on its data, and the name of its split; local data lies in the working
    directory under the name that the kit asks for, so that the task's own code finds it."""
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
        raise Trouble(
            f"the data could not be loaded: {plain(error.last_attempt.exception())}"
        ) from error
    except (OSError, ValueError, KeyError, ImportError, LookupError) as error:
        raise Trouble(f"the task could not be set up: {plain(error)}") from error
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    return task, task.config.test_split or task.config.validation_split


def plain(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def export(request: Json, folder: Path) -> Json:
    """Every question as the kit would ask it; of at most ``limit`` images, chosen by their
    hash."""
    task, split = loaded(request)
    documents = task.dataset[split]
    check_ids(documents)
    pictures, troubles = [], []
    for place in range(len(documents)):
        try:
            pictures.append(seen(task.doc_to_visual(documents[place]), folder / "images"))
        except Exception as error:  # the kit's code meets whatever the file holds
            pictures.append([])
            troubles.append(f"row {place + 1}: {plain(error)}")
    refuse(troubles, split, "have no image that can be read")
    clusters = [cluster(names, place) for place, names in enumerate(pictures)]
    kept = set(clusters)
    if request["limit"] is not None:
        order = sorted(kept, key=lambda one: hashlib.sha256(f"limit {one}".encode()).digest())
        kept = set(order[: request["limit"]])
    places = [place for place, one in enumerate(clusters) if one in kept]
    narrow(task, split, places)
    try:
        task.build_all_requests()
    except Exception as error:
        raise Trouble(f"a prompt could not be built from split {split}: {plain(error)}") from error
    rows = []
    for instance in task.instances:
        text, options, *_ = instance.args
        place = places[instance.doc_id]
        if odd := sorted(
            {character for character in text if ord(character) < 32 and character not in "\n\r\t"}
        ):
            troubles.append(f"row {place + 1}: the prompt holds the control character {odd[0]!r}")
        names = pictures[place]
        rows.append(
            {
                "doc": place,
                "text": text,
                "images": names,
                "cluster": clusters[place],
                "target": target(task, documents[place]),
            }
            | {"max_new_tokens": options.get("max_new_tokens"), "until": stops(options)}
        )
    refuse(troubles, split, "cannot be asked")
    wanted = {name for row in rows for name in row["images"]}
    for path in (folder / "images").glob("*.png"):
        if path.name not in wanted:
            path.unlink()
    return {"rows": rows, "of": len(documents), "split": split}


def check_ids(documents: Any) -> None:
    """The columns id and index name a row; a row that is there twice would count twice."""
    for name in ("id", "index"):
        if name in documents.column_names:
            first: Json = {}
            troubles = [
                f"row {place + 1}: its {name} {one!r} is that of row {first[one] + 1}"
                for place, one in enumerate(documents[name])
                if first.setdefault(one, place) != place
            ]
            refuse(troubles, "the file", "are there twice")


def refuse(troubles: Sequence[str], where: str, what: str) -> None:
    if troubles:
        more = f"; and {len(troubles) - SHOWN} more" if len(troubles) > SHOWN else ""
        raise Trouble(
            f"{len(troubles)} rows of {where} {what}: {'; '.join(troubles[:SHOWN])}{more}"
        )


def seen(images: Sequence[Any], folder: Path) -> list[str]:
    """The images written as PNG under the hash of their pixels; their names in order."""
    folder.mkdir(exist_ok=True)
    names = []
    for image in images:
        if not hasattr(image, "convert"):
            raise TypeError(f"a {type(image).__name__} is no image (video and sound are not asked)")
        rgb = image.convert("RGB")
        path = (
            folder
            / f"{hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()[:32]}.png"
        )
        if not path.exists():
            rgb.save(path, compress_level=1)
        names.append(path.name)
    return names


def cluster(names: Sequence[str], place: int) -> str:
    if not names:
        return f"row{place}"
    return (
        names[0][:16]
        if len(names) == 1
        else hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
    )


def stops(options: Json) -> list[str]:
    """The task's stop strings but the kit's own default, an empty line: captions have
    paragraphs."""
    until = options.get("until") or []
    return [one for one in ([until] if isinstance(until, str) else until) if one and one != "\n\n"]


def target(task: Any, document: Json) -> str:
    try:
        return str(task.doc_to_target(document))[:500]
    except Exception:  # only for a reader's eyes
        return ""


def narrow(task: Any, split: str, places: Sequence[int]) -> None:
    for name in ("dataset", "dataset_no_image"):
        data = getattr(task, name)
        setattr(task, name, type(data)({**data, split: data[split].select(places)}))
    task.task_docs = task.dataset[split]


def grade(request: Json, _folder: Path) -> Json:
    """The kit's whole evaluation on stored answers: what it made of each, and its totals."""
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from tenacity import RetryError

    answers: list[str] = request["answers"]

    class Stored(lmms):  # type: ignore[misc]
        """A model that has answered already."""

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [answers[one.doc_id] for one in requests]

        def loglikelihood(self, _requests: list[Any]) -> Any:
            raise Trouble(
                "the task asks for log-probabilities; only tasks with written answers are graded"
            )

        generate_until_multi_round = loglikelihood

    task, split = loaded(request)
    narrow(task, split, request["docs"])
    watched = Watched(task)
    try:
        # One worker: a judge's replies come in the questions' order, and logs with them.
        results = simple_evaluate(
            model=Stored(),
            tasks=[task],
            task_manager=object(),
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
        )
    except RetryError as error:
        raise Trouble(
            f"an answer could not be scored: {plain(error.last_attempt.exception())}"
        ) from error
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        ImportError,
        OSError,
        ValueError,
    ) as error:
        raise Trouble(f"the kit's scoring ended in {plain(error)}") from error
    name = task.config.task
    samples = results["samples"][name][
        : len(answers)
    ]  # a task with several filters lists its rows once a filter
    own = set(task.aggregation())
    rows = [
        {
            "doc": request["docs"][one["doc_id"]],
            "metrics": {key: one[key] for key in one if key in own},
        }
        for one in samples
    ]
    totals = {}
    for key, value in results["results"][name].items():
        metric, _, _filter = key.partition(",")
        if metric in own and metric not in totals and isinstance(value, int | float):
            totals[metric] = float(value)
    return {"rows": rows, "totals": totals, "choices": watched.choices(), "log": watched.log}


class Watched:
    """Looks on while the kit grades: warnings of its log, and MMBench's reading of each row and
    each group of rotations."""

    def __init__(self, task: Any) -> None:
        from loguru import logger

        self.log: list[str] = []
        logger.remove()
        logger.add(
            lambda line: self.log.append(str(line).strip()[:300]),
            level="INFO",
            format="{message}",
            filter=told,
        )
        self.groups: Json = {}
        self.judged: Json = {}
        self.rows: list[Any] = []
        # The kit runs a task's file once for each function that the YAML names: the total's own
        # evaluator is another.
        scopes = [getattr(function, "__globals__", {}) for function in task.aggregation().values()]
        found = [scope["mmbench_evaluator"] for scope in scopes if "mmbench_evaluator" in scope]
        self.evaluator = found[0] if found else None
        for evaluator in found:
            self.watch(evaluator)

    def watch(self, evaluator: Any) -> None:
        whole, one = evaluator.eval_sub_data, evaluator.extract_answer_from_item

        def group(data: Any, *others: Any, **words: Any) -> Any:
            hit = whole(data, *others, **words)
            self.groups[str(data.iloc[0]["index"])] = hit
            self.rows += [data.iloc[place].to_dict() for place in range(len(data))]
            return hit

        def judge(item: Any) -> Any:
            read, said = one(item)
            self.judged[str(item["index"])] = [read, said]
            return read, said

        evaluator.eval_sub_data, evaluator.extract_answer_from_item = group, judge

    def choices(self) -> Json:
        """By a row's index: the option read without a judge ("" where none is), and what a judge
        made of it; ``groups``: by the index of a group's first row, whether all its rotations were
        right."""
        if self.evaluator is None:
            return {}
        read = {str(row["index"]): self.evaluator.prefetch_answer(row) or "" for row in self.rows}
        return {"read": read, "judged": self.judged, "groups": self.groups}


def told(record: Any) -> bool:
    return bool(record["level"].no >= 30 or "failed" in record["message"].lower())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
