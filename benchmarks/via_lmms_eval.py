"""lmms-eval (EvolvingLMMs-Lab/lmms-eval) behind the interface of a benchmark: any of its image
tasks, our answers.

The kit lives in an environment of its own (``nox -s toolkit_lmms_eval``) and is run there, for a
moment, by
``via_lmms_eval_child.py``; files pass between us: questions and images out, answers in, results
back.

What is the kit's: the prompts, the images, the reading of each answer, its score, its totals.
What is ours: the decoding (greedy, at most the task's ``max_new_tokens``), its stop strings, which
cut the stored answer (greedy decoding would have written the same up to there), and the counts
(``via_lmms_eval_counts``) that make totals ratios which statistics can resample. The kit's own
totals stand in the report as ``lmms_eval:<metric>``; they count a missing answer as an empty one.

Local data is a folder with a copy of the task's data set repository, its README.md included (that
is where configurations and splits are named); one data file is taken for the task's only split.
Without it the kit loads from the hub or its cache.

A judge is never left out silently: where a task asks one, its key must be there and it must answer
before any grading, and a judgement that failed ends the grading. The kit sends the requests itself,
so they are neither recorded nor replayed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from benchmarks import chat, files
from benchmarks.interface import Grade, Metric, Question, Report, report
from benchmarks.via_lmms_eval_counts import Counting, Read, check, counting

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("via_lmms_eval_child.py")
WORLD = Path(__file__).parent / "synthetic" / "lmms_eval"
VARIABLE = "SELFSIGHT_LMMS_EVAL_PYTHON"
RULES_VERSION = "1"
MAX_NEW_TOKENS = 1024
"""For a task that sets no bound: what the kit's LLaVA takes."""
JUDGE = "gpt-4o-2024-11-20"
"""The kit's own judge where MODEL_VERSION names none."""
JUDGED: Mapping[str, Literal["base", "full"]] = {
    "mmvet": "base",
    "llava_in_the_wild": "base",
    "mmbench_en_dev": "full",
    "hallusion_bench_image": "full",
}
"""Tasks that ask a judge, and whether they take OPENAI_API_URL as the base (/v1) or as the full
address (/chat/completions)."""
HALLUCINATION = ("pope", "amber", "coco_cap_chair", "hallusion", "synthetic_pope")
_LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}

Row = Mapping[str, Any]


def benchmark(task: str, split: str, limit: int | None, data: Path | None = None) -> ViaLmmsEval:
    """The kit's image task (``pope``, ``mme``, ``scienceqa_img``, ..., or the synthetic world's
    ``synthetic_pope``, ``synthetic_vqa``).

    ``limit``: at most so many images, chosen by a hash, each with all its questions. ``data``: a
    folder with a copy of the data set's repository (or one that holds it under its hub name), or
    one .parquet or .jsonl file; None: the hub's (the world's tasks draw theirs).

    Raises:
        ValueError: no such task, not a task with written answers, a split other than test, data
            that cannot be used, or the kit is not installed.
    """
    drawn = (WORLD / f"{task}.yaml").is_file()
    if not drawn and split != "test":
        raise ValueError(
            f"lmms_eval:{task} has no {split!r} split for tuning: its questions are asked as the"
            " test; tune on the world."
        )
    if limit is not None and limit < 1:
        raise ValueError(
            f"A benchmark's limit is {limit} images; it must be at least 1, or None for all."
        )
    if drawn and data is not None:
        raise ValueError(
            f"lmms_eval:{task} draws its own images and reads no file; leave {data} out."
        )
    about = describe(task, python())
    if about["output_type"] != "generate_until":
        raise ValueError(
            f"lmms_eval:{task} wants {about['output_type']}; only tasks with one written answer"
            " (generate_until) can be asked."
        )
    if data is not None:
        inner = data / str(about["dataset_path"])
        data = inner if inner.is_dir() else data
        _check_data(task, data)
    return ViaLmmsEval(task=task, split=split, limit=limit, data=data, about=about)


def python() -> Path:
    """The interpreter of the environment that holds the kit.

    Raises:
        ValueError: there is none.
    """
    named = os.environ.get(VARIABLE)
    found = (
        [Path(named)] if named else sorted(ROOT.glob(".nox/toolkit[-_]lmms[-_]eval*/bin/python"))
    )
    if not found or not found[0].is_file():
        where = (
            f"{VARIABLE} is {named}, which is no file" if named else "lmms-eval is not installed"
        )
        raise ValueError(
            f"{where}: make its environment with python -m nox -s toolkit_lmms_eval, or name in"
            f" {VARIABLE} a Python that has it."
        )
    return found[0]


@lru_cache
def describe(task: str, interpreter: Path) -> Row:
    """What the task is made of; the kit is not imported for this."""
    with tempfile.TemporaryDirectory(prefix="selfsight-") as folder:
        return _child(
            Path(folder), {"do": "describe", "task": task, "include": [str(WORLD)]}, interpreter
        )


@dataclass(frozen=True, kw_only=True)
class ViaLmmsEval:
    """One of the kit's tasks. ``about``: its YAML's settings and fingerprint."""

    task: str
    split: str
    limit: int | None
    data: Path | None
    about: Row

    @property
    def name(self) -> str:
        """As the results folder names it (a colon would be none of a folder's letters)."""
        return f"lmms_eval.{self.task}"

    @property
    def group(self) -> Literal["hallucination", "general"]:
        return "hallucination" if self.task.startswith(HALLUCINATION) else "general"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.counting.metrics

    @cached_property
    def counting(self) -> Counting:
        return counting(self.task, self.about["metrics"])

    @cached_property
    def version(self) -> str:
        """The kit's version, the task's own and the hash of its files, the local data's content,
        our counting, the judge."""
        source = (
            self.about["dataset_path"] if self.data is None else f"data-{_fingerprint(self.data)}"
        )
        if self._drawn:
            from benchmarks.synthetic import suite

            source = f"{suite.SOURCE}-{self.split}"
        judge = f" judge-{os.environ.get('MODEL_VERSION', JUDGE)}" if self.task in JUDGED else ""
        own = f"{self.about['task'] or 'none'}-{self.about['fingerprint']}"
        return (
            f"lmms-eval-{self.about['kit']} {self.task}-{own} {source} rules-{RULES_VERSION}{judge}"
        )

    @property
    def _drawn(self) -> bool:
        return (WORLD / f"{self.task}.yaml").is_file()

    @cached_property
    def exported(self) -> Exported:
        """The questions, asked of the kit once."""
        folder = Path(tempfile.mkdtemp(prefix="selfsight-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        reply = self._run(folder, {"do": "export", "limit": self.limit})
        if not reply["rows"]:
            raise ValueError(f"lmms_eval:{self.task} gave no question.")
        return Exported(folder=folder, rows=tuple(reply["rows"]))

    def questions(self) -> Iterator[Question]:
        """The kit's own prompts and images, in the order of its documents.

        Raises:
            ValueError: rows of the data cannot be asked; each is named by its number.
        """
        for row in self.exported.rows:
            yield Question(
                id=_id(row),
                images=tuple(self.exported.picture(name) for name in row["images"]),
                text=row["text"],
                max_new_tokens=row["max_new_tokens"] or MAX_NEW_TOKENS,
                cluster=row["cluster"],
            )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """The kit's evaluation of these answers. One that is missing or empty is unscored here.

        Raises:
            ValueError: an answer belongs to no question, a judge cannot be asked or failed, or the
                kit cannot grade.
        """
        rows = self.exported.rows
        known = {_id(row) for row in rows}
        if strange := [id for id in answers if id not in known]:
            raise ValueError(
                f"There is no question {strange[0]!r} for an answer ({len(strange)} such); grade"
                " the answers of this benchmark, split and limit."
            )
        environment = judge_environment(self.task)
        given = [cut(answers.get(_id(row), ""), row["until"]) for row in rows]
        request = {
            "do": "grade",
            "docs": [row["doc"] for row in rows],
            "answers": [without_controls(text)[0] for text in given],
        }
        with tempfile.TemporaryDirectory(prefix="selfsight-") as folder:
            reply = self._run(Path(folder), request, environment)
        grades, totals = graded(self.counting, rows, answers, given, reply, self.task)
        whole = report(self.metrics, grades)
        return replace(
            whole,
            values={
                **whole.values,
                **{f"lmms_eval:{name}": total for name, total in totals.items()},
            },
        )

    def _run(self, folder: Path, request: Row, environment: Mapping[str, str] | None = None) -> Row:
        """The kit in a folder of its own, in which the data lies under the name that the task asks
        for."""
        local = self.data
        if self._drawn:
            from benchmarks.synthetic.lmms_eval.data import write

            local = write(self.task, folder / "drawn", self.split, self.limit)
        # Judged tasks make their client when they are loaded, and fail without a key: no question
        # needs one.
        offline = {} if os.environ.get("OPENAI_API_KEY") else {"OPENAI_API_KEY": "none-is-needed"}
        if local is not None:
            place(local, folder / self.about["dataset_path"], self.about)
            # Its data set cache would keep a copy a folder, for ever.
            offline |= {
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
                "LMMS_EVAL_DATASETS_CACHE": str(folder / "cache"),
            }
        whole = {
            **request,
            "task": self.task,
            "folder": self.about["folder"],
            "local": local is not None,
        }
        try:
            return _child(folder, whole, python(), {**offline, **(environment or {})})
        except ValueError as error:
            at = f" (data: {self.data})" if self.data is not None else ""
            raise ValueError(f"lmms_eval:{self.task}{at}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Questions as the kit asks them; the images lie in the folder as long as the benchmark
    lives."""

    folder: Path
    rows: tuple[Row, ...]

    def picture(self, name: str) -> Image.Image:
        return files.open_picture(self.folder / "images" / name)


def graded(
    counts: Counting,
    rows: Sequence[Row],
    answers: Mapping[str, str],
    given: Sequence[str],
    reply: Row,
    task: str,
) -> tuple[list[Grade], Mapping[str, float]]:
    """Grades in the questions' order from what the kit made of the answers, and its totals, which
    the counts must give.

    Raises:
        ValueError: the kit has graded other rows, a judgement failed, or a total is not that of the
            rows.
    """
    made = [row["metrics"] for row in reply["rows"]]
    if [row["doc"] for row in reply["rows"]] != [row["doc"] for row in rows]:
        raise ValueError(
            f"lmms-eval graded {len(made)} rows of {len(rows)}, or in another order; nothing was"
            " graded."
        )
    reads = [counts.read(one) for one in made]
    whole = counts.together(made, reads, reply["choices"])
    if lost := [read.failed for read in whole if read.failed]:
        raise ValueError(
            f"The judge of lmms_eval:{task} gave no judgement on {len(lost)} of {len(rows)} answers"
            f" (first: {lost[0]}); the kit would have made one up. The answers are kept: grade"
            " again when the judge answers."
        )
    check(counts, [read.counts for read in whole], reply["totals"])
    missing = [_id(row) not in answers for row in rows]
    left = [
        Read(value=None, counts={}, truth=read.truth) if gone else read
        for read, gone in zip(reads, missing, strict=True)
    ]
    grades = []
    for row, read, text, gone in zip(
        rows, counts.together(made, left, reply["choices"]), given, missing, strict=True
    ):
        why, value = ("no answer", None) if gone else (read.why, read.value)
        if not gone and not text.strip():
            why, value = "empty answer", None
        taken = without_controls(text)[1]
        note = f"{taken} control characters taken out for the kit" if taken else ""
        grades.append(
            Grade(
                question=_id(row),
                cluster=row["cluster"],
                value=value,
                read_as=read.read_as,
                why="; ".join(part for part in (why, note) if part),
                counts=read.counts,
                truth=read.truth or row["target"],
            )
        )
    return grades, reply["totals"]


def _id(row: Row) -> str:
    return f"{row['doc']:06d}"


def cut(answer: str, until: Sequence[str]) -> str:
    """The answer up to the task's first stop string."""
    places = [answer.find(stop) for stop in until if stop in answer]
    return answer[: min(places)] if places else answer


def without_controls(text: str) -> tuple[str, int]:
    """The answer with control characters as blanks, and how many: MMBench writes a spreadsheet,
    whose library refuses them."""
    odd = [character for character in text if ord(character) < 32 and character not in "\n\r\t"]
    return "".join(" " if character in odd else character for character in text), len(odd)


def judge_environment(task: str) -> Mapping[str, str]:
    """What the task's judge is asked with; it must answer once before anything is graded.

    Raises:
        ValueError: there is no key, or the judge does not answer.
    """
    if task not in JUDGED:
        return {}
    key, model = os.environ.get("OPENAI_API_KEY"), os.environ.get("MODEL_VERSION", JUDGE)
    if not key:
        raise ValueError(
            f"lmms_eval:{task} asks the judge {model} and needs its key in OPENAI_API_KEY (the"
            " address in OPENAI_API_URL, the model in MODEL_VERSION); without one the kit would"
            " count what it could not ask as wrong, or guess."
        )
    base = (
        os.environ.get("OPENAI_API_URL", "https://api.openai.com/v1")
        .rstrip("/")
        .removesuffix("/chat/completions")
    )
    full = f"{base}/chat/completions"
    body = {"model": model, "messages": [{"role": "user", "content": "Say 1."}], "max_tokens": 16}
    chat.ask(
        full,
        body,
        key=key,
        pace=chat.Pace(600),
        retries=1,
        backoff=1.0,
        timeout=60.0,
        stop=threading.Event(),
    )
    return {
        "API_TYPE": "openai",
        "MODEL_VERSION": model,
        "OPENAI_API_URL": full if JUDGED[task] == "full" else base,
    }


def place(data: Path, target: Path, about: Row) -> None:
    """Local data where the kit's ``load_dataset`` finds it: a repository's copy as it is; a file as
    the only split."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if data.is_dir():
        target.symlink_to(data.resolve(), target_is_directory=True)
        return
    target.mkdir()
    (target / f"data{data.suffix}").symlink_to(data.resolve())
    name = about["dataset_name"] or "default"
    config = [
        {
            "config_name": name,
            "data_files": [{"split": about["split"], "path": f"data{data.suffix}"}],
        }
    ]
    (target / "README.md").write_text(
        f"---\nconfigs: {json.dumps(config)}\n---\n", encoding="utf-8"
    )


def _check_data(task: str, data: Path) -> None:
    """Broken files named before the kit hides them behind its retries."""
    if not data.exists():
        raise ValueError(
            f"lmms_eval:{task}: there is no {data}; give a copy of the data set's repository, or"
            " one data file."
        )
    if data.is_file() and data.suffix not in _LOADERS:
        raise ValueError(
            f"lmms_eval:{task}: {data} is no .parquet, .jsonl or .json file; give one, or a folder."
        )
    found = _data_files(data)
    if not found:
        raise ValueError(
            f"lmms_eval:{task}: {data} holds no .parquet, .jsonl or .json file; give a copy of the"
            " data set's repository."
        )
    import pyarrow
    import pyarrow.parquet

    for path in found:
        if path.suffix == ".parquet":
            try:
                pyarrow.parquet.ParquetFile(path)
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(
                    f"{path} is cut off or no Parquet file ({' '.join(str(error).split())[:120]});"
                    f" {files.AGAIN}."
                ) from None
        elif path.suffix == ".jsonl":
            _ = list(files.read_rows(path))


def _data_files(data: Path) -> list[Path]:
    return (
        [data]
        if data.is_file()
        else sorted(path for path in data.rglob("*") if path.suffix in _LOADERS and path.is_file())
    )


def _fingerprint(data: Path) -> str:
    digest = hashlib.sha256()
    for path in [
        *_data_files(data),
        *([data / "README.md"] if (data / "README.md").is_file() else []),
    ]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _child(
    folder: Path, request: Row, interpreter: Path, environment: Mapping[str, str] | None = None
) -> Row:
    """Run the program in the kit's environment.

    Raises:
        ValueError: it ended without a reply, or the kit cannot do what was asked.
    """
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    # -P: the folder of this file holds modules whose names the kit's libraries might import.
    command = [str(interpreter), "-P", str(CHILD), str(folder)]
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    whole = {**os.environ, **quiet, **(environment or {})}
    done = subprocess.run(
        command,
        cwd=folder,
        env=whole,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    reply = folder / "reply.json"
    if done.returncode or not reply.is_file():
        last = [line for line in done.stderr.strip().split("\n") if line.strip()][-3:]
        raise ValueError(
            f"lmms-eval's program in {interpreter} ended with status {done.returncode}:"
            f" {' | '.join(last)[:800]}"
        )
    found: Row = json.loads(reply.read_text(encoding="utf-8"))
    if "trouble" in found:
        raise ValueError(f"lmms-eval: {found['trouble']}.")
    return found
