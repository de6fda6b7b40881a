"""The recorded calls of the methods' own code, with the lengths of their answers, for replaying.

    python -m tests.benches.recorded            writes tests/benches/recorded/ anew (about a minute)

A workload has ``PICTURES`` images. The recording holds each call that a method makes: its images,
its decoding settings and its prompt texts (sets REAL and SYNTHETIC). It holds also what the filters
drop, CSR's tree with the nodes kept at each level, the sentences that its CLIP reads, SIMA's critic
with its settings, and the pairs. tests/benches/recording.py makes it.

``synthetic`` is the synthetic base on the synthetic pool and the development split, with the
settings of the comparison. Its prompts, answers and lengths are real; ``recorded/synthetic`` stores
them.

``real`` is not stored. No model of LLaVA-1.5's size runs where this was written, so its answers and
their lengths are made (tests/benches/made.py): 1.3 tokens a word and one for the end. The pool's
questions and references are in the manner of LLaVA-Instruct. The benchmarks' objects are asked
about in POPE's and MME's words (CHAIR's prompt is the benchmark's own). The methods' code runs on
them again in a second. ``recorded/real.json`` holds a digest of each workload's calls, and a test
compares it: only the same calls make figures of two days comparable. CSR's texts go on until they
are ``max_chars`` long. Its default settings do so with any answers: an ended text takes the place
of one candidate of five.

A file holds a line for each call, ``{"call", "kind", "how", "corrupt"}``, and behind it a line for
each prompt: ``{"key", "picture", "text", "prefix", "tokens"}``. ``tokens`` is the number of new
tokens of each of its answers. A prefix that continues an earlier prompt's is stored as what it
adds, with that prompt's key as ``behind``. ``pairs.jsonl`` holds the pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image

from methods.interface import (
    BeamSearch,
    Decoding,
    PreferencePair,
    Prompt,
)
from methods.sena.corruption import corruption
from tests.benches.gpu_work import Call
from tests.benches.recording import ANSWERING, METHODS, PICTURES, Line, Texts, record

FOLDER = Path(__file__).parent / "recorded"
WORK = (*METHODS, *ANSWERING)
CLIP = "clip"
"""The workload of CSR's calls to its image-text model."""


def packed(prompts: Sequence[Line], known: dict[str, Line]) -> Iterator[Line]:
    """The prompts, prefixes stored as what they add to the longest of the ``known`` prompts' (by
    key, of the same image)."""
    for line in prompts:
        prefix = line.get("prefix", "")
        begun = [
            one
            for one in known.values()
            if one["picture"] == line["picture"] and prefix.startswith(one["prefix"])
        ]
        if begun:
            longest = max(begun, key=lambda one: len(one["prefix"]))
            yield line | {"prefix": prefix[len(longest["prefix"]) :], "behind": longest["key"]}
        else:
            yield line
    known |= {line["key"]: line for line in prompts if line.get("prefix")}


def read(texts: Texts, work: str) -> list[tuple[Line, list[Line]]]:
    """A workload's calls, each with its prompts."""
    if texts == "real":
        return real()[0][work]
    found: list[tuple[Line, list[Line]]] = []
    known: dict[str, str] = {}
    for line in lines(work):
        if "call" in line:
            found.append((line, []))
            continue
        whole = {name: value for name, value in line.items() if name != "behind"}
        if "behind" in line:
            whole["prefix"] = known[line["behind"]] + line["prefix"]
        known[line["key"]] = whole.get("prefix", "")
        found[-1][1].append(whole)
    return found


@cache
def lines(name: str) -> tuple[Line, ...]:
    """The lines of a stored file of the synthetic base."""
    text = (FOLDER / "synthetic" / f"{name}.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@cache
def real() -> tuple[dict[str, list[tuple[Line, list[Line]]]], tuple[Line, ...]]:
    """The calls about LLaVA-1.5's made answers by workload, and the pairs."""
    recorders, found = record("real", PICTURES)
    # As they would be read from a file: no tuples, so that the digest is of the same text.
    plain = {work: json.loads(json.dumps(one.calls)) for work, one in recorders.items()}
    return {work: [tuple(call) for call in some] for work, some in plain.items()}, tuple(found)


def digests() -> dict[str, str]:
    """A digest of the real texts' calls, by workload, and of the pairs."""
    calls_of, some = real()
    return {
        name: hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
        for name, found in (calls_of | {"pairs": some}).items()
    }


def texts_of(shape: str) -> Texts:
    """Which recording a shape of model takes: the synthetic base its own, all others
    LLaVA-1.5's."""
    return "synthetic" if shape == "tiny" else "real"


def calls(work: str, images: Sequence[Image.Image], shape: str) -> list[Call]:
    """A workload's recorded calls with these images in place of the recorded ones, as often over
    as there are images.

    A tile's keys begin with its number. ``work``: one of ``WORK``, without calls to an image-text
    model, or ``CLIP`` for those. A call none of whose recorded images is here is left out."""
    found = []
    for head, prompts in read(texts_of(shape), "csr" if work == CLIP else work):
        if (head["kind"] == "relevance") != (work == CLIP):
            continue
        tiled = [
            (tile * PICTURES + line["picture"], tile, line)
            for tile in range(-(-len(images) // PICTURES))
            for line in prompts
            if tile * PICTURES + line["picture"] < len(images)
        ]
        if not tiled:
            continue
        found.append(
            Call(
                name=head["call"],
                kind=head["kind"],
                prompts=[
                    Prompt(
                        key=f"{tile}:{line['key']}",
                        text=line["text"],
                        image=images[place],
                        prefix=line.get("prefix", ""),
                    )
                    for place, tile, line in tiled
                ],
                how=settings(head),
                corrupt=corruption(**head["corrupt"]) if head["corrupt"] else None,
                lengths=tuple(tuple(line.get("tokens", ())) for _, _, line in tiled),
                completions=tuple(line.get("completion", "") for _, _, line in tiled),
            )
        )
    return found


def settings(head: Line) -> Decoding | BeamSearch:
    """A call's decoding settings; of one that writes nothing, greedy decoding of one token."""
    if head["how"] is None:
        return Decoding(max_new_tokens=1)
    how = head["how"] | {"stop": tuple(head["how"]["stop"])}
    return BeamSearch(**how) if head["kind"] == "branch" else Decoding(**how)


def made_pairs(shape: str) -> tuple[Line, ...]:
    return real()[1] if texts_of(shape) == "real" else lines("pairs")


def pairs_an_image(method: str, shape: str) -> float:
    """How many pairs a method's recording makes of an image."""
    return sum(1 for line in made_pairs(shape) if line["method"] == method) / PICTURES


def pairs(count: int, images: int, shape: str) -> list[PreferencePair]:
    """The recorded pairs, as often over as it takes for ``count``; each item is the number of one
    of ``images`` images."""
    kept = tuple(
        sorted(made_pairs(shape), key=lambda line: Random(json.dumps(line)).random())
    )  # the methods mixed, in an order of no meaning
    found = []
    for number in range(count):
        line, tile = kept[number % len(kept)], number // len(kept)
        found.append(
            PreferencePair(
                key=f"{number:05d}",
                item=f"{(tile * PICTURES + line['picture']) % images}",
                prompt=line["prompt"],
                chosen=line["chosen"],
                rejected=line["rejected"],
            )
        )
    return found


def write() -> Iterator[Path]:
    """Record and write the synthetic base's calls and digests of the others; yields each file."""
    folder = FOLDER / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    recorders, found = record("synthetic", PICTURES)
    files = {}
    for work, recorder in recorders.items():
        known: dict[str, Line] = {}
        files[work] = [
            one for head, prompts in recorder.calls for one in (head, *packed(prompts, known))
        ]
    for name, some in (files | {"pairs": found}).items():
        path = folder / f"{name}.jsonl"
        path.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in some), encoding="utf-8"
        )
        yield path
    path = FOLDER / "real.json"
    path.write_text(json.dumps(digests(), indent=1) + "\n")
    yield path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    for path in write():
        print(f"{path.relative_to(FOLDER)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
