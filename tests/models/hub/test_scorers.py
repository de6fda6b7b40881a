"""CSR's scorer from a hub: the published CLIP's torch file as tensors alone, safetensors where they
are, others by their id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine.clip_scorer import SCORERS
from tests.engine.test_clip_scorer import Evil, tiny_clip
from tests.models.hub.conftest import Desk

pytestmark = pytest.mark.thorough
STUDY = "tests/models/hub/study.py"
CLIP = SCORERS["clip-vit-large-patch14-336"]


def clip(desk: Desk, name: str, state: dict[str, Any] | None) -> Path:
    """A folder with a tiny CLIP: a torch file of ``state``, or safetensors."""
    folder = desk.work / name
    model, processor = tiny_clip()
    for part in (model, processor.image_processor, processor.tokenizer):
        part.save_pretrained(folder)
    if state is not None:
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
    return folder


def scored(out: Path) -> str:
    return str(
        json.loads((out / "runs/csr/seed0/round1/pairs/identity.json").read_text())["scorer"]
    )


def pairs(out: Path) -> str:
    return (out / "runs/csr/seed0/round1/pairs/pairs.jsonl").read_text()


def with_scorer(path: Path, scorer: str) -> Path:
    """A user's study whose CSR names its scorer."""
    path.write_text(
        "from dataclasses import replace\nfrom tests.models.hub import study as own\ndef"
        f" study(**options):\n    own.CSR = replace(own.CSR, scorer={scorer!r})\n    return"
        " own.study(**options)\n"
    )
    return path


@pytest.mark.slow
def test_the_published_clip_is_read_from_its_torch_file_and_from_safetensors_where_there_are(
    desk: Desk, base: Path, tmp_path: Path
) -> None:
    asked = ("--base", base, "--only", "csr")
    source, commit = str(CLIP.source), CLIP.revision
    desk.hub.add(source, clip(desk, "clip-bin", tiny_clip()[0].state_dict()), commit=commit)
    out = tmp_path / "torch"
    said = desk.harness("run", STUDY, *asked, "--out", out)
    assert said.code == 0, said.err
    assert scored(out) == f"{source}@{commit}"
    assert not any(
        "convert" in path or "discussions" in path for _, path, _ in desk.hub.asked
    )  # nobody is told of it
    # The bot's pull request, named by the user: the same scores from safetensors, whatever lies
    # beside them.
    safe = clip(desk, "clip-safe", None)
    (safe / "pytorch_model.bin").write_bytes(b"never to be read")
    pull = desk.hub.add(source, safe, ref="refs/pr/8")
    other = with_scorer(tmp_path / "safe.py", f"{source}@refs/pr/8")
    said = desk.harness("run", other, *asked, "--out", tmp_path / "safe")
    assert said.code == 0, said.err
    assert scored(tmp_path / "safe") == f"{source}@{pull}"
    assert pairs(tmp_path / "safe") == pairs(out)
    assert pairs(out)
    assert not any(
        method == "GET" and pull in path and path.endswith(".bin")
        for method, path, _ in desk.hub.asked
    )


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("org/clip-torch", "has pytorch_model.bin alone, a torch file, which is not read"),
        ("org/no-clip", "there is no such repository"),
        ("org/clip-torch@v2", "it has no revision 'v2'"),
        (
            "clip-vit-large",
            "There is no scorer 'clip-vit-large'; did you mean 'clip-vit-large-patch14-336'",
        ),
    ],
)
def test_a_scorer_that_cannot_be_had_is_one_sentence(
    desk: Desk, base: Path, scorer: str, words: str, tmp_path: Path
) -> None:
    desk.hub.add("org/clip-torch", clip(desk, "clip-torch", tiny_clip()[0].state_dict()))
    study = with_scorer(tmp_path / "own.py", scorer)
    assert words in desk.refused(
        "run", study, "--base", base, "--only", "csr", "--out", tmp_path / "out"
    )


def test_a_torch_file_with_more_than_tensors_is_refused_and_not_run(
    desk: Desk, base: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    bad = clip(desk, "clip-bad", {"text_projection.weight": Evil(mark)})
    cached = desk.home / "hub" / f"models--{str(CLIP.source).replace('/', '--')}"
    shutil.rmtree(cached, ignore_errors=True)
    desk.hub.add(str(CLIP.source), bad, commit=CLIP.revision)
    said = desk.refused("run", STUDY, "--base", base, "--only", "csr", "--out", tmp_path / "out")
    assert (
        "its torch file holds more than tensors and was not run; give a model with safetensors."
        in said
    )
    assert not mark.exists()
    shutil.rmtree(cached)
