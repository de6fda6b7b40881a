"""Several pools drawn from in fixed proportions: ``mix:<pool>=<weight>,<pool>=<weight>``.

SENA's 6,000 images a round are 1,200 each of five data sets (arXiv 2412.15650, section 4.1): five
pools of weight 1. Each pool is in the seed's order; the next image is always one of the pool that
is furthest behind its share, so that every round has the proportions, and no image is seen twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from harness.data.pool import Pool, ordered
from harness.errors import UserError
from methods.interface import Item


def mix_pool(spec: str) -> Pool:
    """The mixture; an item's id is its pool's name and its own id there.

    Raises:
        UserError: a part has another form, or its pool cannot be opened.
    """
    from harness.data.pool import open_pool

    parts: dict[str, tuple[Pool, int]] = {}
    for text in spec.removeprefix("mix:").split(","):
        inner, equals, weight = text.strip().rpartition("=")
        if not equals or not weight.isdigit() or int(weight) < 1:
            raise UserError(
                f"The part {text.strip()!r} of the pool {spec} must be <pool>=<weight>, such as"
                " mix:coco.jsonl=1,gqa.jsonl=2."
            )
        pool = open_pool(inner)
        if pool.judge is not None:
            raise UserError(
                f"The pool {spec} mixes the synthetic world with others; its questions and truth"
                " are its own: use it alone."
            )
        name = Path(inner.split(":")[1] if ":" in inner else inner).stem
        name = name if name not in parts else f"{name}-{len(parts)}"
        parts[name] = (pool, int(weight))

    def read(id: str) -> Item:
        name, _, own = id.partition("/")
        item = parts[name][0].read(own)
        return Item(id=id, image=item.image, question=item.question, reference=item.reference)

    def order(seed: int) -> tuple[str, ...]:
        return shares({name: ordered(pool.ids, seed) for name, (pool, _) in parts.items()}, weights)

    weights = {name: weight for name, (_, weight) in parts.items()}
    fields = frozenset.intersection(*(pool.fields for pool, _ in parts.values()))
    ids = tuple(f"{name}/{id}" for name, (pool, _) in parts.items() for id in pool.ids)
    return Pool(spec=spec, ids=ids, fields=fields, read=read, order=order)


def shares(queues: Mapping[str, tuple[str, ...]], weights: Mapping[str, int]) -> tuple[str, ...]:
    """Ids of all queues in turn, each as often as its weight; ends where the queue whose turn it is
    has run out."""
    taken, common = dict.fromkeys(queues, 0), math.prod(weights.values())
    found: list[str] = []
    while True:
        # The least taken for its weight; among equals the first. Integers, so that no rounding
        # decides.
        turn = min(queues, key=lambda name: (taken[name] + 1) * (common // weights[name]))
        if taken[turn] == len(queues[turn]):
            return tuple(found)
        found.append(f"{turn}/{queues[turn][taken[turn]]}")
        taken[turn] += 1
