"""Two auxiliary losses for training the synthetic LLaVA on images. Their heads are not kept.

:class:`Grounding` aligns a projected patch with the words for its content. :class:`Looking`
predicts, at every prompt word that names a category, whether that thing is in the image, its colour
and its place. Yes/no answers, places, relations and judgements depend on finding a named thing, and
the answers alone teach this very late. After each account in a judgement it also predicts the
account's number of mistakes."""

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
    """Aligns projected patches with the word embeddings of category, colour, row and column."""

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
        the patches that show a thing."""
        side = int(projected.shape[1] ** 0.5)
        category, colour = patch_labels(scenes, side)  # (B, P); the last class: no thing
        at = torch.arange(side) * 3 // side
        row = at.repeat_interleave(side).expand_as(category)
        column = at.repeat(side).expand_as(category)
        occupied = category < len(CATEGORIES)
        losses = []
        for group, labels in zip(self._groups, (category, colour, row, column), strict=True):
            scores = projected[occupied].float() @ model.get_input_embeddings().weight[group].T
            losses.append(F.cross_entropy(scores, labels[occupied]))
        return torch.stack(losses).mean()


class Looking(torch.nn.Module):
    """Linear heads on hidden states, at prompt words that name a category (is it present; its
    colour, row and column) or a place (its content)."""

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
        """The sum of the heads' mean cross entropies on ``middle (B, T, D)`` at the places
        ``asked (B, T)``, and each head's accuracy."""
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
        """Cross entropy of the content of the cell that a prompt names ("top left"), on
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

    def total(
        self,
        middle: torch.Tensor,
        late: torch.Tensor,
        ids: torch.Tensor,
        asked: torch.Tensor,
        mistakes: torch.Tensor,
        scenes: list[Scene],
    ) -> tuple[torch.Tensor, list[float]]:
        """The sum of all losses, and the accuracies."""
        look, right = self.loss(middle, ids, asked, scenes)
        count, counted = self.count_loss(late, mistakes)
        return look + self.cell_loss(middle, ids, asked, scenes) + count, [*right, counted]

    def count_loss(self, late: torch.Tensor, mistakes: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Cross entropy of the number of mistakes in the account before a place, on
        ``late (B, T, D)``, and the accuracy."""
        read = mistakes != IGNORE
        if not read.any():
            return late.new_zeros(()), float("nan")
        guess = self.counts(late[read].float())
        right = (guess.argmax(-1) == mistakes[read]).float().mean()
        return F.cross_entropy(guess, mistakes[read]), float(right)


def _numbers(words: Mapping[str, int], names: Sequence[str]) -> torch.Tensor:
    """Token id -> the word's place in ``names``; -1 for other words."""
    numbers = torch.full((len(words),), -1)
    for number, name in enumerate(names):
        numbers[words[name]] = number
    return numbers


def _in_cell(scene: Scene, cell: int) -> int:
    thing = scene.at(cell)
    return len(CATEGORIES) if thing is None else CATEGORIES.index(thing.category)


def _truth(scene: Scene, category: str) -> list[int]:
    """Labels of presence, colour, row and column."""
    thing = scene.find(category)
    if thing is None:
        return [0, IGNORE, IGNORE, IGNORE]
    return [1, COLOURS.index(thing.colour), thing.row, thing.column]
