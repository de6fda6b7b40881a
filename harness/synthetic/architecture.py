"""Builds the synthetic tokenizer, processor, CLIP and LLaVA from sizes: tiny models of
transformers' own classes. Nothing is loaded.

The chat format is LLaVA-1.5's: ``<s>USER: <image>\\n{text} ASSISTANT: {answer}</s>``, one token a
word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<s>USER: {% else %} ASSISTANT:"
    " {% endif %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{%"
    " endif %}{% endfor %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{"
    " part['text'] }}{% endif %}{% endfor %}{% if message['role'] == 'assistant' %}</s>{% endif"
    " %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The shapes of both models."""

    image: int = 60
    """Side of an image in pixels, a multiple of ``patch``."""
    patch: int = 10
    """Side of a patch in pixels."""
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 96
    """Width of the CLIP's text half."""
    text_layers: int = 2
    width: int = 160
    """Width of the language model."""
    layers: int = 5
    ffn: int = 448
    positions: int = 512
    """Longest sequence in tokens."""

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower case, one token a word, punctuation separate, verdicts such as
    ``[[1]]`` one token."""
    vocabulary = {word: index for index, word in enumerate((*SPECIALS, *words))}
    if len(vocabulary) != len(SPECIALS) + len(words):
        raise ValueError("The word list holds a word twice; list each word once.")
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"\[\[\d\]\]|[^\w\s]"), behavior="isolated"),
        ]
    )
    # Tokens are joined by spaces, and . , ? follow the word before them: normal text, which
    # tokenises back.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
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


def build_processor(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlavaProcessor:
    """LLaVA's processor on the PIL backend: pixels do not depend on installed packages."""
    side = {"height": sizes.image, "width": sizes.image}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": sizes.image}, crop_size=side, do_center_crop=True, do_resize=True
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def vision_config(sizes: Sizes) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=max(1, sizes.vision_width // 32),
        image_size=sizes.image,
        patch_size=sizes.patch,
        projection_dim=64,
        hidden_act="gelu",  # one fused operation; CLIP's own quick_gelu is three, and slow on a CPU
    )


def clip_config(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> CLIPConfig:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=max(1, sizes.text_width // 32),
        max_position_embeddings=96,
        projection_dim=64,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPConfig(
        text_config=text.to_dict(), vision_config=vision_config(sizes).to_dict(), projection_dim=64
    )


def llava_config(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlavaConfig:
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers,
        num_attention_heads=max(1, sizes.width // 32),
        num_key_value_heads=max(1, sizes.width // 32),
        max_position_embeddings=sizes.positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision_config(sizes),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=sizes.patches,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_llava(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights (seed torch before the call)."""
    return LlavaForConditionalGeneration(llava_config(tokenizer, sizes)).eval()
