"""The models that the GPU bench runs: ``tiny`` is the synthetic base, ``7b`` LLaVA-1.5-7B's shape
with random weights, ``slim`` that shape but for its width and depth (336-pixel images, 576 image
tokens, 32,064 tokens of vocabulary), and their CLIPs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from harness.engine.clip_scorer import ClipScorer, find_scorer, load_scorer
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from harness.synthetic.architecture import SPECIALS, Sizes, build_processor
from tests.benches import recorded

Shape = Literal["7b", "slim", "tiny"]
VOCABULARY = 32064
"""LLaVA-1.5's."""
LEARNT = 850
"""Of these, tokens learnt from the recorded texts: so few that a word takes about 1.3, as with
LLaMA's tokenizer."""

VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
CLIP_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
SLIM = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PIXELS = {"image_size": 336, "patch_size": 14, "projection_dim": 768}


def build(shape: Shape, device: str, layers: int | None = None) -> tuple[Any, Any]:
    """The model, in evaluation mode, and its processor; ``7b`` in bfloat16, the others in float32.

    ``layers``: of the language model, where a card does not hold all of them (not of ``tiny``).
    """
    if shape == "tiny":
        return load_model(BASES["synthetic"], device)
    torch.manual_seed(0)
    tokenizer, large = build_tokenizer(), shape == "7b"
    specials = {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    sizes = (TEXT if large else SLIM) | ({} if layers is None else {"num_hidden_layers": layers})
    text = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=4096, rms_norm_eps=1e-5, **sizes, **specials
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**(VISION if large else SLIM), **PIXELS),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=576,
        pad_token_id=tokenizer.pad_token_id,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if large else torch.float32)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    if shape == "slim":
        spread(model)
    return model, build_processor(tokenizer, Sizes(image=336, patch=14, positions=4096))


def spread(model: torch.nn.Module) -> None:
    """Weights so wide that greedy answers differ between images and prompts, and no two next
    tokens are nearly as likely."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=2.0 * parameter.shape[-1] ** -0.5)


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding in LLaMA's manner (the space before a word is the word's), learnt from the
    recorded texts and filled up to the model's vocabulary with tokens that no text has, so that
    every token of a random model is a text of its own."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = apart()
    learner.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(vocab_size=LEARNT, special_tokens=list(SPECIALS), show_progress=False),
    )
    told = json.loads(learner.to_str())["model"]
    vocabulary = dict(told["vocab"])
    vocabulary |= {f"▁unsaid{number}": number for number in range(len(vocabulary), VOCABULARY)}
    bpe = models.BPE(
        vocab=vocabulary, merges=[tuple(pair) for pair in told["merges"]], unk_token="<unk>"
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer, tokenizer.decoder = apart(), decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def apart() -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation()]
    )


def corpus() -> list[str]:
    """Every recorded prompt once, some with answers in them, and the words of the format."""
    found = {"USER: \n ASSISTANT: [[1]] [[2]]": None}
    for work in recorded.WORK:
        for head, prompts in recorded.read("real", work):
            if (
                head["kind"] != "relevance"
            ):  # CSR's sentences are so many that the tokens would be theirs
                found |= dict.fromkeys(line["text"] for line in prompts)
    return list(found)


def build_clip(shape: Shape, device: str) -> ClipScorer:
    """The world's own CLIP; or clip-vit-large-patch14-336's shape (``slim``: but for its width),
    float32, random weights."""
    if shape == "tiny":
        return load_scorer(find_scorer(None, BASES["synthetic"]), device)
    torch.manual_seed(1)
    tokenizer, large = build_tokenizer(), shape == "7b"
    specials = {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    text = CLIPTextConfig(
        vocab_size=49408,
        max_position_embeddings=77,
        projection_dim=768,
        **(CLIP_TEXT if large else SLIM),
        **specials,
    )
    vision = CLIPVisionConfig(**(VISION if large else SLIM), **PIXELS)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=768
    )
    with torch.device(device):
        model = CLIPModel(config).eval()
    pictures = build_processor(tokenizer, Sizes(image=336, patch=14)).image_processor
    return ClipScorer(model, CLIPProcessor(pictures, tokenizer))
