"""Adapters and configurations that peft and transformers take with a warning are errors here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.engine.model_checks import sample_image
from harness.errors import UserError
from harness.models.base_cards import find_base
from methods.interface import Decoding, Prompt
from tests.models.test_checkpoints import save, save_adapter
from tests.models.twins import TWINS
from tests.tiny_models import tiny_llava

ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", save(tmp_path / "parent", "llava-1.5"))
    return tmp_path / "adapter"


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def keep(folder: Path, wanted: Callable[[str], bool]) -> None:
    tensors = load_file(folder / ADAPTER)
    left = {name: tensor for name, tensor in tensors.items() if wanted(name)}
    assert 0 < len(left) < len(tensors)
    save_file(left, folder / ADAPTER)


@pytest.mark.parametrize("part", ["lora_A", "layers.0.", "q_proj"])
def test_an_adapter_with_some_of_its_tensors_is_refused(part: str, adapter: Path) -> None:
    find_base(str(adapter))
    keep(adapter, lambda name: part in name)
    with pytest.raises(UserError, match=r"is half there: \d+ of the \d+ tensors.*such as model\."):
        find_base(str(adapter))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["weight"]),
        ("init_lora_weights", "pissa"),
        ("a_setting_of_tomorrow", 3),
    ],
)
def test_a_setting_that_is_not_computed_is_named(field: str, value: Any, adapter: Path) -> None:
    change(adapter / "adapter_config.json", **{field: value})
    with pytest.raises(UserError, match=f"uses {field} .*not computed here"):
        find_base(str(adapter))


def test_other_targets_than_the_tensors_are_refused(adapter: Path) -> None:
    for targets in (["nothing"], ["q_proj"], r".*\.layers\.0\..*_proj"):
        change(adapter / "adapter_config.json", target_modules=targets)
        with pytest.raises(UserError, match="which its target_modules do not name"):
            find_base(str(adapter))
    change(adapter / "adapter_config.json", target_modules="(")
    with pytest.raises(UserError, match="not one that peft reads"):
        find_base(str(adapter))


@pytest.mark.parametrize("saved", ["nothing", "multi_modal_projector"])
def test_a_saved_module_without_its_tensors_is_refused(saved: str, adapter: Path) -> None:
    change(adapter / "adapter_config.json", modules_to_save=[saved])
    with pytest.raises(UserError, match="modules_to_save"):
        find_base(str(adapter))


@pytest.mark.equality
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["multi_modal_projector"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"q_proj": 3},
            "alpha_pattern": {"down_proj": 64},
        },
        {"target_modules": ["k_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": r".*language_model.*\.(up|gate)_proj", "lora_alpha": 800},
    ],
    ids=["modules_to_save", "all-linear", "patterns", "layers", "regex"],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_an_adapter_that_peft_saved_is_merged_as_peft_merges_it(
    options: dict[str, Any], tmp_path: Path
) -> None:
    parent = save(tmp_path / "parent", "llava-1.5")
    config = LoraConfig(r=2, init_lora_weights=False, **options)
    wrapped = get_peft_model(tiny_llava()[0], config)
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.1
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(parent))
    ours, _ = load_model(find_base(str(tmp_path / "adapter")))
    theirs = PeftModel.from_pretrained(tiny_llava()[0], str(tmp_path / "adapter"))
    merged, base = theirs.merge_and_unload(), tiny_llava()[0]
    changed = 0
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, atol=1e-6, rtol=1e-6)
        changed += not torch.equal(weight, base.get_parameter(name))
    assert changed > 0


@pytest.mark.parametrize("family", TWINS)
def test_a_config_of_fewer_layers_than_the_weights_is_refused(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", family)
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], "num_hidden_layers": 1}
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:1]
    change(folder / "config.json", text_config=text)
    with pytest.raises(UserError, match=r"has no place for \d+ of them, such as .*layers\.1\."):
        load_model(find_base(str(folder)))


@pytest.mark.parametrize("family", TWINS)
def test_a_config_without_text_config_builds_nothing(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", family)
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"describes [\d,]+ parameters, the weights beside it hold"):
        find_base(str(folder))


def test_a_config_of_endless_layers_builds_nothing(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "llava-1.5")
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], "num_hidden_layers": 10**9, "layer_types": None}
    change(folder / "config.json", text_config=text)
    with pytest.raises(UserError, match="num_hidden_layers is 1000000000, more than 1000"):
        find_base(str(folder))


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_integer_and_quantised_weights_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", "llava-1.5")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].to(kind)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"q_proj.weight as (I8|I64|F8_E4M3); only BF16"):
        find_base(str(folder))


def test_adapters_in_a_circle_are_refused(adapter: Path) -> None:
    other = adapter.parent / "other"
    save_adapter(other, adapter)
    change(adapter / "adapter_config.json", base_model_name_or_path=str(other))
    for folder in (adapter, other):
        with pytest.raises(UserError, match="is its own base, by way of 2 adapters"):
            find_base(str(folder))
    change(adapter / "adapter_config.json", base_model_name_or_path=str(adapter))
    with pytest.raises(UserError, match="is its own base, by way of 1 adapters"):
        find_base(str(adapter))


@pytest.mark.parametrize("family", TWINS)
@pytest.mark.parametrize("image", [None, sample_image((64, 64))], ids=["text", "image"])
def test_a_prompt_longer_than_the_models_positions_is_named(family: str, image: Any) -> None:
    model, processor = TWINS[family]()
    engine = Engine(model, processor)
    prompt = Prompt(key="long one", text="red " * 3000, image=image)
    for ask in (
        lambda: engine.generate([prompt], Decoding(max_new_tokens=2)),
        lambda: engine.logps([prompt], ["red"]),
    ):
        with pytest.raises(UserError, match=r"Prompt 'long one' takes \d+ tokens and the model"):
            ask()
