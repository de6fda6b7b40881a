"""Tiny checkpoints in the original LLaVA repository's format, and their base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from harness.synthetic.architecture import llava_config
from tests.models.test_chat_format import PUBLISHED
from tests.tiny_models import SIZES, picture, tiny_llava

ROWS = 72
"""Rows of the tiny base's vocabulary; the original has those before the image token, 66."""


def tiny(seed: int) -> tuple[Any, LlavaProcessor]:
    """A tiny LLaVA whose image token and padding come last in the vocabulary, as the hub's, and
    whose output matrix is its own."""
    _, processor = tiny_llava()
    tokenizer = processor.tokenizer
    tokenizer.add_tokens(["<picture>"], special_tokens=True)
    tokenizer.image_token, processor.image_token = "<picture>", "<picture>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids("<picture>")
    processor.chat_template = PUBLISHED.replace("<image>", "<picture>")
    config = llava_config(tokenizer, SIZES)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.text_config.vocab_size, config.image_token_id = ROWS, 66
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                torch.nn.init.normal_(parameter, std=1.2 * parameter.shape[-1] ** -0.5)
    return model, processor


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "vocab_size": 66,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "someone/clip-tiny-patch10-60",
        "torch_dtype": "float32",
        **changes,
    }


def original_tensors(model: Any, tower: bool) -> dict[str, Tensor]:
    """The model's weights under the original's names, written out independently."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.vision_tower."):
            if tower:
                inner = name.removeprefix("model.vision_tower.")
                found[f"model.vision_tower.vision_tower.vision_model.{inner}"] = tensor.clone()
        elif name.startswith("model.multi_modal_projector."):
            layer, kind = name.split(".")[-2:]
            found[f"model.mm_projector.{ {'linear_1': 0, 'linear_2': 2}[layer] }.{kind}"] = tensor
        elif "embed_tokens" in name or name == "lm_head.weight":
            found[name.replace("language_model.", "")] = tensor[:66].clone()
        else:
            found[name.replace("language_model.", "")] = tensor.clone()
    found["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    return found


def save_original(
    folder: Path, tensors: dict[str, Tensor], form: str = "bin", **changes: Any
) -> Path:
    """The checkpoint in two shards, as torch files or as safetensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings(**changes)))
    names, placed = sorted(tensors), {}
    single = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors"}[form]
    for number in (1, 2):
        part = {name: tensors[name].contiguous() for name in names[number - 1 :: 2]}
        file = f"{single.split('.')[0]}-0000{number}-of-00002.{form}"
        torch.save(part, folder / file) if form == "bin" else save_file(part, folder / file)
        placed |= dict.fromkeys(part, file)
    (folder / f"{single}.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def logits(model: Any, processor: Any) -> Tensor:
    pixels = processor.image_processor(images=[picture(1)], return_tensors="pt")["pixel_values"]
    ids = torch.tensor([[1, *[66] * SIZES.patches, 30, 31, 12, 40, 65]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits[..., :66]


LINEARS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def save_lora(folder: Path, stated: str, form: str = "bin") -> Any:
    """A LoRA in the original's files; the float32 model W + B A alpha / r computed by hand."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings()))
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": stated,
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": [name.split(".")[1] for name in LINEARS],
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    model, generator, low = tiny(0)[0], torch.Generator().manual_seed(3), {}
    for number, layer in enumerate(model.model.language_model.layers):
        for name in LINEARS:
            weight = layer.get_submodule(name).weight
            down = torch.randn(4, weight.shape[1], generator=generator) / 8
            up = torch.randn(weight.shape[0], 4, generator=generator) / 8
            weight.data += up @ down * (6 / 4)
            start = f"base_model.model.model.layers.{number}.{name}.lora_"
            low |= {f"{start}A.weight": down, f"{start}B.weight": up}
    projector = model.model.multi_modal_projector
    projector.linear_2.weight.data += 0.1
    others = {
        f"base_model.model.model.mm_projector.{place}.{kind}": getattr(layer, kind).detach()
        for place, layer in ((0, projector.linear_1), (2, projector.linear_2))
        for kind in ("weight", "bias")
    }
    torch.save(others, folder / "non_lora_trainables.bin")
    if form == "bin":
        torch.save(low, folder / "adapter_model.bin")
    else:
        save_file(low, folder / "adapter_model.safetensors")
    return model
