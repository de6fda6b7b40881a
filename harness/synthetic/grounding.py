"""Two losses that teach the synthetic base to look; both are dropped once it is trained.

:class:`Grounding` pulls a projected patch towards the words for what is in it. :class:`Looking`
asks, at every word of a *prompt* that names a category, whether that thing is in the image, in
which colour and where: yes and no, places, relations and judgements all rest on finding a named
thing, which forms very late from the answers alone. Where a judgement has read an account, it also
asks how many mistakes that had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from benchmarks.synthetic.scene import Scene
from benchmarks.synthetic.words import CATEGORIES, COLOURS, COLUMNS, ROWS
from harness.synthetic.train_clip import patch_labels

IGNORE = -100
MOST_MISTAKES = 4


class Grounding:
    """Patch-to-word alignment: a projected patch should point to the words for what is in its
    cell."""

    def __init__(self, processor: LlavaProcessor):
        words = processor.tokenizer.get_vocab()
        self._groups = [
            torch.tensor([words[word] for word in group])
            for group in (CATEGORIES, COLOURS, ROWS, COLUMNS)
        ]

    def loss(
        self, model: LlavaForConditionalGeneration, projected: torch.Tensor, scenes: list[Scene]
    ) -> torch.Tensor:
        """Mean cross entropy over category, colour, row and column of ``projected (B, P, D)``, at
        patches with a thing."""
        side = int(projected.shape[1] ** 0.5)
        category, colour = patch_labels(
            scenes, side
        )  # (B, P); the last class says that nothing is there
        at = torch.arange(side) * 3 // side
        row = at.repeat_interleave(side).expand_as(category)
        column = at.repeat(side).expand_as(category)
        there = category < len(CATEGORIES)
        losses = []
        for group, labels in zip(self._groups, (category, colour, row, column), strict=True):
            scores = projected[there].float() @ model.get_input_embeddings().weight[group].T
            losses.append(F.cross_entropy(scores, labels[there]))
        return torch.stack(losses).mean()


class Looking(torch.nn.Module):
    """Heads on a middle layer, at prompt words that name a category (is it there, its colour, row
    and column) or a place (what is there)."""

    def __init__(self, processor: LlavaProcessor, width: int):
        super().__init__()
        words = processor.tokenizer.get_vocab()
        self._category = _numbers(words, CATEGORIES)
        self._sizes = (2, len(COLOURS), len(ROWS), len(COLUMNS))
        self.heads = torch.nn.Linear(width, sum(self._sizes))
        self._row, self._column = (_numbers(words, names) for names in (ROWS, COLUMNS))
        self.cells = torch.nn.Linear(width, len(CATEGORIES) + 1)
        self.counts = torch.nn.Linear(width, MOST_MISTAKES + 1)

    def loss(
        self, middle: torch.Tensor, ids: torch.Tensor, asked: torch.Tensor, scenes: list[Scene]
    ) -> tuple[torch.Tensor, list[float]]:
        """Summed mean cross entropies from ``middle (B, T, D)`` at ``asked (B, T)`` places, and the
        share right of each head."""
        named = self._category[ids]  # (B, T)
        row, place = torch.nonzero(asked & (named >= 0), as_tuple=True)
        truth = torch.tensor(
            [[_truth(scene, name) for name in CATEGORIES] for scene in scenes]
        )  # (B, categories, 4)
        labels = truth[row, named[row, place]]  # (N, 4)
        guesses = self.heads(middle[row, place].float()).split(self._sizes, dim=-1)
        losses, right = [], []
        for number, guess in enumerate(guesses):
            losses.append(F.cross_entropy(guess, labels[:, number], ignore_index=IGNORE))
            known = labels[:, number] != IGNORE
            right.append(float((guess.argmax(-1) == labels[:, number])[known].float().mean()))
        return torch.stack(losses).sum(), right

    def cell_loss(
        self, middle: torch.Tensor, ids: torch.Tensor, asked: torch.Tensor, scenes: list[Scene]
    ) -> torch.Tensor:
        """Cross entropy of what is in the cell that a prompt names ("top left"), or nothing, from
        ``middle (B, T, D)``."""
        row = F.pad(self._row[ids][:, :-1], (1, 0), value=-1)  # the word before
        column = self._column[ids]
        number, place = torch.nonzero(asked & (row >= 0) & (column >= 0), as_tuple=True)
        if not len(number):
            return middle.new_zeros(())
        truth = torch.tensor(
            [[_in_cell(scene, cell) for cell in range(9)] for scene in scenes]
        )  # (B, 9)
        labels = truth[number, 3 * row[number, place] + column[number, place]]
        return F.cross_entropy(self.cells(middle[number, place].float()), labels)

    def count_loss(self, late: torch.Tensor, mistakes: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Cross entropy of the number of mistakes in an account just read, from ``late (B, T, D)``,
        and the share right."""
        read = mistakes != IGNORE
        if not read.any():
            return late.new_zeros(()), float("nan")
        guess = self.counts(late[read].float())
        return F.cross_entropy(guess, mistakes[read]), float(
            (guess.argmax(-1) == mistakes[read]).float().mean()
        )


def _numbers(words: Mapping[str, int], names: Sequence[str]) -> torch.Tensor:
    """The number of a word among ``names``, by its id; -1 for every other id."""
    numbers = torch.full((len(words),), -1)
    for number, name in enumerate(names):
        numbers[words[name]] = number
    return numbers


def _in_cell(scene: Scene, cell: int) -> int:
    thing = scene.at(cell // 3, cell % 3)
    return len(CATEGORIES) if thing is None else CATEGORIES.index(thing.category)


def _truth(scene: Scene, category: str) -> list[int]:
    thing = scene.find(category)
    return (
        [0, IGNORE, IGNORE, IGNORE]
        if thing is None
        else [1, COLOURS.index(thing.colour), thing.row, thing.column]
    )
