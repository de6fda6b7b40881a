"""Does the whole road work here: images, pairs, training, answers, grades, table?

    python -m harness run smoke                   under a minute on two cores with the synthetic
    base

The comparison on very few images. Its numbers mean nothing; that there are numbers does.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.study import compare
from harness.study.study import Study

PICTURES = 24


def study(
    *,
    base: str = "synthetic",
    pool: str = "synthetic",
    images: int = PICTURES,
    only: Sequence[str] = (),
    seeds: int = 1,
    rounds: int = 1,
    limit: int = PICTURES,
    benchmarks: Sequence[str] = (),
    local_data: Sequence[str] = (),
) -> Study:
    """``compare`` on the development split with 24 images a step."""
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
        name=compare.folder_name("smoke", base, None if limit == PICTURES else limit),
        split="dev",
    )
