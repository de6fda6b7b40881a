"""The judge's settings file: wrong settings are named, and no key is repeated."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judge import judge_prompt, open_judge
from benchmarks.judge_settings import read_settings

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repeats": 0}, "repeats is 0"),
        ({"concurrency": True}, "concurrency is True"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0"),
        ({"timeout": "long"}, "timeout is 'long'"),
        ({"price_in": -1}, "price_in is -1"),
        ({"model": ""}, "model is ''"),
        ({"model": "\ud83d"}, "model holds '.*', half of a character"),
        ({"recording": "a\0b"}, "recording holds the control character"),
        ({"prompts": {"mmhal": "\ud83d"}}, "prompts holds '.*', half of a character"),
        ({"max_tokens": 10**400}, "max_tokens is 1000.*from 1 to 1,000,000"),
        ({"concurrency": 10**6}, "concurrency is 1000000"),
        ({"requests_per_minute": 10**400}, "requests_per_minute is 1000"),
        ({"requests_per_minute": 1e-300}, "requests_per_minute is 1e-300"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"backoff": float("nan")}, "backoff is nan"),
        ({"price_in": 10**400}, "price_in is 1000"),
        ({"price_out": float("nan")}, "price_out is nan"),
        ({"key_variable": KEY}, "name the one that holds the key"),
        ({"base_url": "ftp://x/v1"}, "must be an address"),
        ({"base_url": f"https://me:{KEY}@x/v1"}, "holds a name, key or query"),
        ({"base_url": f"https://x/v1?key={KEY}"}, "holds a name, key or query"),
        ({"prompts": ["a"]}, "prompts must look like"),
        ({"temperature": 1}, "'temperature', which is none of"),
        ({"api_key": KEY}, "'api_key', which is none of"),
    ],
)
def test_wrong_settings_are_named_and_no_key_is_repeated(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "judge.json"
    path.write_text(json.dumps({"base_url": "https://x/v1", "model": "m", **change}))
    with pytest.raises(ValueError, match=words) as caught:
        read_settings(path)
    assert KEY not in str(caught.value)


def test_the_settings_file_is_found_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SELFSIGHT_JUDGE", raising=False)
    assert open_judge() is None
    path = tmp_path / "judge.json"
    monkeypatch.setenv("SELFSIGHT_JUDGE", str(path))
    with pytest.raises(ValueError, match="cannot be read"):
        open_judge()
    path.write_text('{"model": "m"}')
    with pytest.raises(ValueError, match="must be a JSON object with base_url and model"):
        open_judge()
    path.write_text(
        json.dumps(
            {"base_url": "https://x/v1/", "model": "m", "repeats": 3, "prompts": {"one": "own.txt"}}
        )
    )
    judge = open_judge()
    assert judge is not None
    assert (judge.settings.url, judge.settings.name) == ("https://x/v1/chat/completions", "m x3")
    assert judge.recording == tmp_path / "judgements.jsonl"
    (tmp_path / "own.txt").write_text("mine")
    (tmp_path / "default.txt").write_text("default")
    assert judge_prompt(judge, "one", tmp_path / "default.txt") == "mine"
    assert judge_prompt(judge, "two", tmp_path / "default.txt") == "default"
    assert judge_prompt(None, "one", tmp_path / "default.txt") == "default"
    with pytest.raises(ValueError, match="cannot be read"):
        judge_prompt(judge, "two", tmp_path / "nowhere.txt")


def test_a_settings_file_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "judge.json"
    for content in (b"[" * 100_000, b"\xff\xfe{}", b'{"repeats": ' + b"1" * 5000 + b"}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="are no JSON"):
            read_settings(path)
    path.unlink()
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path)):
        make()
        with pytest.raises(ValueError, match="cannot be read"):
            read_settings(path)
        path.rmdir() if path.is_dir() else path.unlink()
