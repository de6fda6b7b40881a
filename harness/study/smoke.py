"""Does everything work here: images, pairs, training, answers, grades, table?

    python -m harness run smoke     under a minute on two cores with the synthetic base

This is the comparison on very few images. Its numbers mean nothing; it shows that there are
numbers."""

from __future__ import annotations

from collections.abc import Sequence

from harness.study import compare
from harness.study.study import Study

IMAGES = 24


def study(
    *,
    base: str = "synthetic",
    pool: str = "synthetic",
    images: int = IMAGES,
    only: Sequence[str] = (),
    seeds: int = 1,
    rounds: int = 1,
    limit: int = IMAGES,
    benchmarks: Sequence[str] = (),
    local_data: Sequence[str] = (),
) -> Study:
    """``compare`` on the development split, with 24 images in each stage."""
    return compare.study(
        base=base,
        pool=pool,
        images=images,
        only=only,
        seeds=seeds,
        rounds=rounds,
        limit=limit,
        benchmarks=benchmarks,
        local_data=local_data,
        name=compare.folder_name("smoke", base, None if limit == IMAGES else limit, pool),
        split="dev",
    )
