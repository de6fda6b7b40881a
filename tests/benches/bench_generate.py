"""What batching and sharing are worth: the engine against a loop of ``model.generate``, the same
prompts, in one run.

Run: ``python -m tests.benches.bench_generate`` (``--pictures 40``; on an accelerator ``--device
cuda``). The world's questions on its development images: 14 short answers and 2 captions a
image. Without the embedded weights it is a random model of their size, which never ends an answer
by itself. The figure is the ratio; absolute times belong to the machine it prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.interface import Question
from benchmarks.synthetic import suite, words
from harness.artifacts.environment import hardware, versions
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from harness.models.chat_format import renderer
from harness.synthetic.architecture import Sizes, build_llava, build_processor, build_tokenizer
from methods.interface import Decoding, Prompt

Job = tuple[Decoding, Sequence[Prompt]]


def model_and_processor(device: str) -> tuple[Any, Any, str]:
    card = BASES["synthetic"]
    if (Path(card.source) / "config.json").is_file():
        return (*load_model(card, device), "embedded weights")
    torch.manual_seed(0)
    tokenizer, sizes = build_tokenizer(words.vocabulary()), Sizes()
    return (
        build_llava(tokenizer, sizes).to(device),
        build_processor(tokenizer, sizes),
        "random weights",
    )


def questions(pictures: int) -> Iterator[Question]:
    for benchmark in (suite.pope, suite.visual_questions, suite.chair, suite.chair_short):
        yield from benchmark("dev", pictures).questions()


def jobs(pictures: int) -> list[Job]:
    """The questions as the answering stage sends them: one call for each cap on new tokens."""
    by_cap: dict[int, list[Prompt]] = {}
    for number, asked in enumerate(questions(pictures)):
        prompts = by_cap.setdefault(asked.max_new_tokens, [])
        prompts.append(
            Prompt(
                key=f"{number}", text=asked.text, image=asked.images[0] if asked.images else None
            )
        )
    return [(Decoding(max_new_tokens=cap), prompts) for cap, prompts in by_cap.items()]


def one_by_one(model: Any, processor: Any, work: Sequence[Job]) -> list[str]:
    words_of, texts = renderer(processor), []
    for decoding, prompts in work:
        for prompt in prompts:
            text = words_of.render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
            given = processor(
                images=prompt.image, text=text, return_tensors="pt", add_special_tokens=False
            ).to(model.device)
            ids = model.generate(**given, max_new_tokens=decoding.max_new_tokens, do_sample=False)
            texts.append(
                processor.tokenizer.decode(
                    ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True
                ).strip()
            )
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model, processor, weights = model_and_processor(given.device)
    work = jobs(given.pictures)
    engine = Engine(model, processor, batch_size=given.batch_size)
    one_by_one(
        model, processor, [(decoding, prompts[:2]) for decoding, prompts in work]
    )  # both sides warm
    Engine(model, processor).generate(work[0][1][:4], work[0][0])

    clocks = [(time.perf_counter(), time.process_time())]
    ours = [answer for decoding, prompts in work for answer in engine.generate(prompts, decoding)]
    clocks.append((time.perf_counter(), time.process_time()))
    theirs = one_by_one(model, processor, work)
    clocks.append((time.perf_counter(), time.process_time()))
    (seconds, busy), (loop, loop_busy) = (
        [b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(clocks)
    )

    equal = sum(answer.text == text for answer, text in zip(ours, theirs, strict=True)) / len(ours)
    mix = ", ".join(
        f"{len(prompts)} of at most {decoding.max_new_tokens} tokens" for decoding, prompts in work
    )
    print(
        f"{len(ours)} prompts on {given.pictures} images ({mix}), {engine.tokens_generated}"
        f" tokens, {weights}"
    )
    print(
        f"engine {seconds:.2f} s, model.generate one by one {loop:.2f} s: {loop / seconds:.1f}x;"
        f" equal texts {equal:.2%}"
    )
    # On a machine with other work, processor time says more than the clock.
    print(
        f"processor time: engine {busy:.2f} s, one by one {loop_busy:.2f} s:"
        f" {loop_busy / busy:.1f}x"
    )
    print(json.dumps({"threads": torch.get_num_threads(), **hardware(), **versions()}))
    if equal < 0.99:
        sys.exit("The texts differ: the engine is wrong, whatever its speed.")


if __name__ == "__main__":
    main()
