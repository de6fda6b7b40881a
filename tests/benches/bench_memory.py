"""Memory and FLOPs of training LLaVA-1.5-7B and 13B, counted with fake tensors and held to our
estimate; no GPU is needed.

    python -m nox -s bench_memory

Runs the real reference pass and training step (packed rows, DPO with anchor, AdamW, two pieces a
step) on the models' exact shapes (tests/benches/counting.py). Rows: LoRA of rank 128 with the
projector, and full training; activations kept and computed anew; one and eight pairs at once, of
576 image tokens, 26 of prompt and two answers of 100. The plain form that FLOPs are compared with
runs policy and reference on both whole rows each time. Pairs a second are arithmetic: counted FLOPs
at 45 % of 790 TFLOP/s, one epoch, references included. Writes memory-7b.md and .json below
results/benches."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from harness.artifacts.environment import versions
from harness.models.base_cards import LLAMA_LINEARS
from harness.training.fsdp import Policy, upcast_trainable
from harness.training.loop import Loop, take_step
from harness.training.lora import add_adapters, choose_trainable, eval_tower, parameter_groups
from harness.training.memory import GIB, SHAPES, MemoryEstimate, Shape
from harness.training.pair_batches import EncodedPair, pack
from harness.training.placement import Placement, estimate, make_optimizer
from harness.training.policy import recompute_activations
from harness.training.ranks import SINGLE
from harness.training.reference_logps import reference_logps
from harness.training.trainer import _autocast
from methods.interface import Lora, PreferencePair, Recipe
from tests.benches import counting

PATCHES, IMAGE, PEAK, SHARE = 576, 32000, 790e12, 0.45
FULL = Recipe(lr=1e-6, global_batch=1, alignment_weight=0.5)
ADAPTED = Recipe(
    lr=1e-6, global_batch=1, alignment_weight=0.5, lora=Lora(r=128, alpha=256), projector_lr=2e-5
)
TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Bytes at the peak of the reference pass and of a step, the estimate; FLOPs of a pair; bytes
    sent to the device a step."""

    reference_peak: int
    peak: int
    need: MemoryEstimate
    reference_flops: float
    step_flops: float
    plain_reference: int
    plain_step: int
    sent: int
    transfers: int


def build(
    shape: Shape, dtype: torch.dtype, tower: dict[str, int] = TOWER, patches: int = PATCHES
) -> Any:
    """A LLaVA of that shape; inside ``counted()`` its weights are fake."""
    side = round(patches**0.5) * 14
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=side, patch_size=14, projection_dim=768),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=4096,
        ),
        image_token_id=min(IMAGE, shape.vocabulary - 1),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=patches,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def pairs(
    count: int, image: int = IMAGE, patches: int = PATCHES, side: int = 100
) -> list[EncodedPair]:
    """Pairs of the lengths that real ones have; every second one has an image of its own."""
    made = []
    for number in range(count):
        pair = PreferencePair(
            key=f"{number:04d}",
            item=str(number // 2),
            prompt="p",
            chosen="c",
            rejected="r",
            aligned=number % 2 == 0,
        )
        prompt = [1] * 5 + [image] * patches + [1] * (21 - number % 3)
        places = torch.arange(len(prompt))[None]
        made.append(
            EncodedPair(
                pair=pair,
                prompt=prompt,
                positions=places,
                chosen=[1] * (side - number % 5),
                rejected=[1] * (side - number % 7),
            )
        )
    return made


def count(
    model: Any,
    recipe: Recipe,
    work: Sequence[EncodedPair],
    *,
    checkpointing: bool,
    at_once: int,
    among: Any,
) -> Counted:
    """The reference pass and a step on ``work``, not the first, inside ``counted()``
    (``among``)."""
    width = model.config.vision_config.hidden_size
    patches = model.config.image_seq_length
    features: dict[str, Tensor] = {
        one.pair.item: torch.empty(patches, width, dtype=model.dtype) for one in work
    }
    model.to(counting.accelerator())
    if recipe.lora:
        add_adapters(model, recipe.lora, LLAMA_LINEARS, 0)
    parameters = choose_trainable(model, recipe)
    longest = sorted(work, key=lambda one: -one.length)[:at_once]
    needed = estimate(model, parameters, longest, sides=2, checkpointing=checkpointing)
    autocast = _autocast(model, Placement(device_batch=at_once, checkpointing=checkpointing))
    upcast_trainable(parameters.values())
    loop = Loop(
        policy=Policy(model, features, rejected_argmax=False),
        parameters=parameters,
        references={},
        recipe=recipe,
        seed=0,
        pad=0,
        device_batch=at_once,
        sharded=False,
        ranks=SINGLE,
        autocast=autocast,
    )
    among.peak, flops = among.now, among.flops
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.jsonl"
        loop = replace(loop, references=reference_logps(loop, work, policy="", cache=file))
    reference_peak, reference_flops = among.peak, among.flops - flops
    optimizer = make_optimizer(parameter_groups(model, parameters, recipe), "adamw")
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    if checkpointing:
        recompute_activations(model)
    model.train()
    eval_tower(model)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # so that the moments are there, as in every step but the first
    optimizer.zero_grad()
    among.peak, flops, sent, transfers = among.now, among.flops, among.sent, among.transfers
    take_step(loop, optimizer, work, 1, 2)
    ours, peak, sent, transfers = (
        among.flops - flops,
        among.peak,
        among.sent - sent,
        among.transfers - transfers,
    )
    plain_reference, plain_step = plain(work[0], loop.policy, autocast, among)
    return Counted(
        reference_peak=reference_peak,
        peak=peak,
        need=needed,
        reference_flops=reference_flops / len(work),
        step_flops=ours / len(work),
        plain_reference=plain_reference,
        plain_step=plain_step,
        sent=sent,
        transfers=transfers,
    )


def plain(one: EncodedPair, policy: Policy, autocast: Any, among: Any) -> tuple[int, int]:
    """FLOPs of a pair's reference and policy pass in the plain form: prompt and answer in a row of
    their own for each side.

    The head is run at answers only here too, and the tower's features are given, so that what is
    compared is the packing."""
    rows = pack([one, replace(one, chosen=one.rejected)], sides=1)
    start = among.flops
    with torch.no_grad(), autocast():
        policy(rows)
    middle = among.flops
    with autocast():
        logps, _ = policy(rows)
    logps.sum().backward()
    return middle - start, among.flops - middle


def row(name: str, recipe: Recipe, checkpointing: bool, at_once: int) -> dict[str, Any]:
    """One setting's counts at the true shape, in GiB and TFLOP."""
    work = pairs(2 * at_once)
    with counting.counted() as among:
        found = count(
            build(SHAPES[name], torch.bfloat16),
            recipe,
            work,
            checkpointing=checkpointing,
            at_once=at_once,
            among=among,
        )
    return {
        "base": name,
        "trains": "LoRA" if recipe.lora else "full",
        "recomputed": checkpointing,
        "pairs": at_once,
        "counted_gib": found.peak / GIB,
        "estimated_gib": found.need.total / GIB,
        "ratio": found.need.total / found.peak,
        "reference_gib": found.reference_peak / GIB,
        "need_gib": {part: value / GIB for part, value in asdict(found.need).items()},
        "reference_tflop": found.reference_flops / 1e12,
        "step_tflop": found.step_flops / 1e12,
        "plain_reference_tflop": found.plain_reference / 1e12,
        "plain_step_tflop": found.plain_step / 1e12,
        "sent_mib": found.sent / 2**20,
        "transfers": found.transfers,
    }


def shares(one: dict[str, Any]) -> dict[str, float]:
    """Our FLOPs as a share of the plain form's: one epoch, three, and with references there
    already."""
    ours, theirs = one["step_tflop"], one["plain_step_tflop"] + one["plain_reference_tflop"]
    once = one["reference_tflop"]
    return {
        "one epoch": (once + ours) / theirs,
        "three epochs": (once + 3 * ours) / (3 * theirs),
        "cached": ours / theirs,
    }


def written(rows: Sequence[dict[str, Any]]) -> str:
    """The tables in Markdown."""
    lines = [
        "# Memory and FLOPs of training, counted",
        "",
        (
            "Counted with fake tensors, not measured on a device: what the program asks for; the"
            " allocator's fragmentation,"
        ),
        (
            "workspaces inside kernels and the device's context come on top. bfloat16 base, float32"
            " trained weights, two pieces"
        ),
        "a step, 600 tokens of image and prompt and two answers of 100 a pair. GiB a device.",
        "",
        (
            "| base | trains | activations | pairs at once | counted | estimated | ratio |"
            " reference pass | sent a step |"
        ),
        "|:--|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for one in rows:
        cells = [
            one["base"],
            one["trains"],
            "computed anew" if one["recomputed"] else "kept",
            str(one["pairs"]),
        ]
        cells += [f"{one[name]:.1f}" for name in ("counted_gib", "estimated_gib")]
        cells += [
            f"{one['ratio']:.3f}",
            f"{one['reference_gib']:.1f}",
            f"{one['sent_mib']:.1f} MiB in {one['transfers']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        (
            "FLOPs a pair (TFLOP), and ours as a share of the plain form, in which policy and"
            " reference run on both whole rows every"
        ),
        (
            "epoch. Pairs a second are those FLOPs at 45 % of 790 TFLOP/s for one epoch, references"
            " included: arithmetic, no"
        ),
        "measurement; the vision tower is left out.",
        "",
        (
            "| base | trains | activations | reference | step | one epoch | three epochs |"
            " references cached | pairs/s |"
        ),
        "|:--|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for one in rows:
        if one["pairs"] == 1:
            share = shares(one)
            speed = SHARE * PEAK / 1e12 / (one["reference_tflop"] + one["step_tflop"])
            lines.append(
                f"| {one['base']} | {one['trains']} |"
                f" {'computed anew' if one['recomputed'] else 'kept'} |"
                f" {one['reference_tflop']:.1f} | {one['step_tflop']:.1f} |"
                f" {' | '.join(f'{value:.2f}' for value in share.values())} | {speed:.1f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bases", nargs="+", default=["llava-1.5-7b", "llava-1.5-13b"], choices=list(SHAPES)[:2]
    )
    parser.add_argument("--out", type=Path, default=Path("results/benches"))
    given = parser.parse_args()
    rows = []
    for name, recipe, checkpointing, at_once in product(
        given.bases, (ADAPTED, FULL), (False, True), (1, 8)
    ):
        rows.append(row(name, recipe, checkpointing, at_once))
        print(json.dumps(rows[-1]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    found = {
        "what": "counted with fake tensors, not measured on a device",
        "versions": versions(),
        "rows": rows,
    }
    (given.out / "memory-7b.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.out / "memory-7b.md").write_text(text := written(rows), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
