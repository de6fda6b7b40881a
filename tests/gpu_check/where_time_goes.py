"""Part e: a profile of one prefill and of decoding steps at 7B's shape: kernels, launches, gaps.

A decoding step is taken three ways: plain, behind prefixes of their own odd length; plain, behind
aligned ones; and as a CUDA graph. On the CPU a fixed step stands for the graph."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from harness.engine.decode_state import DecodeRow, DecodeState
from harness.engine.engine import Engine
from harness.engine.step_graph import MIN_PLAIN_STEPS, StepGraphs
from methods.interface import Prompt
from tests.benches.gpu_models import build
from tests.benches.gpu_work import pictures
from tests.gpu_check.card import free_bytes, layers_to_answer, measure, wait
from tests.gpu_check.part import Asked, child

TABLE = "Where the time goes"
SIZES = {"7b": (8, 64), "slim": (2, 8), "tiny": (4, 16)}
"""Images whose prompts are read at once, and rows that write at once."""
TEXT = "Describe this image in detail."
STEPS = 20
WAYS = {"plain, not aligned": (False, 1), "plain": (False, 16), "graph": (True, 16)}
"""Decoding steps: as a graph or not, and the multiple of positions of prefixes and caches."""
TOP = 12


def run(asked: Asked) -> None:
    large = asked.device == "cuda" and asked.shape == "7b"
    layers = layers_to_answer(free_bytes()) if large else None
    model, processor = build(asked.shape, asked.device, layers)
    engine = Engine(model, processor, batch_size=256)
    images, rows = SIZES[asked.shape]
    side = processor.image_processor.crop_size["height"]
    prefill(asked, engine, pictures(images, side))
    decoding(asked, engine, pictures(images, side), rows)
    if large and layers is None:
        rates, weights = measure(asked.device), sum(p.nbytes for p in model.parameters())
        asked.note(
            f"Reading the weights once takes {1e3 * weights / rates.bytes:.1f} ms at this card's "
            "measured rate: no decoding step is faster."
        )


def prefill(asked: Asked, engine: Engine, images: Sequence[Any]) -> None:
    """Images through the vision tower, and their prefixes through the language model."""
    prompts = [Prompt(key=f"{n}", text=TEXT, image=image) for n, image in enumerate(images)]
    tokenized, by_name = engine.tokenize(
        prompts,
        engine.renderer.encode([engine.renderer.render_prompt(one.text, True) for one in prompts]),
        None,
    )
    prefixes = [each.prefix for each in tokenized if each.prefix is not None]

    def read() -> None:
        with torch.inference_mode():
            features = engine.prefix_cache.features_of(prefixes, by_name, None)
            engine.prefix_cache.prefill(prefixes, features, engine.decoder.text)
        engine.prefix_cache.features.clear()

    tokens = sum(prefix.length for prefix in prefixes)
    profiled(asked, f"prefill of {len(prefixes)} images, {tokens} tokens", read, 3)


def decoding(asked: Asked, engine: Engine, images: Sequence[Any], count: int) -> None:
    """One decoding step of ``count`` rows behind these images' prefixes, each way."""
    places = [n % len(images) for n in range(count)]
    prompts = [Prompt(key=f"{n}", text=TEXT, image=images[at]) for n, at in enumerate(places)]

    def steps(way: str, rows: Sequence[DecodeRow]) -> list[None]:
        state = DecodeState(engine.decoder, rows, 4 * STEPS)

        def step() -> None:
            state.advance(state.logits().argmax(-1))

        took = []
        for _ in range(MIN_PLAIN_STEPS + 2):
            began = time.perf_counter()
            step()
            wait(asked.device)
            took.append(1e3 * (time.perf_counter() - began))
        title = f"decoding step of {len(rows)} rows, {way}"
        if engine.step_graphs.enabled:
            asked.row(TABLE, title, {"ms with the capture": took[MIN_PLAIN_STEPS]})
        profiled(asked, title, step, STEPS)
        return [None] * len(rows)

    graphs = engine.step_graphs
    for way, (graphs.enabled, engine.decoder.alignment) in WAYS.items():
        with torch.inference_mode():
            engine.run_rows(prompts, partial(steps, way), None, new_tokens=4 * STEPS)
    failed = f" A capture failed: {StepGraphs.failure}" if StepGraphs.failure else ""
    asked.note(f"{graphs.captured} graphs were captured and {graphs.steps} steps taken so.{failed}")


def profiled(asked: Asked, title: str, call: Callable[[], None], times: int) -> None:
    """Seconds of a call without the profiler, then its kernels with it."""
    device = asked.device
    call()
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    wait(device)
    cells: dict[str, Any] = {"ms a call": 1e3 * (time.perf_counter() - began) / times}
    asked.row(TABLE, title, cells)
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        call()
        wait(device)
    events = list(found.events() or [])
    kernels = kernels_of(events) if device == "cuda" else operations_of(events)
    if device == "cuda":
        launches = sum("launch" in one.name.lower() for one in events if not on_card(one))
        spans = sorted((one.time_range.start, one.time_range.end) for one in events if on_card(one))
        busy, whole = union(spans), (spans[-1][1] - spans[0][0]) if spans else 0.0
        cells = {"kernels": len(spans), "launches": launches, "busy, ms": busy / 1e3}
        cells |= {"from first to last kernel, ms": whole / 1e3, "gaps, ms": (whole - busy) / 1e3}
        asked.row(TABLE, title, cells)
    else:
        asked.row(TABLE, title, {"operations": sum(number for number, _ in kernels.values())})
    asked.block(f"Top of: {title}", top(kernels))


def on_card(event: Any) -> bool:
    return bool(event.device_type == DeviceType.CUDA)


def kernels_of(events: Sequence[Any]) -> dict[str, tuple[int, float]]:
    """How often each kernel ran, and its microseconds."""
    found: defaultdict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for one in events:
        if on_card(one):
            number, took = found[one.name]
            found[one.name] = (number + 1, took + one.time_range.end - one.time_range.start)
    return dict(found)


def operations_of(events: Sequence[Any]) -> dict[str, tuple[int, float]]:
    """The same of a CPU's operations, by their own time."""
    found: defaultdict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for one in events:
        if one.name.startswith("aten::"):
            number, took = found[one.name]
            found[one.name] = (number + 1, took + one.self_cpu_time_total)
    return dict(found)


def union(spans: Sequence[tuple[float, float]]) -> float:
    """The length of what sorted spans cover."""
    covered, end = 0.0, float("-inf")
    for start, stop in spans:
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def top(kernels: dict[str, tuple[int, float]]) -> str:
    """The longest ones as a table; a name's end is cut."""
    whole = sum(took for _, took in kernels.values()) or 1.0
    lines = ["| kernel | times | ms | share |", "| :-- | --: | --: | --: |"]
    for name, (number, took) in sorted(kernels.items(), key=lambda one: -one[1][1])[:TOP]:
        short = name.replace("|", "/")[:90]
        lines.append(f"| `{short}` | {number} | {took / 1e3:.3f} | {took / whole:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    child("where_time_goes", run)
