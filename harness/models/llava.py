"""LLaVA-1.5 (Liu et al., arXiv 2310.03744): square images, the patches of one CLIP layer, and a
projector of two layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from harness.models.family import Span


class Llava:
    """A loaded ``LlavaForConditionalGeneration`` and its processor.

    Without a processor (None) only ``project`` works.
    """

    tower = r"model\.vision_tower\."
    projector = r"model\.multi_modal_projector\."

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model: Any = model
        self.image_processor: Any = getattr(processor, "image_processor", None)
        self.tokens: int = getattr(model.config, "image_seq_length", None) or 576

    def span(self, image: Image) -> Span:  # noqa: ARG002  (every image is cut to one size)
        return Span(1, self.tokens)

    def pixels(self, images: Sequence[Image]) -> list[Tensor]:
        batch = self.image_processor(images=[rgb(image) for image in images], return_tensors="pt")
        return list(batch["pixel_values"])

    def encode(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        return list(tower_features(self.model, torch.stack(list(pixels))))

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        projector = self.model.model.multi_modal_projector
        weight = next(projector.parameters())
        return list(projector(torch.stack(list(features)).to(weight.device, weight.dtype)))


@torch.no_grad()
def tower_features(model: Any, pixels: Tensor) -> Tensor:
    """The projector's input (N, patches, width) for pixels (N, C, H, W).

    The configuration names the tower's layer, or layers to concatenate, and whether the class
    token is dropped.
    """
    config, tower = model.config, model.model.vision_tower
    states = tower(
        pixels.to(tower.device, tower.dtype), output_hidden_states=True, return_dict=True
    ).hidden_states
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    if config.vision_feature_select_strategy == "default":
        chosen = [state[:, 1:] for state in chosen]
    return torch.cat(chosen, dim=-1)


def rgb(image: Image) -> Image:
    return image if image.mode == "RGB" else image.convert("RGB")
