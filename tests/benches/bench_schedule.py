"""The least seconds that the engine's schedule can take at LLaVA-1.5-7B's shape on one H200:
counted, not timed, on any machine.

    python -m nox -s bench_schedule                    prints a table; ``-- --out results/benches``
    writes it there

Each workload runs through the real engine, which decides as it would beside 7B on a card of
``--gib`` GiB; what it asks of the device is recorded, replayed without memory and priced kernel by
kernel (:mod:`tests.benches.schedule`). Beside it stand a floor (each image and prompt token
computed once at full rate, each new token's keys and values read once, weights for nothing) and the
loop of one prompt at a time, priced like the engine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from harness.engine.decode_state import DecodeRow
from harness.engine.engine import Engine
from harness.pipeline import tasks
from harness.synthetic.architecture import Sizes, build_llava, build_processor
from methods.interface import BeamSearch
from tests.benches import recorded
from tests.benches.gpu_models import build, build_tokenizer
from tests.benches.gpu_work import Call, pictures
from tests.benches.recording import METHODS
from tests.benches.schedule import (
    BYTES,
    FLOPS,
    LAUNCH,
    POSITION,
    RECORDED_POSITION,
    WEIGHTS,
    Log,
    Pass,
    Replay,
    priced,
    recording,
)

GIB = 2**30
CONTEXT = 1.0
"""GiB that the driver and libraries take: an assumption."""
TOKEN_FLOPS = 13.2e9
"""Of one token through the language model, its attention left out."""


SHARDS = {
    **dict.fromkeys(METHODS, tasks.ITEMS_A_SHARD),
    "pope": tasks.QUESTIONS_A_SHARD // 18,
    "mme": tasks.QUESTIONS_A_SHARD // 2,
    "chair": tasks.QUESTIONS_A_SHARD,
}
"""How many images of a workload a stage hands over at once."""


class Forced(Engine):
    """An engine whose answers have the lengths that were recorded."""

    lengths: Mapping[str, int] = {}

    def windows(self, *given: Any) -> Iterator[tuple[list[int], list[DecodeRow]]]:
        for places, rows in super().windows(*given):
            yield places, [replace(row, max_new_tokens=self.lengths.get(row.key)) for row in rows]


def recorder() -> tuple[Any, Any]:
    """A LLaVA with the real number of patches and next to no width; its language model is never
    run."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sizes = Sizes(
        image=336,
        patch=14,
        vision_width=32,
        vision_layers=1,
        width=32,
        layers=1,
        ffn=32,
        positions=4096,
    )
    return build_llava(tokenizer, sizes), build_processor(tokenizer, sizes)


def engine_on(model: Any, processor: Any, gib: float) -> Forced:
    """The engine as it would be beside the weights of 7B on a card of that memory; bounds are
    scaled to what it really holds."""
    spare = int((gib - CONTEXT) * GIB) - WEIGHTS
    engine = Forced(model, processor, batch_size=256, memory=spare * RECORDED_POSITION // POSITION)
    width = model.config.text_config.hidden_size
    engine.prefix_cache.features.limit = spare // 64 // (2 * 4096) * 4 * width
    engine.end_ids = frozenset()
    return engine


def run(engine: Forced, calls: Sequence[Call]) -> list[tuple[Call, list[int]]]:
    """Runs the calls; how many new tokens each prompt's answers took."""
    done = []
    for call in calls:
        engine.lengths = call.most
        if isinstance(call.how, BeamSearch):
            found = engine.branch(call.prompts, replace(call.how, stop=()))
            lengths = [max(one.n_tokens for one in some) for some in found]
        else:
            lengths = [
                one.n_tokens
                for one in engine.generate(call.prompts, call.how, corrupt=call.corrupt)
            ]
        done.append((call, lengths))
    return done


def one_by_one(engine: Engine, done: Sequence[tuple[Call, list[int]]]) -> Log:
    """What the same calls ask of the device one prompt at a time: each image looked at, each
    prompt read whole."""
    log = Log()
    for call, lengths in done:
        for (head, tail), new in zip(sizes_of(engine, call), lengths, strict=True):
            rows = call.how.num_beams if isinstance(call.how, BeamSearch) else 1
            log.looked[1] += head > 0
            whole = Pass(
                rows=1,
                new=head + tail,
                start=0,
                head=0,
                groups=0,
                most=1,
                masked=False,
                last=1,
                room=head + tail + new,
            )
            log.passes[whole] += 1
            log.spoken[1] += 1
            for step in range(1, new):
                start = head + tail + step - 1
                log.passes[
                    Pass(
                        rows=rows,
                        new=1,
                        start=start,
                        head=0,
                        groups=0,
                        most=1,
                        masked=False,
                        last=1,
                        room=start + 1,
                    )
                ] += 1
                log.spoken[rows] += 1
    return log


def sizes_of(engine: Engine, call: Call) -> list[tuple[int, int]]:
    """Positions of each prompt's prefix and suffix."""
    rendered = [
        engine.renderer.render_prompt(p.text, p.image is not None, p.prefix) for p in call.prompts
    ]
    prompts, _ = engine.tokenize(call.prompts, engine.renderer.encode(rendered), None)
    return [(0 if p.prefix is None else p.prefix.length, len(p.suffix)) for p in prompts]


def floor(engine: Engine, done: Sequence[tuple[Call, list[int]]], replay: Replay) -> float:
    """Seconds that no schedule avoids: an image (and each corrupted one) once, prompt tokens once,
    and for each new token the longer of its FLOPs and of reading its keys and values; beams of a
    prompt read its head once."""
    seen: set[int] = set()
    seconds = 0.0
    picture = replay.of_look(16).total / 16
    for call, lengths in done:
        many = call.how.num_beams if isinstance(call.how, BeamSearch) else 1
        for prompt, (head, tail), new in zip(
            call.prompts, sizes_of(engine, call), lengths, strict=True
        ):
            fresh = prompt.image is not None and (
                call.corrupt is not None or id(prompt.image) not in seen
            )
            if prompt.image is not None and call.corrupt is None:
                seen.add(id(prompt.image))
            seconds += fresh * (picture + head * TOKEN_FLOPS / FLOPS) + tail * TOKEN_FLOPS / FLOPS
            read = (head + many * (tail + new / 2)) * POSITION / BYTES
            seconds += (new - 1) * max(many * TOKEN_FLOPS / FLOPS, read)
    return seconds


def row_of(
    name: str, gib: float, images: Sequence[Image], tiny: tuple[Any, Any], replay: Replay
) -> dict[str, Any]:
    shard = SHARDS[name]
    engine = engine_on(*tiny, gib)
    done = []
    with recording(engine) as log:
        for start in range(0, len(images), shard):
            done += run(engine, recorded.calls(name, images[start : start + shard], "7b"))
    terms, kernels = priced(log, replay)
    alone, alone_kernels = priced(one_by_one(engine, done), replay)
    many = len(images)
    least = floor(engine, done, replay) / many
    ours, loop = sum(terms.values()) / many, sum(alone.values()) / many
    steps = sum(times for asked, times in log.passes.items() if asked.new == 1)
    return {
        "work": name,
        "gib": gib,
        "pictures": many,
        "priced_s": ours,
        "floor_s": least,
        "share_of_floor": least / ours,
        "one_by_one_s": loop,
        "ratio": loop / ours,
        "terms_s": {
            term: seconds / many
            for term, seconds in sorted(terms.items(), key=lambda one: -one[1])
            if seconds / many > 1e-5
        },
        "decode_steps": steps / many,
        "rows_a_step": (
            sum(asked.rows * times for asked, times in log.passes.items() if asked.new == 1)
            / max(1, steps)
        ),
        "kernels": kernels / many,
        "launches_s": kernels * LAUNCH / many,
        "one_by_one_launches_s": alone_kernels * LAUNCH / many,
        "peak_gib": (log.peak + WEIGHTS) / GIB,
    }


def step_of(replay: Replay) -> dict[str, Any]:
    """One decoding step of 64 rows that share 64 heads: its price and its kernels."""
    cost = replay.of_pass(
        Pass(rows=64, new=1, start=30, head=581, groups=64, most=1, masked=True, last=1, room=64)
    )
    return {
        "rows": 64,
        "priced_s": cost.total,
        "kernels": cost.kernels,
        "launches_s": cost.kernels * LAUNCH,
    }


def markdown(rows: Sequence[dict[str, Any]], step: dict[str, Any]) -> str:
    titles = (
        "work",
        "card, GiB",
        "priced, ms",
        "floor, ms",
        "of the floor",
        "one by one, ms",
        "ratio",
        "launches, ms",
        "rows a step",
    )
    lines = ["# The generation path at LLaVA-1.5-7B's shape, counted, not timed", ""]
    lines += [
        "| " + " | ".join((*titles, "peak, GiB", "largest terms, ms")) + " |",
        "| :-- |" + " --: |" * 9 + " :-- |",
    ]
    for row in rows:
        terms = ", ".join(
            f"{name} {1e3 * seconds:.1f}" for name, seconds in list(row["terms_s"].items())[:6]
        )
        cells = [
            f"{row['gib']:.0f}",
            f"{1e3 * row['priced_s']:.1f}",
            f"{1e3 * row['floor_s']:.1f}",
            f"{row['share_of_floor']:.0%}",
        ]
        cells += [
            f"{1e3 * row['one_by_one_s']:.0f}",
            f"{row['ratio']:.1f}",
            f"{1e3 * row['launches_s']:.1f}",
        ]
        cells += [f"{row['rows_a_step']:.0f}", f"{row['peak_gib']:.0f}"]
        lines.append(f"| {row['work']} | " + " | ".join(cells) + f" | {terms} |")
    lines += [
        "",
        (
            "Milliseconds an image. Every kernel takes the longer of its FLOPs at"
            f" {FLOPS / 1e12:.0f} TFLOP/s and its bytes at {BYTES / 1e12:.1f} TB/s, what such a"
            " card is said to reach (not measured here): a lower bound of a real run, which adds"
            " what kernels fall short of them. Launches are counted beside it at an assumed 5"
            " microseconds each; they hide behind the price and matter where they exceed it. A"
            f" decoding step of {step['rows']} rows at 32 layers is {step['kernels']} kernels:"
            f" {1e3 * step['priced_s']:.1f} ms priced, {1e3 * step['launches_s']:.1f} ms of"
            " launches."
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=recorded.WORK, default=recorded.WORK)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument(
        "--gib", nargs="+", type=float, default=[79.0, 139.0], help="memory of the card"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="a folder for schedule-7b.md and schedule-7b.json"
    )
    given = parser.parse_args()
    replay, tiny, images = Replay(build("7b", "meta")[0]), recorder(), pictures(given.pictures, 336)
    rows = []
    for name in given.work:
        for gib in given.gib:
            rows.append(row_of(name, gib, images, tiny, replay))
            print(json.dumps(rows[-1]), flush=True)
    step = step_of(replay)
    told = markdown(rows, step)
    print(told)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "schedule-7b.md").write_text(told)
        (given.out / "schedule-7b.json").write_text(
            json.dumps({"step": step, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
