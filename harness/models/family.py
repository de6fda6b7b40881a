"""The protocol of a model family, and where an image's tokens stand.

A family knows how an image becomes features of the language model and nothing else differs: one
engine and one trainer serve all. Text positions count one by one. An image's tokens either count
on (one axis) or stand on a grid of rows and columns of one moment (three axes: M-RoPE; Wang et al.,
arXiv 2409.12191, section 2.1), behind which text goes on at the largest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL.Image import Image
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """An image's ``rows * columns`` tokens in the language model, and how many axes their
    positions have."""

    rows: int
    columns: int
    axes: Literal[1, 3] = 1

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def steps(self) -> int:
        """By how much positions go on behind the image."""
        return self.tokens if self.axes == 1 else max(self.rows, self.columns)

    def positions(self, before: int) -> Tensor:
        """Positions (axes, before + tokens) of ``before`` text tokens and the image behind
        them."""
        if self.axes == 1:
            return torch.arange(before + self.tokens)[None]
        text = torch.arange(before).expand(3, -1)
        row, column = torch.meshgrid(
            torch.arange(self.rows), torch.arange(self.columns), indexing="ij"
        )
        return torch.cat(
            [text, before + torch.stack([torch.zeros_like(row), row, column]).flatten(1)], 1
        )


class Family(Protocol):
    """A loaded model's way with images.

    ``tower`` and ``projector`` are regular expressions that a parameter's full name begins with:
    what never trains, and what brings the tower's features into the language model."""

    tower: str
    projector: str

    def span(self, image: Image) -> Span:
        """The tokens that an image takes, from its size alone."""
        ...

    def pixels(self, images: Sequence[Image]) -> list[Tensor]:
        """Normalised images (C, H, W): what a corruption is given."""
        ...

    def look(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """The tower's features (tokens, width) of each image, as the projector wants them; no
        gradients."""
        ...

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features brought into the language model's space, (tokens, its width) each."""
        ...
