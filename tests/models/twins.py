"""Tiny random twins of the real families: transformers' own classes and processors, a few thousand
parameters, a fixed seed."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from harness.models.qwen import QwenProcessor
from methods.csr.method import Csr
from tests.tiny_models import WORDS, tiny_llava

CSR = Csr(
    candidates=2,
    groups=2,
    penalty=2.0,
    sentence_tokens=4,
    max_chars=30,
    sentence_ends=(".", "is", "a", "e"),
)
"""Settings whose texts the twins finish."""

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system'"
    " %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{"
    " message['role'] }}\n{% if message['content'] is string %}{{ message['content']"
    " }}<|im_end|>\n{% else %}{% for part in message['content'] %}{% if part['type'] == 'image'"
    " %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{%"
    " endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt"
    " %}<|im_start|>assistant\n{% endif %}"
)
"""What the published template renders for our messages."""


def tiny_qwen(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, QwenProcessor]:
    """A fresh model and its processor; pictures of 16 to 1,024 pixels a side keep their shape,
    patches of 4, merged by 2."""
    tokenizer = qwen_tokenizer()
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                torch.nn.init.normal_(parameter, std=1.2 * parameter[0].numel() ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    images = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    return model, QwenProcessor(images, tokenizer, QWEN_TEMPLATE)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """The family's own byte-level tokenizer, whose merges make the tests' words whole."""
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in sorted([*WORDS, *(f"\u0120{word}" for word in WORDS)]):
        parts = list(word)
        while len(parts) > 1:
            pair, parts = (parts[0], parts[1]), [parts[0] + parts[1], *parts[2:]]
            if parts[0] not in vocabulary:
                vocabulary[parts[0]] = len(vocabulary)
                merges.append(pair)
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIALS),
        padding_side="left",
    )


TWINS = {"llava-1.5": tiny_llava, "qwen2.5-vl": tiny_qwen}
