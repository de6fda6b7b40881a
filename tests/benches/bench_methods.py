"""Preference pairs a second: CSR and SIMA as they are, on the synthetic base, against loops of one
node and one prompt at a time.

Run: ``python -m tests.benches.bench_methods`` (``--pictures 24 --loop 8``). Both sides run the same
method on the world's development images; the loop hands the engine one prompt at a time, forgets
every image after it and scores one sentence at a time, as the authors' scripts do. The pairs must
be equal, every text of them. The figure is the ratio; absolute times belong to the machine it
prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL.Image import Image

from harness.artifacts.environment import hardware, versions
from harness.data.open_pool import open_pool
from harness.engine.clip_scorer import ClipScorer, find_scorer, load_scorer
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from methods.catalogue import METHODS
from methods.interface import (
    BeamSearch,
    Branch,
    Completion,
    Corrupt,
    Decoding,
    Method,
    PreferencePair,
    Prompt,
    Tools,
)


class OneByOne:
    """An engine that is asked for one prompt at a time and remembers no image."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def each(self, prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        for prompt in prompts:
            self.engine.prefix_cache.clear()
            yield [prompt]

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        return [
            self.engine.generate(one, decoding, corrupt=corrupt)[0] for one in self.each(prompts)
        ]

    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        return [self.engine.branch(one, branching)[0] for one in self.each(prompts)]

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [
            self.engine.logps(one, [text])[0]
            for one, text in zip(self.each(prompts), completions, strict=True)
        ]


class SentenceBySentence:
    """A scorer that is asked for one sentence at a time and looks at the image anew for each."""

    def __init__(self, scorer: ClipScorer) -> None:
        self.scorer = scorer

    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:
        found = []
        for image, sentence in zip(images, sentences, strict=True):
            self.scorer.embeddings.clear()
            found += self.scorer.relevance([image], [sentence])
        return found


def clock(vlm: Any) -> float:
    """Seconds: on an accelerator by the clock, on the CPU of processor time, which other work on
    the machine does not change."""
    engine = vlm.engine if isinstance(vlm, OneByOne) else vlm
    if engine.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def made(
    method: Method, vlm: Any, scorer: Any, ids: Sequence[str], pool: Any
) -> tuple[float, dict[str, Any]]:
    """Seconds, and what became of each key: texts alone, as log-probabilities may differ in their
    last bit."""
    began = clock(vlm)
    found = list(
        method.pairs(
            pool.items(ids, method.needs),
            Tools(vlm=vlm, scorer=scorer if "scorer" in method.needs else None),
        )
    )
    seconds = clock(vlm) - began
    texts = {
        one.key: (
            (one.prompt, one.chosen, one.rejected)
            if isinstance(one, PreferencePair)
            else one.reason
        )
        for one in found
    }
    return seconds, texts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument(
        "--loop", type=int, default=8, help="images for the loop; its time is scaled"
    )
    given = parser.parse_args()
    card = BASES["synthetic"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = load_model(card, device)
    pool = open_pool("synthetic")
    ids = pool.draw(given.pictures, 0, 1).ids
    few = ids[: given.loop]
    wrong = []
    for name in ("csr", "sima"):
        method: Any = METHODS[name].synthetic
        scorer = load_scorer(find_scorer(None, card), device)
        made(method, Engine(model, processor), scorer, few[:1], pool)  # warm
        scorer.embeddings.clear()
        ours, texts = made(method, Engine(model, processor), scorer, ids, pool)
        scorer.embeddings.clear()
        alone = Engine(
            model, processor, batch_size=method.candidates if name == "csr" else 1, shared_bytes=0
        )
        loop, theirs = made(method, OneByOne(alone), SentenceBySentence(scorer), few, pool)
        pairs = sum(isinstance(value, tuple) for value in texts.values())
        equal = sum(texts[key] == value for key, value in theirs.items()) / len(theirs)
        wrong += [] if equal == 1.0 else [name]
        ratio = (loop / len(few)) / (ours / len(ids))
        print(
            f"{name}: {pairs} pairs from {len(ids)} images in {ours:.2f} s ({pairs / ours:.2f}"
            f" pairs/s); one at a time {loop:.2f} s for {len(few)} images: {ratio:.1f}x; equal"
            f" pairs and drops {equal:.2%}"
        )
    print(json.dumps({"threads": torch.get_num_threads(), **hardware(), **versions()}))
    if wrong:
        sys.exit(
            f"Pairs differ from one at a time: {', '.join(wrong)}. Batching is wrong, whatever its"
            " speed."
        )


if __name__ == "__main__":
    main()
