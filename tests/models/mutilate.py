"""Mutilated models: files of tiny bases, adapters and scorers that are cut, flipped, swapped or
given other values, loaded as ``doctor`` and ``run`` load them.

    python -m tests.models.mutilate 500     prints the outcomes, counted by kind

An outcome is a sentence, the unmutilated model's own answers, or other answers under an identity
that names the changed file. Anything else is a fault: a traceback, other answers under the same
identity, or a ``doctor`` that says otherwise than loading does.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from harness.artifacts.fingerprint import differences
from harness.cli.doctor import load_state
from harness.engine.clip_scorer import find_scorer, load_scorer, scorer_identity
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models.base_cards import BASES, find_base
from harness.pipeline.stage_identity import untrained
from methods.interface import Decoding, Prompt
from tests.models.test_checkpoints import save, save_adapter
from tests.models.test_loaded_files import scorer as save_scorer
from tests.tiny_models import picture

MAX_MEMORY = 24 * 2**30
"""Bytes of address space; a load that asks for more fails here, not the machine."""
TEXTS = ("describe the picture .", "what colour is the ball ?")
HTML = b"<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4096\n"
OTHER_TYPES: tuple[Any, ...] = ("text", True, None, [], {}, 0.5, -1, ["a", 1], {"a": {}})
HUGE: tuple[Any, ...] = (10**9, -(10**9), 10**18, 10**30, 1e308, float("inf"), float("nan"))


def _cut(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content))])


def _flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 8, 64))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _flip_start(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(min(256, len(content)))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _swap(path: Path, dice: random.Random) -> None:
    others = [each for each in sorted(path.parent.iterdir()) if each.is_file() and each != path]
    path.write_bytes(dice.choice(others).read_bytes() if others else b"[]")


def _set(values: tuple[Any, ...]) -> Callable[[Path, random.Random], None]:
    """Give one value of a JSON file, at any depth, another."""

    def mutilate(path: Path, dice: random.Random) -> None:
        content = json.loads(path.read_text())
        part = content
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            key = dice.choice(keys)
            inner = part[key]
            if not (isinstance(inner, (dict, list)) and inner) or dice.random() < 0.3:
                break
            part = inner
        part[key] = dice.choice(values)
        path.write_text(json.dumps(content))

    return mutilate


def _drop(path: Path, dice: random.Random) -> None:
    content = json.loads(path.read_text())
    parts = [content, *(value for value in content.values() if isinstance(value, dict) and value)]
    part = dice.choice(parts)
    del part[dice.choice(list(part))]
    path.write_text(json.dumps(content))


def _nest(path: Path, dice: random.Random) -> None:
    opened, closed = dice.choice((("[", "]"), ('{"a":', "}")))
    path.write_text(opened * 100_000 + "1" + closed * 100_000)


def _header(path: Path, dice: random.Random) -> None:
    """Another shape, type or place of a tensor in a safetensors header of the same length."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = dice.choice([name for name in header if name != "__metadata__"])
    field, value = dice.choice(
        (
            ("shape", [*header[name]["shape"], 1]),
            ("shape", header[name]["shape"][::-1]),
            ("shape", [10**12]),
            ("dtype", "I32"),
            ("dtype", "F8_E4M3"),
            ("data_offsets", [0, 4]),
        )
    )
    if dice.random() < 0.3:
        header[f"{name}.other"] = header.pop(name)
    else:
        header[name][field] = value
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _write(content: bytes) -> Callable[[Path, random.Random], None]:
    return lambda path, _: void(path.write_bytes(content))


def void(_: object) -> None:
    """Drops a value."""


def _link(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


ANY: Mapping[str, Callable[[Path, random.Random], None]] = {
    "cut": _cut,
    "bits flipped": _flip,
    "bit flipped at the start": _flip_start,
    "empty": _write(b""),
    "swapped": _swap,
    "HTML page": _write(HTML),
    "LFS pointer": _write(POINTER),
    "gone": lambda path, _: path.unlink(),
    "dangling link": _link,
}
JSON: Mapping[str, Callable[[Path, random.Random], None]] = {
    "wrong type": _set(OTHER_TYPES),
    "huge number": _set(HUGE),
    "field dropped": _drop,
    "nested": _nest,
    "not an object": _write(b"[1, 2]"),
}
TENSORS: Mapping[str, Callable[[Path, random.Random], None]] = {"header changed": _header}


@dataclass(frozen=True)
class Original:
    """A whole model: its folder, the part of it that is mutilated, and what loading it gives."""

    root: Path
    folder: str
    load: Callable[[str], Any]
    """Answers and log-probabilities, or scores, of the model in a folder."""
    identity: Callable[[str], Any]
    doctor: bool = True


def answers(name: str) -> Any:
    engine = Engine(*load_model(find_base(name)))
    prompts = [
        Prompt(key=f"{text} {seed}", text=text, image=picture(seed))
        for text in TEXTS
        for seed in (0, 1)
    ]
    texts = [each.text for each in engine.generate(prompts, Decoding(max_new_tokens=6))]
    return texts, engine.logps(prompts, ["a red ball ."] * len(prompts))


def base_identity(name: str) -> Any:
    return {"format": 1, **untrained(find_base(name)).identity}


def scores(name: str) -> Any:
    scorer = load_scorer(find_scorer(name, BASES["synthetic"]))
    return scorer.relevance([picture(0), picture(1)], ["a red ball .", "a house"])


def scorer_content(name: str) -> Any:
    return {"scorer": scorer_identity(find_scorer(name, BASES["synthetic"]))}


def originals(root: Path) -> dict[str, Original]:
    """One whole model of each kind below ``root``."""
    found = {}
    for family in ("llava-1.5", "qwen2.5-vl"):
        save(root / family / "base", family)
        found[family] = Original(root / family, "base", answers, base_identity)
    save(root / "shards" / "base", "llava-1.5", max_shard_size="100KB")
    found["shards"] = Original(root / "shards", "base", answers, base_identity)
    save_adapter(root / "adapter" / "lora", Path("../base"))
    save(root / "adapter" / "base", "llava-1.5")
    found["adapter"] = Original(root / "adapter", "lora", answers, base_identity)
    save_scorer(root / "scorer" / "clip")
    found["scorer"] = Original(root / "scorer", "clip", scores, scorer_content, doctor=False)
    return found


def outcome(original: Original, expected: Any, identity: Any, folder: Path, changed: str) -> str:
    """What loading the mutilated copy in ``folder`` gives; begins with FAULT where it is one."""
    name = str(folder / original.folder)
    try:
        given = original.load(name)
    except UserError as error:
        sentence = str(error)
        if original.doctor and load_state(name).ready:
            return f"FAULT: doctor says ready, loading says: {sentence}"
        if "\n" in sentence or len(sentence) > 900:
            return f"FAULT: no sentence: {sentence[:300]}"
        return "a sentence"
    except BaseException as error:
        return f"FAULT: {type(error).__name__}: {str(error)[:300]}"
    if original.doctor and not (state := load_state(name)).ready:
        return f"FAULT: it loads, doctor says: {state.says}"
    if repr(given) == repr(expected):
        return "the same answers"
    lines = differences(identity, original.identity(name))
    if not any(changed in line or "*.safetensors" in line for line in lines):
        return f"FAULT: other answers under the same identity ({lines[:3]})"
    return "other answers, another identity"


def run(count: int, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """Outcomes of ``count`` mutilated files by model, kind of mutilation and outcome."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dice, counts = random.Random(seed), Counter[tuple[str, str, str]]()
    with tempfile.TemporaryDirectory() as name:
        models = originals(Path(name) / "whole")
        whole = {
            kind: (
                each.load(str(each.root / each.folder)),
                each.identity(str(each.root / each.folder)),
            )
            for kind, each in models.items()
        }
        for number in range(count):
            kind = list(models)[number % len(models)]
            original, copy = models[kind], Path(name) / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(original.root, copy)
            files = sorted((copy / original.folder).iterdir())
            path = dice.choice(files)
            special = {".json": JSON, ".safetensors": TENSORS}.get(path.suffix, ANY)
            ways = special if dice.random() < 0.5 else ANY
            way = dice.choice(sorted(ways))
            ways[way](path, dice)
            expected, identity = whole[kind]
            shown = outcome(original, expected, identity, copy, path.name)
            if shown.startswith("FAULT"):
                print(f"{number} {kind} {path.name} {way}: {shown}", flush=True)
            counts[kind, way, shown.partition(":")[0]] += 1
    return counts


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    counts = run(*map(int, sys.argv[1:3] or ["500"]))
    for place, title in ((0, "model"), (1, "mutilation")):
        print(f"by {title}")
        rows = Counter[tuple[str, str]]()
        for key, number in counts.items():
            rows[key[place], key[2]] += number
        for (name, shown), number in sorted(rows.items()):
            print(f"  {name:<26} {shown:<34} {number}")
    total = Counter[str]()
    for key, number in counts.items():
        total[key[2]] += number
    print(dict(total))


if __name__ == "__main__":
    main()
