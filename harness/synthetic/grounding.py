"""Two auxiliary losses for training the synthetic LLaVA on images. Their heads are not kept.

:class:`Grounding` aligns a projected patch with the words for its content. :class:`ContentHeads`
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
        grid_index = torch.arange(side) * 3 // side
        row = grid_index.repeat_interleave(side).expand_as(category)
        column = grid_index.repeat(side).expand_as(category)
        occupied = category < len(CATEGORIES)
        losses = []
        for group, labels in zip(self._groups, (category, colour, row, column), strict=True):
            scores = projected[occupied].float() @ model.get_input_embeddings().weight[group].T
            losses.append(F.cross_entropy(scores, labels[occupied]))
        return torch.stack(losses).mean()


class ContentHeads(torch.nn.Module):
    """Linear heads on hidden states, at prompt words that name a category (is it present; its
    colour, row and column) or a place (its content)."""

    def __init__(self, processor: LlavaProcessor, width: int):
        super().__init__()
        words = processor.tokenizer.get_vocab()
        self._category = _index_by_token(words, CATEGORIES)
        self._sizes = (2, len(COLOURS), len(ROWS), len(COLUMNS))
        self.heads = torch.nn.Linear(width, sum(self._sizes))
        self._row, self._column = (_index_by_token(words, names) for names in (ROWS, COLUMNS))
        self.cells = torch.nn.Linear(width, len(CATEGORIES) + 1)
        self.counts = torch.nn.Linear(width, MOST_MISTAKES + 1)

    def loss(
        self,
        middle: torch.Tensor,
        ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        scenes: list[Scene],
    ) -> tuple[torch.Tensor, list[float]]:
        """The sum of the heads' mean cross entropies on ``middle (B, T, D)`` where
        ``prompt_mask (B, T)`` is True, and each head's accuracy."""
        category_index = self._category[ids]  # (B, T)
        scene_index, position = torch.nonzero(prompt_mask & (category_index >= 0), as_tuple=True)
        truth = torch.tensor(
            [[_thing_labels(scene, name) for name in CATEGORIES] for scene in scenes]
        )  # (B, categories, 4)
        labels = truth[scene_index, category_index[scene_index, position]]  # (N, 4)
        head_logits = self.heads(middle[scene_index, position].float()).split(self._sizes, dim=-1)
        losses, accuracies = [], []
        for head, logits in enumerate(head_logits):
            losses.append(F.cross_entropy(logits, labels[:, head], ignore_index=IGNORE))
            labelled = labels[:, head] != IGNORE
            accuracies.append(
                float((logits.argmax(-1) == labels[:, head])[labelled].float().mean())
            )
        return torch.stack(losses).sum(), accuracies

    def cell_loss(
        self,
        middle: torch.Tensor,
        ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        scenes: list[Scene],
    ) -> torch.Tensor:
        """Cross entropy of the content of the cell that a prompt names ("top left"), on
        ``middle (B, T, D)``."""
        row = F.pad(self._row[ids][:, :-1], (1, 0), value=-1)  # the word before
        column = self._column[ids]
        scene_index, position = torch.nonzero(
            prompt_mask & (row >= 0) & (column >= 0), as_tuple=True
        )
        if not len(scene_index):
            return middle.new_zeros(())
        truth = torch.tensor(
            [[_cell_label(scene, cell) for cell in range(9)] for scene in scenes]
        )  # (B, 9)
        labels = truth[scene_index, 3 * row[scene_index, position] + column[scene_index, position]]
        return F.cross_entropy(self.cells(middle[scene_index, position].float()), labels)

    def total(
        self,
        middle: torch.Tensor,
        late: torch.Tensor,
        ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        mistakes: torch.Tensor,
        scenes: list[Scene],
    ) -> tuple[torch.Tensor, list[float]]:
        """The sum of all losses, and the accuracies."""
        content_loss, accuracies = self.loss(middle, ids, prompt_mask, scenes)
        count_loss, count_accuracy = self.count_loss(late, mistakes)
        return content_loss + self.cell_loss(middle, ids, prompt_mask, scenes) + count_loss, [
            *accuracies,
            count_accuracy,
        ]

    def count_loss(self, late: torch.Tensor, mistakes: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Cross entropy of the number of mistakes in the account before a place, on
        ``late (B, T, D)``, and the accuracy."""
        labelled = mistakes != IGNORE
        if not labelled.any():
            return late.new_zeros(()), float("nan")
        logits = self.counts(late[labelled].float())
        accuracy = (logits.argmax(-1) == mistakes[labelled]).float().mean()
        return F.cross_entropy(logits, mistakes[labelled]), float(accuracy)


def _index_by_token(words: Mapping[str, int], names: Sequence[str]) -> torch.Tensor:
    """Token id -> the word's place in ``names``; -1 for other words."""
    indices = torch.full((len(words),), -1)
    for index, name in enumerate(names):
        indices[words[name]] = index
    return indices


def _cell_label(scene: Scene, cell: int) -> int:
    thing = scene.at(cell)
    return len(CATEGORIES) if thing is None else CATEGORIES.index(thing.category)


def _thing_labels(scene: Scene, category: str) -> list[int]:
    """Labels of presence, colour, row and column."""
    thing = scene.find(category)
    if thing is None:
        return [0, IGNORE, IGNORE, IGNORE]
    return [1, COLOURS.index(thing.colour), thing.row, thing.column]
