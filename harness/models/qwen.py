"""Qwen2.5-VL (Bai et al., arXiv 2502.13923): images keep their shape, so each takes its own
number of tokens.

The tower's last states are kept in groups of ``merge * merge`` neighbours; the merger (norm and two
layers) makes one token of a group. transformers' tower works in the order of its attention windows;
here groups are brought into the image's own order before the merger, which treats each group
alone, so that the merger can be trained on stored features."""

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

LONGEST = 200
"""The largest ratio of an image's sides that the family's processor takes."""


class Qwen:
    """A loaded ``Qwen2_5_VLForConditionalGeneration`` and its processor (not needed to project)."""

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
            made = self.image_processor
            theirs, mine = (
                (made.patch_size, made.merge_size, made.temporal_patch_size),
                (
                    self.patch,
                    self.merge,
                    self.times,
                ),
            )
            if theirs != mine:
                raise UserError(
                    "Image tokens: the processor cuts images into patches of (size, merged,"
                    f" times) {theirs}, the model reads {mine}; give the processor that was saved"
                    " with this model."
                )

    def span(self, image: Image) -> Span:
        check_shape(image)
        side, size = self.patch * self.merge, self.image_processor.size
        height, width = smart_resize(
            image.height, image.width, side, size["shortest_edge"], size["longest_edge"]
        )
        return Span(int(height) // side, int(width) // side, 3)

    def pixels(self, images: Sequence[Image]) -> list[Tensor]:
        found = []
        for image in images:
            check_shape(image)
            made = self.image_processor(images=[rgb(image)], return_tensors="pt")
            _, rows, columns = made["image_grid_thw"][0].tolist()
            found.append(unpatch(made["pixel_values"], rows, columns, self.image_processor))
        return found

    @torch.no_grad()
    def look(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        tower = self.model.model.visual
        grids = [
            [1, picture.shape[1] // self.patch, picture.shape[2] // self.patch]
            for picture in pixels
        ]
        grid = torch.tensor(grids, device=tower.device)
        flat = torch.cat(
            [self.patches(picture.to(tower.device, tower.dtype)) for picture in pixels]
        )
        states = tower(flat, grid_thw=grid, return_dict=True).last_hidden_state
        order, _ = get_vision_window_index(
            grid,
            spatial_merge_size=self.merge,
            window_size=tower.window_size,
            patch_size=self.patch,
        )
        groups = states.reshape(len(states) // self.merge**2, -1)[
            torch.argsort(order.to(states.device))
        ]
        return list(
            torch.split(groups, [rows * columns // self.merge**2 for _, rows, columns in grids])
        )

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        merger = self.model.model.visual.merger
        weight = next(merger.parameters())
        groups = torch.cat(list(features)).to(weight.device, weight.dtype)
        merged: Tensor = merger(groups.view(len(groups) * self.merge**2, -1))
        return list(torch.split(merged, [len(one) for one in features]))

    def patches(self, picture: Tensor) -> Tensor:
        """An image (C, H, W) as the tower's rows (patches, C * times * patch * patch), group by
        group; a still image is the same at all ``times``."""
        channels, height, width = picture.shape
        size, merge = self.patch, self.merge
        x = picture.view(
            channels, height // size // merge, merge, size, width // size // merge, merge, size
        )
        x = x.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        x = x.expand(-1, -1, -1, -1, -1, self.times, -1, -1)
        return x.reshape(height // size * (width // size), -1)


def unpatch(rows: Tensor, high: int, wide: int, image_processor: Any) -> Tensor:
    """The image (C, H, W) of a grid of ``high * wide`` patches (rows as the processor makes
    them): the inverse of
    :meth:`Qwen.patches`."""
    size, merge, times = (
        image_processor.patch_size,
        image_processor.merge_size,
        image_processor.temporal_patch_size,
    )
    x = rows.view(high // merge, wide // merge, merge, merge, -1, times, size, size)[
        :, :, :, :, :, 0
    ]
    return x.permute(4, 0, 2, 5, 1, 3, 6).reshape(-1, high * size, wide * size)


def check_shape(image: Image) -> None:
    """Raise UserError for an image so narrow that the family cannot read it."""
    sides = sorted(image.size)
    if sides[1] > LONGEST * sides[0]:
        raise UserError(
            f"An image of {image.width} x {image.height} pixels is too narrow for Qwen2.5-VL,"
            f" which takes sides up to {LONGEST} to 1; take it out of the pool or the benchmark."
        )


class QwenProcessor:
    """Tokenizer, image processor and chat template: what ``Qwen2_5_VLProcessor`` holds, less its
    video part, which needs torchvision. Saved in the published layout, so that transformers' own
    processor reads it where torchvision is."""

    image_token = "<|image_pad|>"

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.chat_template = tokenizer.chat_template = chat_template
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(self.image_token)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )

    def save_pretrained(self, folder: Path) -> None:
        self.image_processor.processor_class = (  # written into its file, where AutoProcessor looks
            "Qwen2_5_VLProcessor"
        )
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_qwen_processor(source: str, options: Mapping[str, Any]) -> QwenProcessor:
    """The processor of a folder or a hub id; ``options`` may pin a revision. The chat template is
    chat_template.json's where there is one (the published checkpoints), else the tokenizer's."""
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    images = AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    file = cached_file(
        source, "chat_template.json", _raise_exceptions_for_missing_entries=False, **options
    )
    template = (
        json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"]
        if file
        else tokenizer.chat_template
    )
    return QwenProcessor(images, tokenizer, template)
