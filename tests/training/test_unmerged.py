"""Adapters of a base in half precision stay beside the weights: no small update is rounded away,
answers are those of peft's own model, and the next round starts from what was trained."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from harness.engine.backbone import LeanLlama, TransformersText
from harness.engine.engine import Engine
from harness.engine.load import check_model, load_model
from harness.errors import UserError
from harness.models import load_base
from harness.models.adapters import WEIGHTS, Parent, attach_adapter, lora_layers
from harness.models.base_cards import BASES, LLAMA_LINEARS, find_base, identity_files
from harness.reporting.results import load_results
from harness.reporting.tables import provenance
from harness.study.study import Run, Study
from harness.training.update_kept import adapted_rows, merged_share
from methods.interface import Decoding, Lora, Prompt
from methods.untrained import Untrained
from tests.models.twins import TWINS
from tests.running import run_study
from tests.tiny_models import picture
from tests.toy_method import RECIPE, Toy, Words, card_of, save_base, save_pictures
from tests.training import cases
from tests.training.test_adapters import logits

LOW = replace(RECIPE, lr=1e-2, lora=Lora(r=4, alpha=8), projector_lr=None)
SMALL = replace(LOW, lr=1e-5)
"""Adam's first step then gives entries of B of 1e-5."""
SAID = Decoding(max_new_tokens=12)
FAST = {"llava-1.5": LeanLlama, "qwen2.5-vl": TransformersText}


def half(family: str) -> tuple[Any, Any]:
    model, processor = TWINS[family]()
    return model.to(torch.bfloat16).eval(), processor


@pytest.fixture(params=list(TWINS))
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    processor = TWINS[request.param]()[1]
    monkeypatch.setattr(cases, "tiny_llava", lambda: (None, processor))
    return str(request.param)


def train(out: Path, family: str, recipe: Any = LOW, model: Any = None, **more: Any) -> Any:
    options: dict[str, Any] = {"lora_targets": LLAMA_LINEARS, "parent": Parent(name="org/base")}
    return cases.train(out, recipe, model or half(family)[0], **options | more)


def adapted(family: str, *folders: Path) -> tuple[Any, Any]:
    model, processor = half(family)
    for folder in folders:
        model = attach_adapter(model, folder / "adapter")
    return model, processor


def prompts() -> list[Prompt]:
    texts = [
        "describe the picture",
        "what colour is the ball?",
        "is there a cup?",
        "how many fish?",
    ]
    return [Prompt(key=str(n), text=text, image=picture(n % 3)) for n, text in enumerate(texts)]


@pytest.mark.thorough
def test_a_float16_base_trains_as_its_float32_twin(family: str, tmp_path: Path) -> None:
    """Its frozen weights stay in float16, and autocast computes in bfloat16."""
    losses, updates = {}, {}
    for dtype in (torch.float16, torch.float32):
        model, out = TWINS[family]()[0].half().to(dtype).eval(), tmp_path / str(dtype)
        train(out, family, LOW, model, max_steps=4)
        assert model.model.language_model.layers[0].mlp.down_proj.weight.dtype == dtype
        rows = (out / "log.jsonl").read_text().splitlines()
        losses[dtype] = [json.loads(row)["dpo"] for row in rows]
        low = load_file(out / "adapter" / WEIGHTS)
        updates[dtype] = torch.cat([each.flatten() for name, each in low.items() if "_B" in name])
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], abs=0.01)
    assert torch.cosine_similarity(*updates.values(), dim=0) > 0.95
    fresh, processor = TWINS[family]()
    model = attach_adapter(fresh.half().eval(), tmp_path / "torch.float16" / "adapter")
    check_model(model, processor)  # the engine's log-probabilities are transformers' in float16


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # peft's wrapper touches deprecated attributes of the base
def test_answers_are_those_of_pefts_own_model(family: str, tmp_path: Path) -> None:
    train(tmp_path, family)
    assert not (tmp_path / "model").exists()
    assert {each.dtype for each in load_file(tmp_path / "adapter" / WEIGHTS).values()} == {
        torch.float32
    }
    ours, processor = adapted(family, tmp_path)
    theirs = PeftModel.from_pretrained(half(family)[0], str(tmp_path / "adapter")).get_base_model()
    assert torch.equal(logits(ours, processor), logits(theirs, processor))
    assert not torch.equal(logits(ours, processor), logits(*half(family)))
    check_model(ours, processor)  # the engine's log-probabilities are transformers'
    engine, plain = Engine(ours, processor), Engine(theirs, processor)
    assert type(engine.decoder.text) is FAST[family]
    plain.decoder.text = TransformersText(theirs.model.language_model)  # by peft's modules
    said, expected = (each.generate(prompts(), SAID) for each in (engine, plain))
    assert [each.text for each in said] == [each.text for each in expected]
    untrained = Engine(*half(family)).generate(prompts(), SAID)
    assert [each.text for each in said] != [each.text for each in untrained]


def test_a_small_update_survives(family: str, tmp_path: Path) -> None:
    summary = train(tmp_path, family, SMALL, max_steps=1)
    up = load_file(tmp_path / "adapter" / WEIGHTS)
    sizes = torch.cat([each.abs().flatten() for name, each in up.items() if "lora_B" in name])
    assert 0.5e-5 < sizes.median() < 2e-5
    assert summary.update_kept > 0.99
    model, _ = adapted(family, tmp_path)
    for layer in lora_layers(model):
        layer.lora_A["default"] = layer.lora_A["fixed0"]
        layer.lora_B["default"] = layer.lora_B["fixed0"]
        layer.scaling["default"] = layer.scaling["fixed0"]
    rows = adapted_rows(model)
    for layer in lora_layers(model):
        layer.merge(adapter_names=["fixed0"])
    assert merged_share(rows) < 0.1  # what merging into half precision would have left


def test_the_fast_path_computes_the_whole_update(tmp_path: Path) -> None:
    cases.train(
        tmp_path, SMALL, half("llava-1.5")[0], lora_targets=LLAMA_LINEARS, parent=Parent(name="x/y")
    )
    model, _ = adapted("llava-1.5", tmp_path)
    layer = model.model.language_model.layers[0]
    maps = LeanLlama(model.model.language_model).layers[0].qkv
    x = torch.eye(64, dtype=torch.bfloat16)[None]
    for weight in maps.weights:
        weight.data = torch.zeros_like(weight)
    for module, out in zip((layer.self_attn.q_proj, layer.self_attn.k_proj), maps(x), strict=False):
        update = module.get_delta_weight("fixed0").T
        assert float((out[0] - update).norm() / update.norm()) < 0.01


@pytest.mark.thorough
def test_the_next_round_starts_from_what_was_trained(family: str, tmp_path: Path) -> None:
    first = tmp_path / "round1"
    train(first, family, replace(LOW, projector_lr=1e-2))
    start, processor = adapted(family, first)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    expected = logits(start, processor)
    train(tmp_path / "round2", family, replace(LOW, projector_lr=1e-2), start)
    row = json.loads((tmp_path / "round2" / "log.jsonl").read_text().splitlines()[0])
    assert row["margin"] == pytest.approx(0, abs=1e-6)  # the reference is base and first adapter
    again, _ = adapted(family, first)
    assert torch.equal(logits(again, processor), expected)
    both, _ = adapted(family, first, tmp_path / "round2")
    tensors = both.state_dict()
    assert all(
        torch.equal(tensors[name], value)
        for name, value in before.items()
        if "multi_modal_projector" not in name and "merger" not in name
    )
    second = load_file(tmp_path / "round2" / "adapter" / WEIGHTS)
    projector = [name for name in second if ".lora_" not in name]
    assert projector
    for name in projector:
        stored = both.get_parameter(name.removeprefix("base_model.model."))
        assert stored.dtype == torch.float32
        assert torch.equal(stored, second[name])
    layer = next(iter(lora_layers(both)))
    assert layer.active_adapters == ["fixed0", "fixed1"]
    check_model(both, processor)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds on a base that is loaded in bfloat16, and a row of each round's adapter."""
    root = tmp_path_factory.mktemp("unmerged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_base, "loaded_dtype", lambda *_: torch.bfloat16)
        patch.setitem(BASES, "tiny", save_base(root / "tiny"))
        save_pictures(root / "pictures", 12)
        run_rows(root, root / "out")
    return root


def run_rows(root: Path, out: Path, *rows: Run) -> None:
    pictures = str(root / "pictures")
    baseline = Run(label="untrained", base="tiny", method=Untrained())
    method = Toy(recipe=replace(LOW, projector_lr=1e-2))
    toy = Run(label="toy", base="tiny", method=method, pool=pictures, images=6, rounds=2)
    runs = (baseline, *(rows or (toy,)))
    study = Study(name="unmerged", question="Kept?", runs=runs, benchmarks=(Words(pictures=3),))
    run_study(study, out)


@pytest.mark.thorough
def test_a_lost_update_is_named_below_the_table(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full training is saved in half precision, where a step of 1e-6 is lost."""
    monkeypatch.setattr(load_base, "loaded_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setitem(BASES, "tiny", card_of(study / "tiny"))
    pool = str(study / "pictures")
    rows = (
        Run(label=label, base="tiny", method=Toy(recipe=recipe), pool=pool, images=6, rounds=1)
        for label, recipe in (("small", replace(RECIPE, lr=1e-6)), ("adapted", SMALL))
    )
    run_rows(study, study / "lost", *rows)
    [line] = [
        each
        for each in provenance.sentences(load_results(study / "lost"))
        if each.startswith("Updates that")
    ]
    assert re.search(r"small keeps \d %.*update, so its answers are nearly.*train with LoRA", line)
    assert "adapted" not in line


def said(folder: Path) -> list[str]:
    lines = (folder / "answers" / "words" / "answers.jsonl").read_text().splitlines()
    return [json.loads(line)["answer"] for line in lines]


@pytest.mark.thorough
def test_rounds_of_a_half_precision_base(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_base, "loaded_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setitem(BASES, "tiny", card_of(study / "tiny"))
    rounds = [study / "out" / "runs" / "toy" / "seed0" / f"round{number}" for number in (1, 2)]
    for each in rounds:
        assert not (each / "train" / "model").exists()
        record = json.loads((each / "train" / "record.json").read_text())
        assert record["training"]["update_kept"] > 0.99
        assert (each / "train" / "adapter" / "README.md").is_file()
    config = json.loads((rounds[1] / "train" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../../../round1/train/adapter"
    last = rounds[1] / "train"
    card = find_base(str(last / "adapter"))
    assert card.adapters == tuple(each / "train" / "adapter" for each in rounds)
    model, _ = load_model(BASES["tiny"], weights=last / "model")
    assert next(iter(lora_layers(model))).active_adapters == ["fixed0", "fixed1"]
    row = Run(label="row", base=str(last / "adapter"), method=Untrained())
    run_rows(study, study / "rows", row)
    answers = said(study / "rows" / "runs" / "row" / "seed0" / "round0")
    assert answers == said(rounds[1]) != said(rounds[0])


@pytest.mark.thorough
def test_the_identity_covers_every_adapter(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "tiny", card_of(study / "tiny"))
    last = study / "out" / "runs" / "toy" / "seed0" / "round2" / "train"
    files = identity_files(BASES["tiny"], last / "model")
    assert files == identity_files(find_base(str(last / "adapter")))
    assert {"adapter 1/*.safetensors", "adapter 2/*.safetensors"} < files.keys()


@pytest.mark.thorough
def test_an_adapter_of_another_base_is_an_error(study: Path, tmp_path: Path) -> None:
    cases.train(
        tmp_path,
        LOW,
        half("llava-1.5")[0],
        lora_targets=LLAMA_LINEARS,
        parent=Parent(name=str(BASES["llava-1.5-7b"].source)),
    )
    with pytest.raises(UserError, match=r"is of the base llava-hf/.*, not of 'tiny'; give an"):
        load_model(card_of(study / "tiny"), weights=tmp_path / "model")
