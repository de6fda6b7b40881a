"""Qwen2.5-VL (Bai et al., arXiv 2502.13923): images keep their aspect ratio and take a number of
tokens that depends on their size.

Features are the tower's last states, in groups of ``merge * merge`` neighbouring patches. The
merger (a norm and two layers) turns each group into one token. transformers' tower works in the
order of its attention windows; here the groups return to the image's own order before the merger.
The merger treats each group alone, so it can be trained on stored features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils import cached_file
from transformers.vision_utils import get_vision_window_index

from harness.errors import UserError
from harness.models.family import Span
from harness.models.llava import rgb

MAX_ASPECT_RATIO = 200
"""The largest ratio of an image's sides that the family's processor takes."""


class Qwen:
    """A loaded ``Qwen2_5_VLForConditionalGeneration`` and its processor.

    Without a processor (None) only ``project`` works. ``patch`` is a patch's side in pixels,
    ``merge`` the side of a group in patches, ``times`` the number of frames in a patch.
    """

    tower = r"model\.visual\.(?!merger\.)"
    projector = r"model\.visual\.merger\."

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model: Any = model
        self.image_processor: Any = getattr(processor, "image_processor", None)
        config = model.config.vision_config
        self.patch: int = config.patch_size
        self.merge: int = config.spatial_merge_size
        self.times: int = config.temporal_patch_size
        if self.image_processor is not None:
            processor_sizes = _patch_sizes(self.image_processor)
            model_sizes = (self.patch, self.merge, self.times)
            if processor_sizes != model_sizes:
                raise UserError(
                    "Image tokens: the processor cuts images into patches of (size, merged, times)"
                    f" {processor_sizes}, the model reads {model_sizes}; give the processor that"
                    " was saved with this model."
                )

    def span(self, image: Image) -> Span:
        check_shape(image)
        side, size = self.patch * self.merge, self.image_processor.size
        height, width = smart_resize(
            image.height, image.width, side, size["shortest_edge"], size["longest_edge"]
        )
        return Span(int(height) // side, int(width) // side, 3)

    def pixels(self, images: Sequence[Image]) -> list[Tensor]:
        pixels = []
        for image in images:
            check_shape(image)
            inputs = self.image_processor(images=[rgb(image)], return_tensors="pt")
            _, rows, columns = inputs["image_grid_thw"][0].tolist()
            pixels.append(unpatch(inputs["pixel_values"], rows, columns, self.image_processor))
        return pixels

    def forward_inputs(self, ids: Tensor, pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.cat([self.patches(image) for image in pixels]),
            "image_grid_thw": torch.tensor(self._grids(pixels)),
            "mm_token_type_ids": (ids == self.model.config.image_token_id).int(),
        }

    def _grids(self, pixels: Sequence[Tensor]) -> list[list[int]]:
        """(times, rows, columns) of each image's patches."""
        size = self.patch
        return [[1, image.shape[1] // size, image.shape[2] // size] for image in pixels]

    @torch.no_grad()
    def encode(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        tower, grids = self.model.model.visual, self._grids(pixels)
        grid = torch.tensor(grids, device=tower.device)
        rows = torch.cat([self.patches(image.to(tower.device, tower.dtype)) for image in pixels])
        states = tower(rows, grid_thw=grid, return_dict=True).last_hidden_state
        order, _ = get_vision_window_index(
            grid,
            spatial_merge_size=self.merge,
            window_size=tower.window_size,
            patch_size=self.patch,
        )
        groups = states.reshape(len(states) // self.merge**2, -1)
        groups = groups[torch.argsort(order.to(states.device))]
        sizes = [height * width // self.merge**2 for _, height, width in grids]
        return list(torch.split(groups, sizes))

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        merger = self.model.model.visual.merger
        weight = next(merger.parameters())
        groups = torch.cat(list(features)).to(weight.device, weight.dtype)
        merged: Tensor = merger(groups.view(len(groups) * self.merge**2, -1))
        return list(torch.split(merged, [len(feature) for feature in features]))

    def patches(self, image: Tensor) -> Tensor:
        """An image (C, H, W) as the tower's rows (patches, C * times * patch * patch).

        Patches of one group are neighbours; all ``times`` frames of a still image are equal.
        """
        channels, height, width = image.shape
        size, merge = self.patch, self.merge
        x = image.view(
            channels, height // size // merge, merge, size, width // size // merge, merge, size
        )
        x = x.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        x = x.expand(-1, -1, -1, -1, -1, self.times, -1, -1)
        return x.reshape(height // size * (width // size), -1)


def _patch_sizes(images: Any) -> tuple[int, int, int]:
    return images.patch_size, images.merge_size, images.temporal_patch_size


def unpatch(rows: Tensor, grid_height: int, grid_width: int, image_processor: Any) -> Tensor:
    """The image (C, H, W) of ``grid_height * grid_width`` patches, given as the processor's rows;
    the inverse of :meth:`Qwen.patches`."""
    size, merge, times = _patch_sizes(image_processor)
    x = rows.view(grid_height // merge, grid_width // merge, merge, merge, -1, times, size, size)
    x = x[:, :, :, :, :, 0]
    return x.permute(4, 0, 2, 5, 1, 3, 6).reshape(-1, grid_height * size, grid_width * size)


def check_shape(image: Image) -> None:
    """Raise UserError for an image too narrow for the family."""
    short, long = sorted(image.size)
    if long > MAX_ASPECT_RATIO * short:
        raise UserError(
            f"An image of {image.width} x {image.height} pixels is too narrow for Qwen2.5-VL, which"
            f" takes sides up to {MAX_ASPECT_RATIO} to 1; take it out of the pool or the benchmark."
        )


class QwenProcessor:
    """Tokenizer, image processor and chat template, as in ``Qwen2_5_VLProcessor``, without its
    video part, which needs torchvision.

    ``save_pretrained`` writes the published layout: transformers' own processor reads it where
    torchvision is installed.
    """

    image_token = "<|image_pad|>"

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.chat_template = tokenizer.chat_template = chat_template
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(self.image_token)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return text

    def save_pretrained(self, folder: Path) -> None:
        # AutoProcessor finds the class by this name in the image processor's file.
        self.image_processor.processor_class = "Qwen2_5_VLProcessor"
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_qwen_processor(source: str) -> QwenProcessor:
    """The processor of a folder or a hub id.

    The chat template comes from chat_template.json where it exists (the published checkpoints),
    else from the tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    images = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    file = cached_file(source, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    template = tokenizer.chat_template
    if file:
        template = json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"]
    return QwenProcessor(images, tokenizer, template)
