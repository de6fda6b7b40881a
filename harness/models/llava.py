"""LLaVA-1.5 (Liu et al., arXiv 2310.03744): square images, the patches of one CLIP layer, and a
projector of two layers.

The authors pad an image to a square. The hub's image processor cuts out its centre. An image
processor's ``image_aspect_ratio`` ("pad", or absent) says which; it is saved with the processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from harness.errors import UserError
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

    def span(self, image: Image) -> Span:  # noqa: ARG002  (every image gets one size)
        return Span(1, self.tokens)

    def pixels(self, images: Sequence[Image]) -> list[Tensor]:
        shaped = [shape_image(image, self.image_processor) for image in images]
        batch = self.image_processor(images=shaped, return_tensors="pt")
        return list(batch["pixel_values"])

    def forward_inputs(self, ids: Tensor, pixels: Sequence[Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        return {"pixel_values": torch.stack(list(pixels))}

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


def shape_image(image: Image, image_processor: Any) -> Image:
    """The image as RGB. With ``image_aspect_ratio`` "pad" it is centred on a square of the
    processor's mean colour, with the odd pixel right or below; then nothing of it is cut off."""
    image = rgb(image)
    side = max(image.size)
    if shape_of(image_processor) == "crop" or min(image.size) == side:
        return image
    mean = tuple(int(share * 255) for share in image_processor.image_mean)
    square = new_image("RGB", (side, side), mean)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def shape_of(image_processor: Any) -> Literal["pad", "crop"]:
    """How a processor's images become squares.

    Raises:
        UserError: it asks for another shape, such as LLaVA-1.6's.
    """
    shape = getattr(image_processor, "image_aspect_ratio", None)
    if shape not in ("pad", "crop", None):
        raise UserError(
            f"The image processor's image_aspect_ratio is {shape!r}; LLaVA-1.5's are pad and crop."
        )
    return "pad" if shape == "pad" else "crop"


def rgb(image: Image) -> Image:
    return image if image.mode == "RGB" else image.convert("RGB")
