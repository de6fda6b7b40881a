"""Several pools in fixed proportions: ``mix:<pool>=<weight>,<pool>=<weight>``.

Used for SENA's 6,000 images a round, 1,200 each of five data sets (arXiv 2412.15650, section 4.1):
five pools of weight 1. Each pool is in the seed's order. The next image comes from the pool that
is furthest behind its share, so every round has the proportions and no image is used twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.data.pool import Pool, ordered
from harness.errors import UserError
from methods.interface import Item


def mixture_pool(spec: str, open_part: Callable[[str], Pool]) -> Pool:
    """The mixture; an item's id is its part's name and its id in that pool.

    Args:
        open_part: opens the pool of a part by its spec.

    Raises:
        UserError: a part has another form, is the synthetic pool, or cannot be opened.
    """
    parts: dict[str, Pool] = {}
    weights: dict[str, int] = {}
    for text in spec.removeprefix("mix:").split(","):
        inner, equals, weight = text.strip().rpartition("=")
        if not equals or not weight.isdigit() or int(weight) < 1:
            raise UserError(
                f"The part {text.strip()!r} of the pool {spec} must be <pool>=<weight>, such as"
                " mix:coco.jsonl=1,gqa.jsonl=2."
            )
        pool = open_part(inner)
        if pool.judge is not None:
            raise UserError(
                f"The pool {spec} mixes the synthetic pool with others; its questions and truth fit"
                " its own images only: use it alone."
            )
        name = Path(inner.split(":")[1] if ":" in inner else inner).stem
        name = name if name not in parts else f"{name}-{len(parts)}"
        parts[name], weights[name] = pool, int(weight)

    def read(id: str) -> Item:
        name, _, inner_id = id.partition("/")
        item = parts[name].read(inner_id)
        return Item(id=id, image=item.image, question=item.question, reference=item.reference)

    def order(seed: int) -> tuple[str, ...]:
        return interleave({name: ordered(pool.ids, seed) for name, pool in parts.items()}, weights)

    return Pool(
        spec=spec,
        ids=tuple(f"{name}/{id}" for name, pool in parts.items() for id in pool.ids),
        fields=frozenset.intersection(*(pool.fields for pool in parts.values())),
        read=read,
        order=order,
    )


def interleave(
    queues: Mapping[str, tuple[str, ...]], weights: Mapping[str, int]
) -> tuple[str, ...]:
    """Ids of all queues in proportion to the weights; ends when the next queue in turn is empty."""
    taken, common = dict.fromkeys(queues, 0), math.prod(weights.values())
    ids: list[str] = []
    while True:
        # The queue with the least taken for its weight; of equals the first. Integers avoid
        # decisions by rounding.
        turn = min(queues, key=lambda name: (taken[name] + 1) * (common // weights[name]))
        if taken[turn] == len(queues[turn]):
            return tuple(ids)
        ids.append(f"{turn}/{queues[turn][taken[turn]]}")
        taken[turn] += 1
