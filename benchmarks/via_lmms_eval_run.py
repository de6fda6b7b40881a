"""Asks lmms-eval: its interpreter, its data in place, its judge's environment, one request at a
time (see ``via_lmms_eval``)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from benchmarks import chat, files, kit_process

CHILD = Path(__file__).with_name("via_lmms_eval_child.py")
SYNTHETIC = Path(__file__).parent / "synthetic" / "lmms_eval"
"""The folder of our own tasks."""
VARIABLE = "SELFSIGHT_LMMS_EVAL_PYTHON"
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
_SUFFIXES = (".parquet", ".jsonl", ".json")

Row = Mapping[str, Any]


def python() -> Path:
    """The interpreter of the kit's environment; ValueError: there is none."""
    return kit_process.find_python("lmms-eval", "toolkit_lmms_eval", VARIABLE)


def is_drawn(task: str) -> bool:
    """Whether it is one of our own tasks, which draw their images."""
    return (SYNTHETIC / f"{task}.yaml").is_file()


@lru_cache
def describe(task: str, interpreter: Path) -> Row:
    """The task's settings and fingerprint; the kit is not imported for this."""
    request = {"do": "describe", "task": task, "include": [str(SYNTHETIC)]}
    with tempfile.TemporaryDirectory(prefix="selfsight-") as folder:
        return ask(Path(folder), request, interpreter)


def ask(
    folder: Path, request: Row, interpreter: Path, environment: Mapping[str, str] | None = None
) -> Row:
    """Run the program in the kit's environment.

    Raises:
        ValueError: it failed, or the kit cannot do what was asked.
    """
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    # -P: the program's folder holds modules whose names the kit's libraries might import.
    command = [str(interpreter), "-P", str(CHILD)]
    variables = {**os.environ, **quiet, **(environment or {})}
    reply: Row = kit_process.run("lmms-eval", request["do"], command, folder, request, variables)
    if "trouble" in reply:
        raise ValueError(f"lmms-eval: {reply['trouble']}.")
    return reply


def judge_environment(task: str) -> Mapping[str, str]:
    """The environment variables of the task's judge, which must answer once before any grading.

    Raises:
        ValueError: there is no key, or the judge does not answer.
    """
    if task not in JUDGED:
        return {}
    key, model = os.environ.get("OPENAI_API_KEY"), os.environ.get("MODEL_VERSION", JUDGE)
    if not key:
        raise ValueError(
            f"lmms_eval:{task} asks the judge {model} and needs its key in OPENAI_API_KEY (the"
            " address in OPENAI_API_URL, the model in MODEL_VERSION); without a key the kit would"
            " count unjudged answers as wrong, or guess."
        )
    url = os.environ.get("OPENAI_API_URL", "https://api.openai.com/v1")
    base = url.rstrip("/").removesuffix("/chat/completions")
    full = f"{base}/chat/completions"
    chat.ask(
        full,
        {"model": model, "messages": [{"role": "user", "content": "Say 1."}], "max_tokens": 16},
        key=key,
        pace=chat.Pace(600),
        retries=1,
        backoff=1.0,
        timeout=60.0,
        stop=threading.Event(),
    )
    address = full if JUDGED[task] == "full" else base
    return {"API_TYPE": "openai", "MODEL_VERSION": model, "OPENAI_API_URL": address}


def link_data(data: Path, target: Path, config: Row) -> None:
    """Put local data where the kit's ``load_dataset`` finds them: a repository's copy as it is, a
    file as the only split."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if data.is_dir():
        target.symlink_to(data.resolve(), target_is_directory=True)
        return
    target.mkdir()
    file = f"data{data.suffix}"
    (target / file).symlink_to(data.resolve())
    splits = [{"split": config["split"], "path": file}]
    configs = [{"config_name": config["dataset_name"] or "default", "data_files": splits}]
    readme = f"---\nconfigs: {json.dumps(configs)}\n---\n"
    (target / "README.md").write_text(readme, encoding="utf-8")


def check_data(task: str, data: Path) -> None:
    """Name broken files here: the kit would hide them behind retries.

    Raises:
        ValueError: the data are missing or broken.
    """
    if not data.exists():
        raise ValueError(
            f"lmms_eval:{task}: there is no {data}; give a copy of the data set's repository, or"
            " one data file."
        )
    if data.is_file() and data.suffix not in _SUFFIXES:
        raise ValueError(
            f"lmms_eval:{task}: {data} is no .parquet, .jsonl or .json file; give one, or a folder."
        )
    if not (paths := _data_files(data)):
        raise ValueError(
            f"lmms_eval:{task}: {data} holds no .parquet, .jsonl or .json file; give a copy of the"
            " data set's repository."
        )
    # Imported here: it is large, and only local data need it.
    import pyarrow
    import pyarrow.parquet

    for path in paths:
        if path.suffix == ".parquet":
            try:
                pyarrow.parquet.ParquetFile(path)
            except (pyarrow.ArrowException, OSError) as error:
                raise files.broken(
                    f"{path} is cut off or no Parquet file ({' '.join(str(error).split())[:120]})"
                ) from None
        elif path.suffix == ".jsonl":
            _ = list(files.read_rows(path))


def _data_files(data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    return sorted(path for path in data.rglob("*") if path.suffix in _SUFFIXES and path.is_file())


def fingerprint(data: Path) -> str:
    """12 digits of the sha256 over the data files and README.md."""
    digest = hashlib.sha256()
    readme = data / "README.md"
    for path in [*_data_files(data), *([readme] if readme.is_file() else [])]:
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
