"""The calls that the methods' own code makes, with the lengths of their answers, for replaying.

    python -m tests.benches.recorded            writes tests/benches/recorded/ anew (about a minute)

Of ``PICTURES`` images a workload: how many calls a method makes, on which images, with which
decoding settings and prompt texts (sets REAL and SYNTHETIC), what its filters drop on the way, CSR's
tree with the nodes it keeps a level, the sentences its CLIP reads, SIMA's critic as it is set, the
pairs that come out. ``world`` is the synthetic base itself on the world's pool and development
split, with the settings of the comparison: its prompts, answers and lengths are real, and stored in
``recorded/world``.

``real`` is not stored. The answers of LLaVA-1.5 are made (tests/benches/made.py: no model of that
size runs where this was written), and so are their lengths, which are 1.3 tokens a word and one for
the end; the pool's questions and references, in the manner of LLaVA-Instruct; and the benchmarks'
objects, asked about in POPE's and MME's words (CHAIR's prompt is the benchmark's own). So the
methods' code runs on them again in a second, and ``recorded/real.json`` holds a digest of each
workload's calls: a test compares it, because figures of two days can only be compared on the same
calls. That CSR's texts go on until they are ``max_chars`` long is what its default settings do with
any answers: an ended text takes the place of one candidate of five.

A file holds a line a call, ``{"call", "kind", "how", "corrupt"}``, and behind it a line a prompt:
``{"key", "picture", "text", "prefix", "tokens"}``, the last how many new tokens each of its answers
had. A prefix that goes on an earlier prompt's is stored as what it adds, with that prompt's key as
``behind``. ``pairs.jsonl`` holds the pairs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

from PIL import Image

from benchmarks import coco
from benchmarks import pope as official_pope
from benchmarks.interface import Benchmark, Question
from benchmarks.synthetic import suite
from methods.csr.method import Csr
from methods.interface import (
    BeamSearch,
    BeamSearchVLM,
    Branch,
    Completion,
    Corrupt,
    Decoding,
    Dropped,
    Item,
    Method,
    PreferencePair,
    Prompt,
    Scorer,
    Tools,
)
from methods.sena.corruption import corruption
from methods.sena.method import Sena
from methods.sima.method import Sima
from tests.benches import made
from tests.benches.gpu_work import Call, Kind

Texts = Literal["real", "synthetic"]
FOLDER = Path(__file__).parent / "recorded"
PICTURES = 24
METHODS = ("sena", "sima", "csr")
ANSWERING = ("pope", "mme", "chair")
WORK = (*METHODS, *ANSWERING)
CLIP = "clip"
"""The workload of CSR's calls to its image-text model."""
REAL: Mapping[str, Method] = {"sena": Sena(), "sima": Sima(), "csr": Csr()}

Line = dict[str, Any]


class Recorder:
    """A BeamSearchVLM and Scorer that hands every call on and writes it down. Images are numbered
    as they are first seen."""

    def __init__(
        self, work: str, vlm: BeamSearchVLM, scorer: Scorer, corrupt: Line | None = None
    ) -> None:
        self.work, self.vlm, self.scorer, self.corrupt = work, vlm, scorer, corrupt
        self.calls: list[tuple[Line, list[Line]]] = []
        self.pictures: list[Image.Image] = []

    def number(self, image: Image.Image | None) -> int:
        if image is None:
            raise ValueError("A prompt without an image; the recordings have none.")
        for number, known in enumerate(self.pictures):
            if known is image:
                return number
        self.pictures.append(image)
        return len(self.pictures) - 1

    def note(
        self,
        kind: Kind,
        prompts: Sequence[Prompt],
        lengths: Sequence[Sequence[int]],
        how: Any = None,
        **more: Any,
    ) -> None:
        head: Line = {
            "call": f"{self.work} {kind} {1 + sum(one['kind'] == kind for one, _ in self.calls)}",
            "kind": kind,
        }
        head |= {"how": None if how is None else asdict(how), "corrupt": more.pop("corrupt", None)}
        lines = []
        for place, (prompt, tokens) in enumerate(zip(prompts, lengths, strict=True)):
            line = {"key": prompt.key, "picture": self.number(prompt.image), "text": prompt.text}
            line |= {"prefix": prompt.prefix} if prompt.prefix else {}
            line |= {name: values[place] for name, values in more.items()}
            lines.append(line | ({"tokens": list(tokens)} if tokens else {}))
        self.calls.append((head, lines))

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        answers = self.vlm.generate(prompts, decoding, corrupt=corrupt)
        self.note(
            "generate",
            prompts,
            [[one.n_tokens] for one in answers],
            decoding,
            corrupt=self.corrupt if corrupt else None,
        )
        return answers

    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        found = self.vlm.branch(prompts, branching)
        # The end of the text, where it is apart, takes no step of its own.
        self.note(
            "branch",
            prompts,
            [[one.n_tokens for one in some[: branching.num_beams]] for some in found],
            branching,
        )
        return found

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        self.note("logps", prompts, [()] * len(prompts), completion=list(completions))
        return self.vlm.logps(prompts, completions)

    def relevance(self, images: Sequence[Image.Image], sentences: Sequence[str]) -> list[float]:
        asked = [
            Prompt(key=f"{place}", text=text, image=image)
            for place, (image, text) in enumerate(zip(images, sentences, strict=True))
        ]
        self.note("relevance", asked, [()] * len(asked))
        return self.scorer.relevance(images, sentences)


def record_method(
    work: str, method: Method, items: Sequence[Item], vlm: BeamSearchVLM, scorer: Scorer
) -> tuple[Recorder, list[PreferencePair | Dropped]]:
    """A method's calls on these items, and what came of them."""
    noise = (
        {"kind": method.corruption, "noise_step": method.noise_step}
        if isinstance(method, Sena)
        else None
    )
    recorder = Recorder(work, vlm, scorer, noise)
    asked = recorder if "scorer" in method.needs else None
    return recorder, list(method.pairs(items, Tools(vlm=recorder, scorer=asked)))


def record_answering(
    work: str, questions: Sequence[Question], vlm: BeamSearchVLM, scorer: Scorer
) -> Recorder:
    """A benchmark's questions as the answering stage asks them."""
    recorder = Recorder(work, vlm, scorer)
    prompts = [Prompt(key=one.id, text=one.text, image=one.images[0]) for one in questions]
    (cap,) = {one.max_new_tokens for one in questions}
    recorder.generate(prompts, Decoding(max_new_tokens=cap))
    return recorder


def real_items(count: int) -> list[Item]:
    found = []
    for number in range(count):
        question, reference = made.item_texts(number)
        found.append(
            Item(
                id=f"picture{number:02d}",
                image=made.picture(number),
                question=question,
                reference=reference,
            )
        )
    return found


def real_questions(work: str, count: int) -> list[Question]:
    """Eighteen of POPE's questions an image (three settings of six), two of MME's, CHAIR's one."""
    found = []
    for number in range(count):
        image, rng = (made.picture(number),), Random(f"{work} {number}")
        if work == "pope":
            names = rng.sample(made.THINGS, 18)
            texts = [f"Is there a {name} in the image?\n{official_pope.REQUEST}" for name in names]
        elif work == "mme":
            names = rng.sample(made.THINGS, 2)
            texts = [
                f"Is there a {name} {rng.choice(made.PLACES)} in this image? Please answer yes"
                " or no."
                for name in names
            ]
        else:
            texts = [coco.PROMPT]
        cap = 512 if work == "chair" else 32
        found += [
            Question(
                id=f"picture{number:02d}/{place}",
                images=image,
                text=text,
                max_new_tokens=cap,
                cluster=f"{number}",
            )
            for place, text in enumerate(texts)
        ]
    return found


def world_questions(work: str, count: int) -> list[Question]:
    """The world's own; in MME's place its visual questions, the first two an image."""
    benchmarks: dict[str, Callable[..., Benchmark]] = {
        "pope": suite.pope,
        "mme": suite.visual_questions,
        "chair": suite.chair,
    }
    asked = list(benchmarks[work]("dev", count).questions())
    if work != "mme":
        return asked
    seen: dict[str, int] = {}
    return [
        one
        for one in asked
        if seen.setdefault(one.cluster, 0) < 2
        and not seen.update({one.cluster: seen[one.cluster] + 1})
    ]


def record(texts: Texts, count: int) -> tuple[dict[str, Recorder], list[Line]]:
    """Every workload on the first ``count`` images, and the pairs made."""
    vlm: BeamSearchVLM
    scorer: Scorer
    if texts == "real":
        vlm, scorer = made.MadeVLM(), made.MadeVLM()
        methods, items, questions = REAL, real_items(count), real_questions
    else:
        from harness.data.open_pool import open_pool
        from harness.engine.clip_scorer import find_scorer, load_scorer
        from harness.engine.engine import Engine
        from harness.engine.load import load_model
        from harness.models.base_cards import BASES
        from methods.catalogue import METHODS as CATALOGUE

        vlm, scorer = (
            Engine(*load_model(BASES["synthetic"])),
            load_scorer(find_scorer(None, BASES["synthetic"])),
        )
        pool = open_pool("synthetic")
        items = list(
            pool.items(
                pool.draw(PICTURES, 0, 1).ids[:count], frozenset({"image", "question", "reference"})
            )
        )
        methods = {name: entry.synthetic for name, entry in CATALOGUE.items()}
        questions = world_questions
    recorders, pairs = {}, []
    for work in METHODS:
        recorders[work], found = record_method(work, methods[work], items, vlm, scorer)
        places = {item.id: place for place, item in enumerate(items)}
        pairs += [
            {
                "method": work,
                "picture": places[one.item],
                "prompt": one.prompt,
                "chosen": one.chosen,
                "rejected": one.rejected,
            }
            for one in found
            if isinstance(one, PreferencePair)
        ]
    for work in ANSWERING:
        recorders[work] = record_answering(work, questions(work, count), vlm, scorer)
    return recorders, pairs


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
    return sum(line["method"] == method for line in made_pairs(shape)) / PICTURES


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
