"""The speed of generation, answering and DPO at LLaVA-1.5-7B's shape, in one run against one-by-one and trl.

    python -m nox -s bench_gpu                                  on a CUDA GPU: random weights of the 7B shape, bfloat16
    python -m nox -s bench_gpu -- --shape tiny                  the same code on the embedded base, on any machine

Both sides run the same prompts to the same forced lengths. One by one is ``model.generate`` a prompt, its picture encoded each
time; for CSR, whose group beam search transformers has not any more, it is our own search a node at a time with nothing kept.
The loop runs on the first ``--loop`` pictures and its time is scaled by pictures. On the tiny shape (float32, trained weights)
texts must be equal or the bench fails; in bfloat16 the share of equal texts and the largest difference of a first token's logits
are reported. Floors are those of an H200 and are left out elsewhere. On a CPU
seconds are of processor time, which other work on the machine does not change. Writes ``bench_gpu.json`` and ``bench_gpu.md``
to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.engine.decode import Row, Running
from harness.engine.vlm import Engine
from harness.identity import hardware, peak_memory_mib, versions
from harness.rendering import renderer
from methods.interface import Branching
from tests.benches import gpu_dpo
from tests.benches.gpu_work import FLOORS, LENGTHS, WORK, Call, build, clock, pictures

COLUMNS = ("work", "ours_s", "loop_s", "ratio", "equal", "logits", "floor", "peak_gib")


def engine_of(model: Any, processor: Any, **settings: Any) -> Engine:
    """An engine that ends no answer by itself: lengths are forced."""
    engine = Engine(model, processor, **settings)
    engine.ends = frozenset()
    return engine


def run(engine: Engine, calls: Sequence[Call]) -> list[list[str]]:
    """Every prompt's texts (several where it branches)."""
    texts: list[list[str]] = []
    for call in calls:
        if isinstance(call.how, Branching):
            texts += [[one.text for one in found] for found in engine.branch(call.prompts, call.how)]
        else:
            texts += [[one.text] for one in engine.generate(call.prompts, call.how, corrupt=call.corrupt)]
    return texts


def one_by_one(model: Any, processor: Any, calls: Sequence[Call]) -> list[list[str]]:
    """The same, a prompt at a time, every picture encoded anew."""
    alone = engine_of(model, processor, batch_size=5, shared_bytes=0)
    render, texts = renderer(processor), list[list[str]]()
    for call in calls:
        for prompt in call.prompts:
            if isinstance(call.how, Branching):
                alone.sharing.clear()
                texts.append([one.text for one in alone.branch([prompt], call.how)[0]])
                continue
            text = render.render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
            given = processor(images=prompt.image, text=text, return_tensors="pt", add_special_tokens=False).to(model.device)
            given["pixel_values"] = given["pixel_values"].to(model.dtype)
            if call.corrupt is not None:
                given["pixel_values"] = call.corrupt(given["pixel_values"][0].float(), prompt.key)[None].to(model.dtype)
            ids = model.generate(**given, max_new_tokens=call.how.max_new_tokens, do_sample=False, eos_token_id=None)
            new = ids[0, given["input_ids"].shape[1] :]
            texts.append([processor.tokenizer.decode(new, skip_special_tokens=True).strip()])
    return texts


def logit_difference(model: Any, processor: Any, engine: Engine, call: Call) -> float:
    """The largest difference of a first token's logits between the shared batch and a plain forward pass."""
    if isinstance(call.how, Branching) or call.corrupt is not None:
        return 0.0

    def first(rows: Sequence[Row]) -> list[torch.Tensor]:
        return list(Running(engine.speaker, rows, 1).logits())

    render, worst = renderer(processor), 0.0
    with torch.inference_mode():
        shared = engine.written(call.prompts, first, engine.batches, None)
        for prompt, (_, logits) in zip(call.prompts, shared, strict=True):
            text = render.render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
            given = processor(images=prompt.image, text=text, return_tensors="pt", add_special_tokens=False).to(model.device)
            given["pixel_values"] = given["pixel_values"].to(model.dtype)
            worst = max(worst, float((model(**given).logits[0, -1].float() - logits).abs().max()))
    return worst


def peak(device: str) -> float:
    if device != "cuda":
        return round(peak_memory_mib()["host"] / 1024, 2)
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(found, 2)


def generation(given: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """A row for each workload that was asked for."""
    size = LENGTHS[given.shape]
    model, processor = build(given.shape, device)
    images = pictures(given.pictures, processor.image_processor.crop_size["height"])
    rows = []
    for name in given.work:
        if name == "dpo":
            continue
        calls, few = WORK[name](images, size), WORK[name](images[: given.loop], size)
        engine = engine_of(model, processor, batch_size=given.batch_size)
        run(engine, WORK[name](images[:2], size))  # warm: kernels are chosen, memory is taken
        engine.sharing.clear()
        began = clock(device)
        texts = run(engine, calls)
        ours = (clock(device) - began) / len(images)
        high = peak(device)
        one_by_one(model, processor, [few[0]])
        began = clock(device)
        theirs = one_by_one(model, processor, few)
        loop = (clock(device) - began) / given.loop
        places = [(call, place) for call in calls for place in range(len(call.prompts))]
        kept = {(call.name, prompt.key) for call in few for prompt in call.prompts}
        mine = [text for (call, place), text in zip(places, texts, strict=True) if (call.name, call.prompts[place].key) in kept]
        equal = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(theirs)
        logits = max(logit_difference(model, processor, engine, call) for call in few)
        floor = FLOORS[name] / ours if on_h200(device) else None
        rows.append(
            {"work": name, "ours_s": ours, "loop_s": loop, "ratio": loop / ours, "equal": equal, "logits": logits}
            | {"floor": floor, "peak_gib": high}
        )
        say(rows[-1])
    return rows


def training(given: argparse.Namespace, device: str) -> dict[str, Any]:
    """The row of DPO; seconds are a pair's."""
    size, recipe = LENGTHS[given.shape], gpu_dpo.recipe(given.shape, given.train_batch)
    model, processor = build(given.shape, device)
    images = pictures(max(1, given.pairs // 3), processor.image_processor.crop_size["height"])
    work = gpu_dpo.pairs(given.pairs, len(images), size)
    text = sum(p.numel() for name, p in model.named_parameters() if "vision_tower" not in name)
    peak(device)
    ours, losses, laid = gpu_dpo.ours(model, processor, work, images, recipe, given.at_once)
    high = peak(device)
    del model
    model, processor = build(given.shape, device)
    reference = None if recipe.lora else build(given.shape, device)[0]
    theirs, others = gpu_dpo.trls(model, reference, processor, work, images, recipe, given.at_once)
    worst = max(abs(a - b) for a, b in zip(losses, others, strict=True))
    best = gpu_dpo.floor_pairs_a_second(text, 600, size.side)
    row = {"work": "dpo", "ours_s": ours / len(work), "loop_s": theirs / len(work), "ratio": theirs / ours, "equal": None}
    row |= {"logits": None, "floor": len(work) / ours / best if on_h200(device) else None, "peak_gib": high}
    row |= {"laid": laid, "trl_peak_gib": peak(device), "largest_loss_difference": worst, "against": "trl DPOTrainer"}
    say(row)
    return row


def on_h200(device: str) -> bool:
    return device == "cuda" and "H200" in torch.cuda.get_device_name(0)


def say(row: dict[str, Any]) -> None:
    print(json.dumps({name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}), flush=True)


def markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """The table and what it was measured on."""

    def cell(row: dict[str, Any], name: str) -> str:
        value = row.get(name)
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    titles = ("work", "ours, s", "one by one, s", "ratio", "equal texts", "largest logit difference", "of the floor", "peak, GiB")
    lines = ["| " + " | ".join(titles) + " |", "| :-- |" + " --: |" * (len(titles) - 1)]
    lines += ["| " + " | ".join(cell(row, name) for name in COLUMNS) + " |" for row in rows]
    what = "Seconds a picture (SIMA: a prompt; DPO: a pair, against trl's DPOTrainer); on a CPU of processor time."
    return "\n".join([*lines, "", what, "", "`" + json.dumps(about) + "`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(LENGTHS), default="7b")
    parser.add_argument("--work", nargs="+", choices=[*WORK, "dpo"], default=[*WORK, "dpo"])
    parser.add_argument("--pictures", type=int, default=None, help="pictures for our side (7b: 96, tiny: 12)")
    parser.add_argument("--loop", type=int, default=None, help="pictures for the loop (7b: 6, tiny: 4)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=None, help="pairs of DPO (7b: 128, tiny: 24)")
    parser.add_argument("--train-batch", type=int, default=None, help="pairs an optimiser step (7b: 32, tiny: 8)")
    parser.add_argument("--at-once", type=int, default=8, help="pairs through the model at once, on both sides")
    parser.add_argument("--out", type=Path, default=Path("results/bench_gpu"))
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.shape == "7b" and device == "cpu":
        sys.exit("The 7B shape needs a CUDA GPU and there is none here; add --shape tiny.")
    large = given.shape == "7b"
    for name, values in (("pictures", (96, 12)), ("loop", (6, 4)), ("pairs", (128, 24)), ("train_batch", (32, 8))):
        setattr(given, name, getattr(given, name) or values[not large])
    given.loop = min(given.loop, given.pictures)

    rows = generation(given, device)
    if "dpo" in given.work:
        rows.append(training(given, device))
    about = {"shape": given.shape, "threads": torch.get_num_threads(), **hardware(), **versions()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "bench_gpu.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    table = markdown(rows, about)
    (given.out / "bench_gpu.md").write_text(table)
    print("\n" + table)
    differing = [row["work"] for row in rows if row["equal"] not in (None, 1.0)]
    if differing and not large:
        sys.exit(f"Texts differ from one by one: {', '.join(differing)}. The engine is wrong, whatever its speed.")


if __name__ == "__main__":
    main()
