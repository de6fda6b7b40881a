"""Adapters are saved beside the merged model in peft's layout, name the model that they were
trained on, and give the same model when they are merged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from harness.artifacts.results_folder import read_jsonl
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models.adapters import WEIGHTS
from harness.models.base_cards import BASES, find_base, parent_of
from harness.models.checkpoints import weights_fingerprint
from harness.study.study import Run, Study
from harness.training import save_model
from harness.training.pair_batches import encode, image_features, image_spans, pack
from harness.training.policy import packed_logits
from methods.interface import Lora
from methods.untrained import Untrained
from tests.running import run_study
from tests.tiny_models import tiny_llava
from tests.toy_method import RECIPE, Toy, Words, card_of, save_base, save_pictures
from tests.training.cases import PAIRS, TARGETS, images, train

LOW = replace(RECIPE, lr=1e-2, lora=Lora(r=4, alpha=8), projector_lr=1e-2)
ADAPTED = Toy(recipe=LOW)


def logits(model: Any, processor: Any) -> torch.Tensor:
    """The logits of the answers of PAIRS."""
    spans = image_spans(model, processor, PAIRS, images)
    batch = pack(encode(PAIRS, processor, patches=spans, positions=512))
    with torch.no_grad():
        return packed_logits(model, batch, image_features(model, processor, PAIRS, images))[
            batch.mask
        ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds of LoRA, and its folder."""
    root = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "tiny", save_base(root / "tiny"))
        pictures = str(save_pictures(root / "pictures", 12))
        baseline = Run(label="untrained", base="tiny", method=Untrained())
        toy = Run(label="toy", base="tiny", method=ADAPTED, pool=pictures, images=6, rounds=2)
        trained_study = Study(
            name="adapters", question="Kept?", runs=(baseline, toy), benchmarks=(Words(pictures=1),)
        )
        run_study(trained_study, root / "out")
    return root


@pytest.fixture(autouse=True)
def tiny(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "tiny", card_of(study / "tiny"))


def trained(study: Path, number: int) -> Path:
    return study / "out" / "runs" / "toy" / "seed0" / f"round{number}" / "train"


@pytest.mark.thorough
def test_each_rounds_adapter_names_its_parent(study: Path) -> None:
    first, second = (
        json.loads((trained(study, number) / "adapter" / "adapter_config.json").read_text())
        for number in (1, 2)
    )
    assert (first["base_model_name_or_path"], second["base_model_name_or_path"]) == (
        "tiny",
        "../../../round1/train/model",
    )
    assert (first["r"], first["lora_alpha"], first["peft_type"]) == (4, 8, "LORA")
    assert first["modules_to_save"] == ["model.multi_modal_projector"]
    for number, parent in ((1, study / "tiny"), (2, trained(study, 1) / "model")):
        record = json.loads((trained(study, number) / "adapter" / "selfsight.json").read_text())
        beside = weights_fingerprint(trained(study, 1) / "adapter") if number == 2 else None
        assert record == {"parent_weights": weights_fingerprint(parent), "parent_adapter": beside}
        for path in trained(study, number).glob(
            "*/*.safetensors"
        ):  # as readable as the files beside it
            assert path.stat().st_mode == (path.parent / "README.md").stat().st_mode
    record = json.loads((trained(study, 1) / "record.json").read_text())
    assert record["weights"] == weights_fingerprint(trained(study, 1) / "model")


@pytest.mark.equality
@pytest.mark.parametrize("number", [1, 2])
def test_an_adapter_gives_the_merged_model(study: Path, number: int) -> None:
    merged = load_model(find_base(str(trained(study, number) / "model")))
    adapted = load_model(find_base(str(trained(study, number) / "adapter")))
    assert torch.equal(logits(*adapted), logits(*merged))
    assert not torch.allclose(logits(*merged), logits(*load_model(BASES["tiny"])), atol=1e-2)


@pytest.mark.equality
def test_as_a_base_it_gives_the_same_answers(study: Path, tmp_path: Path) -> None:
    folder = trained(study, 2)
    baseline = Run(label="untrained", base="tiny", method=Untrained())
    rows = tuple(
        Run(label=kind, base=str(folder / kind), method=Untrained())
        for kind in ("model", "adapter")
    )
    rows_study = Study(
        name="rows", question="?", runs=(baseline, *rows), benchmarks=(Words(pictures=2),)
    )
    run_study(rows_study, tmp_path)
    model, adapter, base = (
        [row["answer"] for row in read_jsonl(tmp_path / "runs" / label / where)]
        for label in ("model", "adapter", "untrained")
        for where in ("seed0/round0/answers/words/answers.jsonl",)
    )
    assert adapter == model != base


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # peft's wrapper touches deprecated attributes of the base
@pytest.mark.parametrize("number", [1, 2])
def test_peft_reads_it(study: Path, number: int) -> None:
    folder = trained(study, number)
    base, processor = load_model(
        BASES["tiny"], weights=None if number == 1 else trained(study, 1) / "model"
    )
    theirs = PeftModel.from_pretrained(base, str(folder / "adapter")).merge_and_unload()
    torch.testing.assert_close(
        logits(theirs, processor), logits(*load_model(BASES["tiny"], weights=folder / "model"))
    )


def test_a_missing_or_changed_parent_is_an_error(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "out", tmp_path / "out")
    first, second = trained(tmp_path, 1), trained(tmp_path, 2) / "adapter"
    assert find_base(str(second)).adapters == (second,)
    shutil.rmtree(first / "model")
    shutil.copytree(trained(tmp_path, 2) / "model", first / "model")
    with pytest.raises(
        UserError,
        match=(
            r"trained on other weights than those in .*/round1/train/model \(fingerprint"
            r" \w{12}, not"
        ),
    ):
        find_base(str(second))
    shutil.rmtree(first / "model")
    (first / "adapter").rename(tmp_path / "moved")
    with pytest.raises(
        UserError,
        match=(
            r"of the base '\.\./\.\./\.\./round1/train/model', .*/round1/train/model is no folder\."
        ),
    ):
        find_base(str(second))


@pytest.mark.equality
def test_adapters_alone_are_enough(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "out", tmp_path / "out")
    merged = logits(*load_model(find_base(str(trained(tmp_path, 2) / "model"))))
    for number in (1, 2):
        shutil.rmtree(trained(tmp_path, number) / "model")
    card = find_base(str(trained(tmp_path, 2) / "adapter"))
    assert card.adapters == tuple(trained(tmp_path, number) / "adapter" for number in (1, 2))
    assert torch.equal(logits(*load_model(card)), merged)
    shutil.copy(
        trained(tmp_path, 2) / "adapter" / WEIGHTS,
        trained(tmp_path, 1) / "adapter" / WEIGHTS,
    )
    with pytest.raises(
        UserError, match=r"trained on other weights than those in .*/round1/train/adapter"
    ):
        find_base(str(trained(tmp_path, 2) / "adapter"))


def test_an_adapter_trained_on_an_adapter_names_it(study: Path, tmp_path: Path) -> None:
    below = trained(study, 1) / "adapter"
    card = find_base(str(below))
    model, _ = load_model(card)
    parent = parent_of(card, None, tmp_path / "adapter")
    train(tmp_path, LOW, model, lora_targets=TARGETS, parent=parent)
    found = find_base(str(tmp_path / "adapter"))
    assert found.adapters == (below.resolve(), tmp_path / "adapter")
    assert torch.equal(
        logits(*load_model(found)), logits(*load_model(found, weights=tmp_path / "model"))
    )


class Killed(Exception):  # noqa: N818
    """Stands for a kill."""


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize("at", ["merging", "model"])
def test_killed_between_adapter_and_model_it_continues(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    options = {
        "lora_targets": TARGETS,
        "parent": parent_of(base, None, tmp_path / "x"),
        "checkpoint_every": 1,
    }
    train(tmp_path / "straight", LOW, **options)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if at == "merging":
            patch.setattr(save_model, "merge", killed)
        else:
            whole = save_model.write_folder
            patch.setattr(
                save_model,
                "write_folder",
                lambda folder, *parts: (
                    killed() if folder.name == "model" else whole(folder, *parts)
                ),
            )
        with pytest.raises(Killed):
            train(tmp_path / "cut", LOW, **options)
    assert (tmp_path / "cut" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "cut" / "model").exists()
    (tmp_path / "cut" / ".adapter.tmp").mkdir()  # a kill while writing leaves this
    train(tmp_path / "cut", LOW, **options)
    for name in (
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "model/model.safetensors",
    ):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert not list((tmp_path / "cut").glob(".*"))


def test_without_a_projector_or_a_parent(tmp_path: Path) -> None:
    train(tmp_path / "none", LOW, lora_targets=TARGETS)
    assert not (tmp_path / "none" / "adapter").exists()  # its parent is unknown
    parent = parent_of(BASES["llava-1.5-7b"], None, tmp_path)
    train(
        tmp_path / "some",
        replace(LOW, projector_lr=None),
        tiny_llava()[0],
        lora_targets=TARGETS,
        parent=parent,
    )
    config = json.loads((tmp_path / "some" / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["modules_to_save"]) == (
        "llava-hf/llava-1.5-7b-hf",
        None,
    )
    assert config["revision"] == BASES["llava-1.5-7b"].revision
    assert all(
        ".lora_" in name
        for name in load_file(tmp_path / "some" / "adapter" / "adapter_model.safetensors")
    )
    # Two cards have this hub id: ours is named in the record, without it the hub's own is meant.
    assert find_base(str(tmp_path / "some" / "adapter")).image_shape == "pad"
    (tmp_path / "some" / "adapter" / "selfsight.json").unlink()
    assert find_base(str(tmp_path / "some" / "adapter")).image_shape == "crop"
