"""A model's identity covers every small file that loading reads, and a difference names the file
and the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import Stage
from harness.engine.clip_scorer import find_scorer, scorer_identity
from harness.errors import UserError
from harness.models.base_cards import BASES, SYNTHETIC_WEIGHTS, find_base
from harness.pipeline.stage_identity import answers_identity, untrained
from tests.engine.test_clip_scorer import tiny_clip
from tests.models.test_checkpoints import save, save_adapter
from tests.models.twins import TWINS

IDENTITIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "base": lambda folder: {
        "format": 1,
        **answers_identity(untrained(find_base(str(folder))), "words", folder / "none"),
    },
    "scorer": lambda folder: {
        "scorer": scorer_identity(find_scorer(str(folder), BASES["synthetic"]))
    },
}


def scorer(folder: Path) -> Path:
    model, processor = tiny_clip()
    for part in (model, processor.image_processor, processor.tokenizer):
        part.save_pretrained(folder)
    return folder


def adapter(folder: Path) -> Path:
    parent = save(folder / "parent", "llava-1.5")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_adapter(folder / "adapter", parent)
    return folder / "adapter"


SAVED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    **{name: ("base", lambda folder, name=name: save(folder / "m", name)) for name in TWINS},
    "adapter": ("base", adapter),
    "scorer": ("scorer", lambda folder: scorer(folder / "clip")),
}


def small_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix != ".safetensors"]


@pytest.mark.parametrize("kind", SAVED)
def test_each_small_file_changes_the_identity_and_is_named(kind: str, tmp_path: Path) -> None:
    of, make = SAVED[kind]
    folder = make(tmp_path)
    before = IDENTITIES[of](folder)
    Stage(tmp_path / "out", before).open()
    changed = 0
    for path in small_files(folder):
        kept = path.read_bytes()
        if path.suffix == ".json":
            fields = json.loads(kept)
            field = "lora_alpha" if "lora_alpha" in fields else "something_new"
            path.write_text(json.dumps({**fields, field: 800}))
            named = f"{path.name}.{field}: "
        else:
            path.write_bytes(kept + b" ")
            named = f"{path.name}: "
        after = IDENTITIES[of](folder)
        assert fingerprint(after) != fingerprint(before), path.name
        assert after.get("model", 1) != before.get("model", 2), path.name
        with pytest.raises(UserError) as refused:
            Stage(tmp_path / "out", after).open()
        assert named in str(refused.value)
        path.write_bytes(kept)
        changed += 1
    assert changed == len(small_files(folder)) >= (1 if kind == "adapter" else 4)
    assert IDENTITIES[of](folder) == before


@pytest.mark.parametrize(
    ("name", "field"), [("config.json", "vision_feature_layer"), ("generation_config.json", "eos")]
)
def test_a_changed_field_is_named(name: str, field: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "llava-1.5")
    Stage(tmp_path / "out", IDENTITIES["base"](folder)).open()
    fields = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**fields, field: -1}))
    with pytest.raises(UserError, match=rf"files\.{name}\.{field}: .* stored, -1 requested"):
        Stage(tmp_path / "out", IDENTITIES["base"](folder)).open()


@pytest.mark.parametrize("kind", SAVED)
def test_what_does_not_change_loading_does_not_count(kind: str, tmp_path: Path) -> None:
    of, make = SAVED[kind]
    folder = make(tmp_path)
    before = IDENTITIES[of](folder)
    (folder / "README.md").write_text("A model.")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    for path in small_files(folder):
        if path.suffix == ".json":
            fields = json.loads(path.read_text())
            fields["transformers_version"] = "4.0"
            reordered = dict(reversed(fields.items()))
            path.write_text(json.dumps(reordered, indent=7))
    assert IDENTITIES[of](folder) == before


@pytest.mark.parametrize("kind", SAVED)
def test_the_same_saved_again_has_the_same_identity(kind: str, tmp_path: Path) -> None:
    of, make = SAVED[kind]
    first, second = (IDENTITIES[of](make(tmp_path / name)) for name in "ab")
    assert first == second


def test_a_card_a_folder_and_a_snapshot_have_one_identity(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(SYNTHETIC_WEIGHTS, copy)
    snapshot = tmp_path / "snapshots" / "0123abcd"  # the hub's cache: links to files elsewhere
    snapshot.mkdir(parents=True)
    for path in copy.iterdir():
        (snapshot / path.name).symlink_to(path)
    ids = {untrained(find_base(name)).id for name in ("synthetic", str(copy), str(snapshot))}
    assert len(ids) == 1


def test_other_weights_count_with_their_own_config_and_the_cards_processor(tmp_path: Path) -> None:
    base, tuned = (save(tmp_path / name, "llava-1.5") for name in ("base", "tuned"))
    card = find_base(str(base))
    before = untrained(card, tuned)
    assert (before.id, before.weights) == (untrained(card).id, tuned)
    (tuned / "tokenizer_config.json").write_text("{}")  # not read: the processor is the card's
    assert untrained(card, tuned).id == before.id
    (tuned / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert untrained(card, tuned).id != before.id


@pytest.mark.parametrize("content", ["[1, 2", "[1, 2]", '{"a": NaN}', '{"a": "\\ud800"}'])
def test_a_broken_file_counts_by_its_bytes(content: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "llava-1.5")
    card = find_base(str(folder))
    ids = []
    for text in (content, content + " "):
        (folder / "processor_config.json").write_text(text)
        ids.append(untrained(card).id)
    assert ids[0] != ids[1]
