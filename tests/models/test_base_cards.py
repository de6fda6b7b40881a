"""Base cards: LoRA stays in the language model, loading is exact, and bad input gets a sentence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPImageProcessorPil, LlavaConfig, Qwen2_5_VLConfig

from harness.cli.doctor_prompt import input_check
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models import load_base
from harness.models.base_cards import BASES, LLAMA_LINEARS, SYNTHETIC_WEIGHTS, BaseCard, find_base
from harness.models.checkpoints import count_parameters, parameter_shapes, weights_fingerprint
from harness.study import cost_model
from tests.tiny_models import tiny_llava


def saved(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> BaseCard:
    model, processor = tiny_llava(seed)
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return replace(BASES["synthetic"], source=folder)


def test_lora_targets_are_the_language_models_linears() -> None:
    model, _ = tiny_llava()
    linears = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    chosen = {name for name in linears if re.fullmatch(LLAMA_LINEARS, name)}
    assert chosen == {name for name in linears if name.startswith("model.language_model.")}
    assert len(chosen) == 7 * model.config.text_config.num_hidden_layers


@pytest.mark.equality
def test_load_is_exact_pinned_to_pil_and_float32_on_the_cpu(tmp_path: Path) -> None:
    card = saved(tmp_path, dtype=torch.bfloat16)
    model, processor = load_model(card)
    assert isinstance(processor.image_processor, CLIPImageProcessorPil)
    assert not model.training
    for name, parameter in tiny_llava()[0].named_parameters():
        loaded = model.get_parameter(name)
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, parameter.bfloat16().float())


@pytest.mark.equality
def test_a_checkpoint_keeps_its_stored_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stored in ("float32", "bfloat16", "float16"):
        saved(tmp_path / stored, dtype=getattr(torch, stored))
        card = find_base(str(tmp_path / stored))
        assert card.dtype == card.settings["dtype"] == stored
        assert load_base.loaded_dtype(card, "cuda") == getattr(torch, stored)
    assert "float16 on a GPU" in input_check(card, Path(card.source)).says
    monkeypatch.setattr(load_base, "loaded_dtype", lambda *_: torch.float16)  # as on a GPU
    model, _ = load_model(card)  # checked against transformers in float16
    for name, parameter in tiny_llava()[0].named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.half())
    table = model.lm_head.weight  # in bfloat16 most of a float16 update is lost
    updated = table + table.abs() * 2**-10
    assert float((updated != table).half().mean()) > 0.9
    assert float((updated.bfloat16() != table.bfloat16()).half().mean()) < 0.3


@pytest.mark.equality
def test_weights_of_a_round_replace_the_cards(tmp_path: Path) -> None:
    card = saved(tmp_path / "base")
    trained, _ = tiny_llava(seed=1)
    trained.save_pretrained(tmp_path / "round")
    model, _ = load_model(card, weights=tmp_path / "round")
    assert torch.equal(model.lm_head.weight, trained.lm_head.weight)
    assert weights_fingerprint(tmp_path / "base") != weights_fingerprint(tmp_path / "round")
    trained.save_pretrained(tmp_path / "again")
    assert weights_fingerprint(tmp_path / "again") == weights_fingerprint(tmp_path / "round")


def test_problems_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no base 'llava-1\.5-7'.*'llava-1\.5-7b'"):
        find_base("llava-1.5-7")
    missing = replace(BASES["synthetic"], source=tmp_path / "nowhere")
    with pytest.raises(UserError, match="python -m nox -s synthetic"):
        load_model(missing)
    card = saved(tmp_path / "base")
    with pytest.raises(UserError, match=r"no \*.safetensors weights"):
        load_model(card, weights=tmp_path)
    with pytest.raises(UserError, match=r"no \*.safetensors files"):
        weights_fingerprint(tmp_path)


def test_weights_that_do_not_fit_are_not_replaced_by_random_ones(tmp_path: Path) -> None:
    card = saved(tmp_path / "base")
    other, _ = tiny_llava(seed=1)
    state = {name: value for name, value in other.state_dict().items() if "mlp.up_proj" not in name}
    other.save_pretrained(tmp_path / "round", state_dict=state)
    with pytest.raises(UserError, match="do not fit base"):
        load_model(card, weights=tmp_path / "round")


def test_every_card_of_a_hub_model_pins_a_commit_and_says_size_and_licence() -> None:
    for name, card in BASES.items():
        assert card.name == name
        assert card.parameters
        assert card.licence
        if not isinstance(card.source, Path):
            assert re.fullmatch(r"[0-9a-f]{40}", str(card.revision))


def test_parameters_are_counted_from_the_configuration(tmp_path: Path) -> None:
    card = saved(tmp_path / "base")
    model, _ = tiny_llava()
    found = find_base(str(tmp_path / "base"))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert parameter_shapes(tmp_path / "base")["lm_head.weight"] == tuple(
        model.lm_head.weight.shape
    )
    assert isinstance(card.source, Path)
    assert count_parameters(SYNTHETIC_WEIGHTS) == pytest.approx(
        BASES["synthetic"].parameters, rel=0.01
    )
    # So what a model needs is known before it is there: the estimates are no longer those of a 7B
    # model.
    assert cost_model.weights_gib(found) == count_parameters(tmp_path / "base") * 4 / 2**30


def test_the_cards_sizes_are_those_of_the_published_shapes(tmp_path: Path) -> None:
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
    }
    tower |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    for name, (hidden, ffn, layers, heads) in {
        "llava-1.5-7b": (4096, 11008, 32, 32),
        "llava-1.5-13b": (5120, 13824, 40, 40),
    }.items():
        text = {
            "model_type": "llama",
            "vocab_size": 32064,
            "hidden_size": hidden,
            "intermediate_size": ffn,
        }
        text |= {"num_hidden_layers": layers, "num_attention_heads": heads}
        LlavaConfig(vision_config=tower, text_config=text).save_pretrained(tmp_path / name)
        assert count_parameters(tmp_path / name) == pytest.approx(BASES[name].parameters, rel=2e-3)
    for name, (hidden, ffn, layers, heads, groups, tied, words) in {
        "qwen2.5-vl-7b": (3584, 18944, 28, 28, 4, False, 152064),
        "qwen2.5-vl-3b": (2048, 11008, 36, 16, 2, True, 151936),
    }.items():
        text = {
            "vocab_size": words,
            "hidden_size": hidden,
            "intermediate_size": ffn,
            "num_hidden_layers": layers,
        }
        text |= {
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "tie_word_embeddings": tied,
        }
        tower = {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": hidden,
        }
        config = Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=tied)
        config.save_pretrained(tmp_path / name)
        assert count_parameters(tmp_path / name) == pytest.approx(BASES[name].parameters, rel=2e-3)
