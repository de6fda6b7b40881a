"""Exported pairs are a data set that the datasets library loads offline and trl trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from harness.artifacts.results_folder import read_jsonl, write_jsonl
from harness.cli import main as cli
from harness.data.open_pool import open_pool
from harness.data.pool import pixels_sha
from harness.errors import UserError
from harness.models.base_cards import BASES
from harness.models.chat_format import renderer
from harness.reporting.hub_pairs import export_pairs
from harness.study.study import Run, Study
from methods.untrained import Untrained
from tests.running import run_study
from tests.tiny_models import tiny_llava
from tests.toy_method import Toy, Words, save_base, save_pictures

LABEL = "toy a_b"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "tiny", save_base(root / "tiny"))
        pool = str(save_pictures(root / "pool", 6))
        rows = (
            Run(label="untrained", base="tiny", method=Untrained()),
            Run(label=LABEL, base="tiny", method=Toy(), pool=pool, images=6),
        )
        words = (Words(pictures=1),)
        pairs_study = Study(name="pairs", question="?", runs=rows, benchmarks=words)
        run_study(pairs_study, root / "out")
    return root / "out"


def load(folder: Path, cache: Path) -> Any:
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", cache_dir=str(cache))


def test_the_data_set_loads_with_the_same_texts_and_pixels(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hub"
    assert cli.main(["export-pairs", str(study), LABEL, "--out", str(out), "--own"]) == 0
    pairs = read_jsonl(study / "runs" / LABEL / "seed0/round1/pairs/pairs.jsonl")
    assert f"{len(pairs)} pairs of {LABEL}, seed 0, round 1" in capsys.readouterr().out
    loaded = load(out, tmp_path / "cache")
    assert loaded.column_names == ["images", "prompt", "chosen", "rejected"]
    pool = open_pool(str(study.parent / "pool"))
    assert len(loaded) == len(pairs) > 2
    for row, pair in zip(loaded, pairs, strict=True):
        assert [pixels_sha(image) for image in row["images"]] == [
            pixels_sha(pool.image(pair["item"]))
        ]
        image, question = row["prompt"][0]["content"]
        assert (image["type"], question["text"]) == ("image", pair["prompt"])
        for side in ("chosen", "rejected"):
            assert row[side][0]["role"] == "assistant"
            assert row[side][0]["content"][0]["text"] == pair[side]


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_trl_prepares_the_tokens_that_are_trained_on_here(study: Path, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    export_pairs(study, LABEL, tmp_path / "hub", seed=0, round=1, own=True)
    pairs = load(tmp_path / "hub", tmp_path / "cache")
    model, processor = tiny_llava()
    settings = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=2,
        max_steps=1,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=model,
        ref_model=tiny_llava()[0],
        args=settings,
        processing_class=processor,
        train_dataset=pairs,
    )
    batch = trainer.data_collator([pairs[0]])
    tokens = batch["input_ids"][0][batch["attention_mask"][0].bool()]
    render = renderer(processor)
    row = pairs[0]
    text = render.render_prompt(row["prompt"][0]["content"][1]["text"], True)
    text += render.render_completion(row["chosen"][0]["content"][0]["text"])
    ours = processor(images=row["images"][0], text=text, return_tensors="pt")["input_ids"][0]
    assert tokens.tolist() == ours.tolist()
    trainer.train()
    assert trainer.state.global_step == 1


def test_the_card_is_the_hubs_and_names_no_licence_that_nobody_stated(
    study: Path, tmp_path: Path
) -> None:
    export_pairs(study, LABEL, tmp_path / "hub", seed=None, round=1, own=True)
    card = DatasetCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "unknown"
    assert card.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert "toy a\\_b" in card.content  # a label is text, not markup
    assert '"temperature": 1.0' in card.content
    assert '"lr": 0.001' in card.content


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label": "toy a"}, "did you mean 'toy a_b'?"),
        ({"seed": 7}, "no training seed 7; give one of 0"),
        ({"round": 2}, "no round 2; give a --round from 1 to 1"),
        ({"own": False}, "Give --own"),
    ],
)
def test_a_mistake_is_one_sentence(
    study: Path, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    label = given.pop("label", LABEL)
    options = {"seed": None, "round": 1, "own": True} | given
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        export_pairs(study, label, tmp_path / "hub", **options)
    assert not (tmp_path / "hub").exists()


def test_a_changed_image_and_a_full_folder_are_refused(study: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "hub" / "x.jsonl", [1])
    with pytest.raises(UserError, match="is not empty"):
        export_pairs(study, LABEL, tmp_path / "hub", seed=0, round=1, own=True)
    image = study.parent / "pool" / "00.png"
    before = image.read_bytes()
    image.write_bytes((study.parent / "pool" / "01.png").read_bytes())
    try:
        with pytest.raises(UserError, match="has changed"):
            export_pairs(study, LABEL, tmp_path / "new", seed=0, round=1, own=True)
    finally:
        image.write_bytes(before)
