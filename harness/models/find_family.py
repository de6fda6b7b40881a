"""The families there are, found by the model type that a checkpoint's config.json names."""

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
    """A model type of transformers: the family's name on a base card, what binds it to a loaded
    model and its processor, and how the processor is loaded (source, options such as ``revision``).
    Its class in transformers is ``model_class``."""

    name: str
    model_class: str
    bind: Callable[[Any, Any], Family]
    processor: Callable[[str, Mapping[str, Any]], Any]


def load_llava_processor(source: str, options: Mapping[str, Any]) -> Any:
    # PIL, because another backend's pixels differ by up to 0.015.
    return AutoProcessor.from_pretrained(source, backend="pil", **options)


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
"""By the ``model_type`` of config.json."""


def family_of(model: Any, processor: Any = None) -> Family:
    """The family of a loaded model; without its processor it can project features and no more.

    Raises:
        UserError: its architecture is none of ours.
    """
    kind = str(model.config.model_type)
    if kind not in ARCHITECTURES:
        raise UserError(f"The model is a {kind!r}; supported are {supported()}.")
    return ARCHITECTURES[kind].bind(model, processor)


def supported() -> str:
    return " and ".join(f"{one.name} ({one.model_class})" for one in ARCHITECTURES.values())
