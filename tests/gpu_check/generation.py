"""Part b: the methods' and benchmarks' own calls on 7B's shape, against one prompt at a time.

Each workload runs on as many images as its share of the time allows: first with answers of a few
tokens, which chooses kernels and takes memory; then with whole ones of some images; then of more,
if there is time. Decoding steps take nearly as long for 2 images as for 32. When all are done, each
runs one prompt at a time on as many of these images as there is time for. Both sides write the
recorded number of tokens.
A floor is what this card's measured rates allow at 7B's shape (tests/benches/gpu_work.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from harness.engine.step_graph import StepGraphs
from harness.models.device_memory import free_memory
from harness.training.memory import GIB
from tests.benches import gpu_replay, recorded
from tests.benches.gpu_models import build, build_clip
from tests.benches.gpu_replay import Answer, Forced
from tests.benches.gpu_work import Call, Rates, clock, floor_seconds, pictures
from tests.gpu_check.card import free_bytes, layers_to_answer, measure, peak_gib
from tests.gpu_check.part import Asked, child

SPEED, COSTS = "Speed", "Right, and in memory"
SHARES = {"sena": 24, "sima": 18, "csr": 26, "clip": 8, "pope": 10, "mme": 5, "chair": 9}
"""Of this part's time, in the order of the workloads' worth."""
FIRST = {"7b": 16, "slim": 8, "tiny": 8}
"""Images of a first run, which says how many more the time allows."""
SHORT = 14
"""Tokens an answer to warm up with: enough that a batch's steps become a graph."""
OURS = 0.6
"""Of the time: our side. The loops of one prompt at a time take the rest."""
FIXED = 0.4
"""Of a first run on a GPU: time that does not grow with the images (weights read in each step)."""
MOST = {"7b": 96, "slim": 16, "tiny": 24}
NAMES = {"clip": "CSR's CLIP", "chair": "CHAIR", "pope": "POPE", "mme": "MME"}
PAIRS = ("sena", "sima", "csr")


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The two ways to do a workload's calls, and the size of its images."""

    ours: Callable[[Sequence[Call]], list[Answer]]
    theirs: Callable[[Sequence[Call]], list[Answer]]
    side: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What our side of a workload answered, and its seconds an image."""

    work: str
    sides: Sides
    calls: list[Call]
    images: Sequence[Image]
    answers: list[Answer]
    each: float


def run(asked: Asked) -> None:
    large = asked.device == "cuda" and asked.shape == "7b"
    layers = layers_to_answer(free_bytes()) if large else None
    if layers is not None:
        asked.note(f"{layers} of 32 layers fit this card: no floor, and no figure of 7B's.")
    rates = measure(asked.device) if large else None
    model, processor = build(asked.shape, asked.device, layers)
    held = peak_gib(asked.device)
    engine = Forced(model, processor)
    alone = Forced(model, processor, batch_size=64, shared_bytes=0)
    if asked.device == "cuda":
        budget = free_memory(engine.device) or 0
        asked.note(
            f"Weights take {held:.1f} GiB; the engine plans with {budget / GIB:.1f} GiB beside, "
            f"{3 * budget / 10 / GIB:.1f} of them for a batch. Peaks below include the weights."
        )
    side = processor.image_processor.crop_size["height"]

    def ours(calls: Sequence[Call]) -> list[Answer]:
        engine.prefix_cache.clear()
        return gpu_replay.run(engine, calls)

    sides = Sides(
        ours=ours,
        theirs=lambda calls: gpu_replay.one_by_one(alone, processor, calls),
        side=side,
    )
    tokens = (model, processor, engine)
    ended: list[Ended] = []
    for place, (work, share) in enumerate(SHARES.items()):
        # Our side of every workload first: the loops take what is left.
        time_here = OURS * asked.left * share / sum(list(SHARES.values())[place:])
        if time_here < 0.5:
            asked.note(f"Left out: {', '.join(map(name, list(SHARES)[place:]))}; no time was left.")
            break
        if work == recorded.CLIP:
            clips = clip_sides(asked)
            ended.append(workload(asked, work, clips, time_here, rates, layers, None))
            pairs_a_second(asked, "csr", sum(one.each for one in ended[-2:]))
            continue
        ended.append(workload(asked, work, sides, time_here, rates, layers, tokens))
        if work in PAIRS and work != "csr":
            pairs_a_second(asked, work, ended[-1].each)
    graphs = engine.step_graphs
    failed = f" A capture failed: {StepGraphs.failure}" if StepGraphs.failure else ""
    asked.note(f"{graphs.captured} graphs were captured and {graphs.steps} steps taken so.{failed}")
    for place, one in enumerate(ended):
        left = asked.left / (len(ended) - place)
        if left > 0.5:
            loop(asked, one, time.monotonic() + left)


def clip_sides(asked: Asked) -> Sides:
    """CSR's CLIP, together and one text at a time."""
    scorer = build_clip(asked.shape, asked.device)

    def scored(calls: Sequence[Call]) -> list[Answer]:
        scorer.embeddings.clear()
        return gpu_replay.relevance(scorer, calls)

    return Sides(
        ours=scored,
        theirs=lambda calls: gpu_replay.relevance_alone(scorer, calls),
        side=scorer.image_processor.crop_size["height"],
    )


def pairs_a_second(asked: Asked, work: str, seconds: float) -> None:
    """Of a method: images a second times the pairs that its recording makes an image."""
    made = recorded.pairs_an_image(work, asked.shape)
    asked.row(SPEED, name(work), {"pairs a second": made / seconds})


def workload(
    asked: Asked,
    work: str,
    sides: Sides,
    seconds: float,
    rates: Rates | None,
    layers: int | None,
    tokens: tuple[Any, Any, Forced] | None,
) -> Ended:
    """Our side of a workload, each figure recorded at once."""
    began, device = time.monotonic(), asked.device

    def calls_of(images: Sequence[Image]) -> list[Call]:
        return recorded.calls(work, images, asked.shape)

    most = pictures(MOST[asked.shape], sides.side)
    count = min(FIRST[asked.shape], len(most))
    if device == "cuda":
        sides.ours(shortened(calls_of(most[:count])))  # kernels are chosen, memory is taken
    else:
        sides.ours(calls_of(most[:2]))
        count = count if time.monotonic() - began < seconds / 2 else 2
    peak_gib(device)

    def told(calls: Sequence[Call], count: int, took: float) -> None:
        cells: dict[str, Any] = {"images": count, "ours, s an image": took / count}
        if work not in (*PAIRS, recorded.CLIP):
            cells["answers a second"] = sum(len(call.prompts) for call in calls) / took
        if tokens is not None:
            model, processor, _ = tokens
            read, new = gpu_replay.tokens(processor, calls, model.config.image_seq_length)
            cells |= {"prompt tokens an image": read / count, "new tokens an image": new / count}
            cells["new tokens a second"] = new / took
        if rates is not None and layers is None:
            cells["of the floor"] = floor_seconds(calls, count, rates) * count / took
        asked.row(SPEED, name(work), cells)

    fixed = FIXED if device == "cuda" and tokens is not None else 0.0
    start = clock(device)
    answers = sides.ours(calls_of(most[:count]))
    took = clock(device) - start
    told(calls_of(most[:count]), count, took)
    more = affordable(count, took, seconds - (time.monotonic() - began), fixed)
    if more >= 1.5 * count and len(most) > count:
        count, start = min(more, len(most)), clock(device)
        answers = sides.ours(calls_of(most[:count]))
        took = clock(device) - start
        told(calls_of(most[:count]), count, took)
    peak = peak_gib(device)
    images = most[:count]
    calls, each = calls_of(images), took / count
    if peak is not None:
        asked.row(COSTS, name(work), {"peak, GiB": peak})
    if tokens is not None:
        one = only(calls, images[0])
        differs = gpu_replay.logit_difference(tokens[1], tokens[2], one)
        asked.row(COSTS, name(work), {"largest logit difference": differs})
        rows = tokens[2].batches.size
        asked.row(COSTS, name(work), {"rows a batch (halved where memory ran out)": rows})
    return Ended(work=work, sides=sides, calls=calls, images=images, answers=answers, each=each)


def affordable(count: int, took: float, room: float, fixed: float) -> int:
    """How many images four fifths of ``room`` seconds allow, if ``count`` of them took ``took``, of
    which a share ``fixed`` does not grow with the images."""
    growing = max(took * (1 - fixed) / count, 1e-6)
    return int((0.8 * room - fixed * took) / growing)


def loop(asked: Asked, ended: Ended, until: float) -> None:
    """One prompt at a time, image by image until the time is over; recorded after each image."""
    work, sides, calls = ended.work, ended.sides, ended.calls
    images, answers, each = ended.images, ended.answers, ended.each
    prompts = [prompt for call in calls for prompt in call.prompts]
    spent = equal = done = 0.0
    for number, image in enumerate(images, 1):
        few = only(calls, image)
        start = clock(asked.device)
        theirs = sides.theirs(few)
        spent += clock(asked.device) - start
        pairs = zip(prompts, answers, strict=True)
        mine = [answer for prompt, answer in pairs if prompt.image is image]
        equal += sum(gpu_replay.same(a, b) for a, b in zip(mine, theirs, strict=True))
        done += len(theirs)
        loop_each = spent / number
        cells = {
            "one by one, s an image": loop_each,
            "images so": number,
            "ratio": loop_each / each,
        }
        asked.row(SPEED, name(work), cells)
        asked.row(COSTS, name(work), {"equal texts or scores": equal / done})
        if time.monotonic() + spent / number > until:
            return


def shortened(calls: Sequence[Call]) -> list[Call]:
    """The calls with answers of at most :data:`SHORT` tokens."""
    return [
        replace(call, lengths=[[min(length, SHORT) for length in each] for each in call.lengths])
        for call in calls
    ]


def only(calls: Sequence[Call], image: Image) -> list[Call]:
    """The calls' prompts about one image."""
    found = []
    for call in calls:
        kept = [place for place, prompt in enumerate(call.prompts) if prompt.image is image]
        if kept:
            found.append(
                replace(
                    call,
                    prompts=[call.prompts[place] for place in kept],
                    lengths=[call.lengths[place] for place in kept],
                    completions=[call.completions[place] for place in kept],
                )
            )
    return found


def name(work: str) -> str:
    return NAMES.get(work, work.upper())


if __name__ == "__main__":
    child("generation", run)
