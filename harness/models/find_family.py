"""The supported families, by the model type in a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoProcessor

from harness.errors import UserError
from harness.models.family import Family
from harness.models.llava import Llava
from harness.models.qwen import Qwen, load_qwen_processor


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model type of transformers."""

    name: str
    """The family's name on a base card."""
    model_class: str
    """The model's class in transformers."""
    bind: Callable[[Any, Any], Family]
    """Makes the family of a loaded model and its processor."""
    processor: Callable[[str], Any]
    """Loads the processor from a folder or hub id."""


def load_llava_processor(source: str) -> Any:
    # The PIL backend, because another backend's pixels differ by up to 0.015.
    processor = AutoProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    if not getattr(processor, "chat_template", None):  # it may lie in tokenizer_config.json alone
        processor.chat_template = getattr(processor.tokenizer, "chat_template", None)
    return processor


ARCHITECTURES: Mapping[str, Architecture] = {
    "llava": Architecture(
        name="llava-1.5",
        model_class="LlavaForConditionalGeneration",
        bind=Llava,
        processor=load_llava_processor,
    ),
    "qwen2_5_vl": Architecture(
        name="qwen2.5-vl",
        model_class="Qwen2_5_VLForConditionalGeneration",
        bind=Qwen,
        processor=load_qwen_processor,
    ),
}
"""By ``model_type`` of config.json."""


def family_of(model: Any, processor: Any = None) -> Family:
    """The family of a loaded model; without a processor it can only project features.

    Raises:
        UserError: its architecture is not supported.
    """
    model_type = str(model.config.model_type)
    if model_type not in ARCHITECTURES:
        raise UserError(f"The model is a {model_type!r}; supported are {supported()}.")
    return ARCHITECTURES[model_type].bind(model, processor)


def supported() -> str:
    return " and ".join(f"{item.name} ({item.model_class})" for item in ARCHITECTURES.values())
