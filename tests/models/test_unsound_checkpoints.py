"""Adapters and configurations that peft and transformers take with a warning are errors here."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from harness.engine.engine import Engine
from harness.engine.load import load_model, sample_image
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


@pytest.mark.thorough
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


ERAS: dict[str, tuple[str, tuple[tuple[str, str], ...], list[str]]] = {
    "LLaVA until 4.51": (
        "llava-1.5",
        (
            (r"model\.language_model\.", "language_model.model."),
            (r"model\.vision_tower\.", "vision_tower.vision_model."),
            (r"model\.multi_modal_projector\.", "multi_modal_projector."),
        ),
        ["q_proj", "down_proj", "linear_1"],
    ),
    "Qwen2.5-VL until 4.51": (
        "qwen2.5-vl",
        (
            (r"model\.language_model\.", "model."),
            (r"model\.visual\.", "visual."),
        ),
        ["q_proj", "qkv", "lm_head", "embed_tokens"],
    ),
    "Qwen2.5-VL now": ("qwen2.5-vl", (), ["lm_head", "embed_tokens", "q_proj"]),
}
"""The family, its names of today and of then, and the adapted modules."""


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_of_another_era_answers_as_peft_computes_it(era: str, tmp_path: Path) -> None:
    family, names, targets = ERAS[era]
    parent = save(tmp_path / "parent", family)
    layer = "model.language_model.layers.0.self_attn.q_proj"
    config = LoraConfig(
        r=2,
        init_lora_weights=False,
        target_modules=targets,
        rank_pattern={layer: 3},
        alpha_pattern={layer: 40},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = get_peft_model(TWINS[family]()[0], config)
    wrapped.save_pretrained(str(tmp_path / "now"))
    theirs = PeftModel.from_pretrained(TWINS[family]()[0], str(tmp_path / "now"))
    merged = theirs.merge_and_unload()

    def then(name: str) -> str:
        for now, before in names:
            name = re.sub(rf"^(base_model\.model\.)?{now}", rf"\g<1>{before}", name, count=1)
        return name

    folder = tmp_path / "then"
    shutil.copytree(tmp_path / "now", folder)
    tensors = {then(name): tensor for name, tensor in load_file(folder / ADAPTER).items()}
    assert (tensors.keys() == load_file(folder / ADAPTER).keys()) == (names == ())
    save_file(tensors, folder / ADAPTER)
    change(
        folder / "adapter_config.json",
        base_model_name_or_path=str(parent),
        rank_pattern={then(layer): 3},
        alpha_pattern={then(layer): 40},
    )
    ours, processor = load_model(find_base(str(folder)))
    changed, base = 0, TWINS[family]()[0]
    for name, weight in merged.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, atol=1e-6, rtol=1e-6)
        changed += not torch.equal(weight, base.get_parameter(name))
    assert changed > len(targets)
    prompts = [Prompt(key="a", text="describe the picture .", image=sample_image((64, 64)))]
    answers = [
        Engine(model, processor).generate(prompts, Decoding(max_new_tokens=6))[0].text
        for model in (ours, merged, base)
    ]
    assert answers[0] == answers[1]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["embed_tokens"]}],
    ids=["target_modules", "modules_to_save"],
)
def test_an_adapter_of_a_tied_weight_is_refused(options: Any, tmp_path: Path) -> None:
    parent = save(tmp_path / "parent", "llava-1.5")
    config = LoraConfig(r=2, **{"target_modules": ["q_proj"], **options})
    get_peft_model(tiny_llava()[0], config).save_pretrained(str(tmp_path / "a"))
    change(tmp_path / "a" / "adapter_config.json", base_model_name_or_path=str(parent))
    with pytest.raises(UserError, match=r"which is .* too in this base \(tie_word_embeddings\)"):
        load_model(find_base(str(tmp_path / "a")))


@pytest.mark.parametrize(
    "field",
    [
        {"r": 4},
        {"r": 0},
        {"r": "2"},
        {"r": 10**9},
        {"r": True},
        {"rank_pattern": {"q_proj": 3}},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": []},
        {"alpha_pattern": None, "lora_alpha": None},
        {"lora_alpha": float("nan")},
        {"modules_to_save": "x"},
        {"target_modules": {"a": 1}},
    ],
    ids=str,
)
def test_a_rank_or_setting_that_is_none_is_named(field: dict[str, Any], adapter: Path) -> None:
    change(adapter / "adapter_config.json", **field)
    with pytest.raises(UserError, match=r"has rank \d+ for|which is none that peft computes"):
        find_base(str(adapter))


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
