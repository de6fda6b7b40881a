"""Opens a pool by its spec: a kind before a colon, a folder, or a manifest.

A mixture holds several pools in fixed proportions: ``mix:<pool>=<weight>,<pool>=<weight>``. Used
for SENA's 6,000 images a round, 1,200 each of five data sets (arXiv 2412.15650, section 4.1): five
pools of weight 1. Each pool is in the seed's order. The next image comes from the pool that is
furthest behind its share, so every round has the proportions and no image is used twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from harness.artifacts.fingerprint import storable
from harness.data.annotated_pools import coco_pool, llava_pool
from harness.data.folder_pool import folder_pool
from harness.data.manifest_pool import manifest_pool
from harness.data.pool import Pool, seed_order
from harness.errors import UserError
from methods.interface import Item


def open_pool(spec: str) -> Pool:
    """The pool of a spec: ``synthetic[:<split>]``, a folder of images, a ``.jsonl`` manifest,
    ``llava:...``, ``coco:...``, ``hub:...`` or ``mix:...`` (see the files of the layouts).

    Raises:
        UserError: there is no such pool, or its files are wrong (file and line are named).
    """
    if not spec.strip():
        raise UserError("The pool's name is empty; give synthetic, or `.` for the current folder.")
    if not storable(spec):
        raise UserError(f"UTF-8 cannot hold the pool's path {spec!a}; rename that file or folder.")
    kind = spec.partition(":")[0]
    if kind == "synthetic":
        # Imported here: it needs the synthetic benchmarks. Answering exported questions needs none.
        from harness.data.synthetic_pool import synthetic_pool

        return synthetic_pool(spec)
    if kind in (layouts := {"llava": llava_pool, "coco": coco_pool, "mix": mixture_pool}):
        return layouts[kind](spec)
    if kind == "hub":
        # Imported here: it needs the datasets library and torch, which other pools do not.
        from harness.data.hub_pool import hub_pool

        return hub_pool(spec)
    path = Path(spec)
    if path.is_dir():
        return folder_pool(path)
    if path.suffix == ".jsonl" and path.is_file():
        return manifest_pool(path)
    raise UserError(
        f"There is no pool {spec!r}; give synthetic, an existing folder of images, an existing"
        " .jsonl manifest, llava:<json>:<folder>, coco:<json>:<folder>, hub:<name>, or"
        " mix:<pool>=<weight>,... of them."
    )


def mixture_pool(spec: str) -> Pool:
    """The mixture; an item's id is its part's name and its id in that pool.

    Raises:
        UserError: a part has another form, is the synthetic pool, or cannot be opened.
    """
    pools: dict[str, Pool] = {}
    weights: dict[str, int] = {}
    for text in spec.removeprefix("mix:").split(","):
        inner_spec, equals, weight = text.strip().rpartition("=")
        if not equals or not weight.isdigit() or int(weight) < 1:
            raise UserError(
                f"The part {text.strip()!r} of the pool {spec} must be <pool>=<weight>, such as"
                " mix:coco.jsonl=1,gqa.jsonl=2."
            )
        pool = open_pool(inner_spec)
        if pool.ground_truth is not None:
            raise UserError(
                f"The pool {spec} mixes the synthetic pool with others; its questions and truth fit"
                " its own images only: use it alone."
            )
        name = Path(inner_spec.split(":")[1] if ":" in inner_spec else inner_spec).stem
        name = name if name not in pools else f"{name}-{len(pools)}"
        pools[name], weights[name] = pool, int(weight)

    def read(id: str) -> Item:
        name, _, inner_id = id.partition("/")
        item = pools[name].read(inner_id)
        return Item(id=id, image=item.image, question=item.question, reference=item.reference)

    def order(seed: int) -> tuple[str, ...]:
        return interleave(
            {name: seed_order(pool.ids, seed) for name, pool in pools.items()}, weights
        )

    return Pool(
        spec=spec,
        ids=tuple(f"{name}/{id}" for name, pool in pools.items() for id in pool.ids),
        fields=frozenset.intersection(*(pool.fields for pool in pools.values())),
        read=read,
        order=order,
    )


def interleave(
    queues: Mapping[str, tuple[str, ...]], weights: Mapping[str, int]
) -> tuple[str, ...]:
    """Ids of all queues in proportion to the weights; ends when the next queue in turn is empty."""
    counts, product = dict.fromkeys(queues, 0), math.prod(weights.values())
    ids: list[str] = []
    while True:
        # The queue with the least taken for its weight; of equals the first. Integers avoid
        # decisions by rounding.
        next_name = min(queues, key=lambda name: (counts[name] + 1) * (product // weights[name]))
        if counts[next_name] == len(queues[next_name]):
            return tuple(ids)
        ids.append(f"{next_name}/{queues[next_name][counts[next_name]]}")
        counts[next_name] += 1
