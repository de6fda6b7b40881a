"""Base cards: LoRA stays in the language model, loading is exact, and bad input gets a sentence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPImageProcessorPil

from harness.bases import BASES, LLAMA_LINEARS, BaseCard, find_base, load_base, weights_fingerprint
from harness.errors import Problem
from tests.tiny import tiny_llava


def saved(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> BaseCard:
    model, processor = tiny_llava(seed)
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return replace(BASES["embedded"], source=folder)


def test_lora_targets_are_the_language_models_linears() -> None:
    model, _ = tiny_llava()
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = {name for name in linears if re.fullmatch(LLAMA_LINEARS, name)}
    assert chosen == {name for name in linears if name.startswith("model.language_model.")}
    assert len(chosen) == 7 * model.config.text_config.num_hidden_layers


def test_load_is_exact_pinned_to_pil_and_float32_on_the_cpu(tmp_path: Path) -> None:
    card = saved(tmp_path, dtype=torch.bfloat16)
    model, processor = load_base(card)
    assert isinstance(processor.image_processor, CLIPImageProcessorPil)
    assert not model.training
    for name, parameter in tiny_llava()[0].named_parameters():
        loaded = model.get_parameter(name)
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, parameter.bfloat16().float())


def test_weights_of_a_round_replace_the_cards(tmp_path: Path) -> None:
    card = saved(tmp_path / "base")
    trained, _ = tiny_llava(seed=1)
    trained.save_pretrained(tmp_path / "round")
    model, _ = load_base(card, weights=tmp_path / "round")
    assert torch.equal(model.lm_head.weight, trained.lm_head.weight)
    assert weights_fingerprint(tmp_path / "base") != weights_fingerprint(tmp_path / "round")
    trained.save_pretrained(tmp_path / "again")
    assert weights_fingerprint(tmp_path / "again") == weights_fingerprint(tmp_path / "round")


def test_problems_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"no base 'llava-1\.5-7'.*'llava-1\.5-7b'"):
        find_base("llava-1.5-7")
    missing = replace(BASES["embedded"], source=tmp_path / "nowhere")
    with pytest.raises(Problem, match="python -m nox -s world"):
        load_base(missing)
    card = saved(tmp_path / "base")
    with pytest.raises(Problem, match=r"no \*.safetensors weights"):
        load_base(card, weights=tmp_path)
    with pytest.raises(Problem, match=r"no \*.safetensors files"):
        weights_fingerprint(tmp_path)


def test_weights_that_do_not_fit_are_not_replaced_by_random_ones(tmp_path: Path) -> None:
    card = saved(tmp_path / "base")
    other, _ = tiny_llava(seed=1)
    state = {name: value for name, value in other.state_dict().items() if "mlp.up_proj" not in name}
    other.save_pretrained(tmp_path / "round", state_dict=state)
    with pytest.raises(Problem, match="do not fit base"):
        load_base(card, weights=tmp_path / "round")
