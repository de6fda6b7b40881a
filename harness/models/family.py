"""The protocol of a model family: how an image becomes tokens of the language model.

Families differ in nothing else, so one engine and one trainer serve all of them. Text positions
count up by one. An image's tokens either continue this count (one axis), or lie on a grid of rows
and columns at one moment (three axes: M-RoPE; Wang et al., arXiv 2409.12191, section 2.1); the
text after the image then continues from the largest position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL.Image import Image
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """An image's ``rows * columns`` tokens in the language model; ``axes`` of their positions."""

    rows: int
    columns: int
    axes: Literal[1, 3] = 1

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def steps(self) -> int:
        """How far the image advances the position of the text after it."""
        return self.tokens if self.axes == 1 else max(self.rows, self.columns)

    def positions(self, before: int) -> Tensor:
        """Positions (axes, before + tokens) of ``before`` text tokens and the image after them."""
        if self.axes == 1:
            return torch.arange(before + self.tokens)[None]
        text = torch.arange(before).expand(3, -1)
        row, column = torch.meshgrid(
            torch.arange(self.rows), torch.arange(self.columns), indexing="ij"
        )
        image = torch.stack([torch.zeros_like(row), row, column]).flatten(1)
        return torch.cat([text, before + image], 1)


class Family(Protocol):
    """The image side of a loaded model."""

    tower: str
    """Regular expression for the beginning of a vision tower parameter's name; never trained."""
    projector: str
    """The same for the projector, which maps tower features to the language model's width."""

    def span(self, image: Image) -> Span:
        """The tokens that an image takes; depends on its size alone."""
        ...

    def pixels(self, images: Sequence[Image]) -> list[Tensor]:
        """Normalised images (C, H, W); image corruptions act on these."""
        ...

    def forward_inputs(self, ids: Tensor, pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """What transformers' own forward pass takes beside token ids and attention mask. ``ids``:
        (rows, length); ``pixels``: the image of each row."""
        ...

    def encode(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """The tower's features (tokens, width) of each image, without gradients."""
        ...

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The projector's output (tokens, language model's width) for each image's features."""
        ...
