"""The synthetic pool: images that benchmarks/synthetic draws, with exact truth about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.synthetic.scene import scene
from benchmarks.synthetic.suite import synthetic_item
from benchmarks.synthetic.truth import account_errors
from harness.data.pool import Pool
from harness.errors import UserError
from methods.interface import Item

SIZE = 100_000
"""Ids that the pool offers. Images are drawn on demand, so this bounds the sampling alone."""


def synthetic_pool(spec: str) -> Pool:
    """The pool ``synthetic`` or ``synthetic:<split>``.

    Raises:
        UserError: there is no such split.
    """
    split = spec.partition(":")[2] or "pool"
    if split not in ("train", "pool", "dev"):
        raise UserError(
            f"There is no synthetic pool {spec!r}; known: synthetic (its pool split),"
            " synthetic:dev, synthetic:train."
        )

    def read(id: str) -> Item:
        _, image, question, reference = synthetic_item(split, _index(id))
        return Item(id=id, image=image, question=question, reference=reference)

    return Pool(
        spec=spec,
        ids=tuple(f"{split}-{index:05d}" for index in range(SIZE)),
        fields=frozenset({"image", "question", "reference", "ground_truth"}),
        read=read,
        ground_truth=SyntheticTruth(split),
    )


@dataclass(frozen=True)
class SyntheticTruth:
    """Counts a caption's errors against the scene that the image shows."""

    split: str

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:
        """The number of wrong statements in each answer about the image with id ``item``."""
        truth = scene(self.split, _index(item))
        return [float(account_errors(answer, truth)) for answer in answers]


def _index(id: str) -> int:
    return int(id.rpartition("-")[2])
