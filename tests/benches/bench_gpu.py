"""The speed of making pairs, answering and DPO at LLaVA-1.5-7B's shape, in one run against
one-by-one and trl.

    python -m nox -s bench_gpu                       on a CUDA GPU: random weights of the 7B shape,
    bfloat16
    python -m nox -s bench_gpu -- --shape tiny       the synthetic base on its own recorded prompts,
    on any machine
    python -m nox -s bench_gpu -- --shape slim       the 7B shape but for its width, its prompts and
    tokens, on any machine

What is replayed are the calls that the methods' own code makes (tests/benches/recorded.py says what
of them is recorded and what made): every prompt generates exactly as many tokens as its answer had,
on both sides. One by one is ``model.generate`` a prompt, its image encoded each time (sampled
answers draw with our numbers, so that they can be compared); for CSR, whose group beam search
transformers has not any more, it is our own search a node at a time with nothing kept, a node's
beams all as long as they are in the mean; for CLIP a sentence at a time. The loop runs on the first
``--loop`` images and its time is scaled by images.

In float32 (tiny, slim) every text must be equal, and scores to 0.001, or the bench fails; in
bfloat16 the share of equal texts and the largest difference of a first token's logits are reported
(the latter says more: with random weights a long text parts from its twin at the first near-tie).
Floors are an H200's (``gpu_work.floor_seconds``, from the recorded lengths) and left out elsewhere.
On a CPU seconds are of processor time, which other work on the machine does not change, and only
ratios mean anything. Writes ``<name>.json`` and ``<name>.md`` to ``--out``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from harness.artifacts.environment import hardware, peak_memory_mib, versions
from tests.benches import gpu_dpo, gpu_replay, made, recorded
from tests.benches.gpu_models import build, build_clip
from tests.benches.gpu_replay import Answer, Forced
from tests.benches.gpu_work import FORMAT, PATCHES, Call, clock, floor_seconds, pictures

DEFAULTS = {
    "7b": {"pictures": 96, "loop": 6, "pairs": 128, "train_batch": 32, "at_once": 8, "times": 1},
    "slim": {"pictures": 8, "loop": 2, "pairs": 8, "train_batch": 4, "at_once": 1, "times": 2},
    "tiny": {"pictures": 24, "loop": 6, "pairs": 24, "train_batch": 8, "at_once": 8, "times": 3},
}
"""Images for our side and for the loop; pairs of DPO, pairs an optimiser step, pairs at once on
both sides. Of so many
``times`` the fastest counts, on both sides but for DPO: on a busy CPU even processor time is
unsteady."""

COLUMNS = {
    "work": "work",
    "prompt_tokens": "prompt tokens",
    "new_tokens": "new tokens",
    "ours_s": "ours, s",
    "loop_s": "one by one, s",
    "ratio": "ratio",
    "equal": "equal",
    "logits": "largest logit difference",
    "floor": "of the floor",
    "peak_gib": "peak, GiB",
}
ABOUT = (
    "All an image (SIMA: a prompt; DPO: a pair, against trl's DPOTrainer): prompt tokens as one by"
    " one reads them, new tokens with every candidate's, seconds. Equal: the share of equal texts,"
    " and of scores equal to 0.001."
)
ABOUT_CPU = (
    " Seconds are processor time on the CPU named below and say nothing of a GPU; the ratio is what"
    " batching and sharing save on it. Memory is the process's highest so far."
)
ABOUT_SLIM = (
    " The slim shape's width is a 64th of the real one and its vocabulary and images are not: its"
    " ratios are not the real shape's (DPO's above all: trl keeps 32,064 logits for every prompt"
    " token)."
)


def peak(device: str) -> float:
    if device != "cuda":
        return round(peak_memory_mib()["host"] / 1024, 2)
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(found, 2)


def fastest(
    times: int, device: str, call: Callable[[], list[Answer]]
) -> tuple[float, list[Answer]]:
    """The least seconds of so many times, and the answers, which are the same each time."""
    found = []
    for _ in range(times):
        began = clock(device)
        answers = call()
        found.append(clock(device) - began)
    return min(found), answers


def compared(
    work: str,
    images: Sequence[Image],
    given: argparse.Namespace,
    device: str,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
) -> tuple[dict[str, Any], list[Call], list[Call]]:
    """Both sides' seconds an image and the share of equal answers; the calls on all images and
    on the loop's."""
    calls, few = (
        recorded.calls(work, some, given.shape) for some in (images, images[: given.loop])
    )
    ours(recorded.calls(work, images[:2], given.shape))  # warm: kernels are chosen, memory is taken
    peak(device)
    seconds, answers = fastest(given.times, device, lambda: ours(calls))
    high = peak(device)
    theirs(few[:1])
    loop, others = fastest(given.times, device, lambda: theirs(few))
    seconds, loop = seconds / len(images), loop / given.loop
    # A workload's calls on few images are its calls on all of them, in their order, with prompts
    # left out.
    shown, asked = (
        {id(image) for image in images[: given.loop]},
        [prompt for call in calls for prompt in call.prompts],
    )
    mine = [
        answer for prompt, answer in zip(asked, answers, strict=True) if id(prompt.image) in shown
    ]
    equal = sum(gpu_replay.same(a, b) for a, b in zip(mine, others, strict=True)) / len(others)
    row = {
        "work": work,
        "ours_s": seconds,
        "loop_s": loop,
        "ratio": loop / seconds,
        "equal": equal,
        "peak_gib": high,
    }
    return (
        row | {"floor": floor_seconds(calls, len(images)) / seconds if on_h200(device) else None},
        calls,
        few,
    )


def generation(given: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """A row for each workload that was asked for."""
    model, processor = build(given.shape, device)
    images = pictures(given.pictures, processor.image_processor.crop_size["height"])
    engine = Forced(model, processor, batch_size=given.batch_size)
    alone = Forced(model, processor, batch_size=64, shared_bytes=0)
    rows = []

    def ours(calls: Sequence[Call]) -> list[Answer]:
        engine.prefix_cache.clear()
        return gpu_replay.run(engine, calls)

    def theirs(calls: Sequence[Call]) -> list[Answer]:
        return gpu_replay.one_by_one(alone, processor, calls)

    for work in given.work:
        if work not in recorded.WORK:
            continue
        row, calls, few = compared(work, images, given, device, ours, theirs)
        asked, new = gpu_replay.tokens(processor, calls, model.config.image_seq_length)
        row |= {"prompt_tokens": round(asked / len(images)), "new_tokens": round(new / len(images))}
        row |= {"logits": gpu_replay.logit_difference(processor, engine, few)}
        rows.append(row)
        say(row)
    return rows


def relevance(given: argparse.Namespace, device: str) -> dict[str, Any]:
    """The row of CSR's CLIP."""
    scorer = build_clip(given.shape, device)
    images = pictures(given.pictures, scorer.image_processor.crop_size["height"])

    def ours(calls: Sequence[Call]) -> list[Answer]:
        scorer.embeddings.clear()
        return gpu_replay.relevance(scorer, calls)

    row, calls, _ = compared(
        recorded.CLIP,
        images,
        given,
        device,
        ours,
        lambda calls: gpu_replay.relevance_alone(scorer, calls),
    )
    said = [
        ids for call in calls for ids in scorer.tokens([prompt.text for prompt in call.prompts])
    ]
    row |= {
        "prompt_tokens": round(sum(map(len, said)) / len(images)),
        "new_tokens": None,
        "logits": None,
    }
    say(row | {"sentences": len(said) / len(images)})
    return row


def training(given: argparse.Namespace, device: str) -> dict[str, Any]:
    """The row of DPO; seconds are a pair's."""
    recipe = gpu_dpo.recipe(given.shape, given.train_batch)
    model, processor = build(given.shape, device)
    images = pictures(max(1, given.pairs // 3), processor.image_processor.crop_size["height"])
    work = recorded.pairs(given.pairs, len(images), given.shape)
    text = sum(p.numel() for name, p in model.named_parameters() if "vision_tower" not in name)
    peak(device)
    trained = gpu_dpo.ours(model, processor, work, images, recipe, given.at_once)
    high = peak(device)
    del model
    model, processor = build(given.shape, device)
    reference = None if recipe.lora else build(given.shape, device)[0]
    theirs, others = gpu_dpo.trls(model, reference, processor, work, images, recipe, given.at_once)
    worst = max(abs(a - b) for a, b in zip(trained.losses, others, strict=True))
    prompt = PATCHES + FORMAT + sum(made.tokens(pair.prompt) for pair in work) / len(work)
    side = (
        sum(made.tokens(text) for pair in work for text in (pair.chosen, pair.rejected))
        / len(work)
        / 2
    )
    best = gpu_dpo.floor_pairs_a_second(text, prompt, side)
    mine = trained.seconds
    row = {"work": "dpo", "ours_s": mine / len(work), "loop_s": theirs / len(work)}
    row |= {"ratio": theirs / mine, "equal": None, "logits": None, "peak_gib": high}
    row |= {"floor": len(work) / mine / best if on_h200(device) else None}
    row |= {
        "laid": trained.laid,
        "trl_peak_gib": peak(device),
        "largest_loss_difference": worst,
        "against": "trl DPOTrainer",
    }
    say(row)
    return row


def on_h200(device: str) -> bool:
    return device == "cuda" and "H200" in torch.cuda.get_device_name(0)


def say(row: dict[str, Any]) -> None:
    print(
        json.dumps(
            {
                name: round(value, 5) if isinstance(value, float) else value
                for name, value in row.items()
            }
        ),
        flush=True,
    )


def markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any], device: str) -> str:
    """The table and what it was measured on."""

    def cell(row: dict[str, Any], name: str) -> str:
        value = row.get(name)
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "| :-- |" + " --: |" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(cell(row, name) for name in COLUMNS) + " |" for row in rows]
    notes = ABOUT + ABOUT_CPU * (device == "cpu") + ABOUT_SLIM * (about["shape"] == "slim")
    for row in rows:
        if "largest_loss_difference" in row:
            notes += (
                f" DPO's losses differ from trl's by {row['largest_loss_difference']:.2g} at most."
            )
    return "\n".join([*lines, "", notes, "", "`" + json.dumps(about) + "`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [*recorded.WORK, recorded.CLIP, "dpo"]
    parser.add_argument("--shape", choices=sorted(DEFAULTS), default="7b")
    parser.add_argument("--work", nargs="+", choices=every, default=every)
    parser.add_argument("--batch-size", type=int, default=64)
    for name in DEFAULTS["7b"]:
        told = ", ".join(f"{shape}: {values[name]}" for shape, values in DEFAULTS.items())
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=None, help=f"({told})")
    parser.add_argument("--out", type=Path, default=Path("results/bench_gpu"))
    parser.add_argument("--name", default="bench_gpu", help="of the two files")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.shape == "7b" and device == "cpu":
        sys.exit(
            "The 7B shape needs a CUDA GPU and there is none here; add --shape slim, or --shape"
            " tiny."
        )
    for name, value in DEFAULTS[given.shape].items():
        setattr(given, name, getattr(given, name) or value)
    given.loop = min(given.loop, given.pictures)

    rows = generation(given, device)
    if recorded.CLIP in given.work:
        rows.append(relevance(given, device))
    if "dpo" in given.work:
        rows.append(training(given, device))
    settings = {
        name: getattr(given, name) for name in ("shape", "batch_size", *DEFAULTS[given.shape])
    }
    about = {**settings, "threads": torch.get_num_threads(), **hardware(), **versions()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{given.name}.json").write_text(
        json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
    )
    table = markdown(rows, about, device)
    (given.out / f"{given.name}.md").write_text(table)
    print("\n" + table)
    differing = [row["work"] for row in rows if row["equal"] not in (None, 1.0)]
    if differing and given.shape != "7b":
        sys.exit(
            f"Answers differ from one by one: {', '.join(differing)}. The engine is wrong, whatever"
            " its speed."
        )


if __name__ == "__main__":
    main()
