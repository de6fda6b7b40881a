"""Record the calls that the methods' own code and the answering stage make.

``record`` runs every workload on LLaVA-1.5's made answers (``real``) or on the synthetic base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, Literal

from PIL import Image

from benchmarks import coco, yes_no
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
from methods.sena.method import Sena
from methods.sima.method import Sima
from tests.benches import made
from tests.benches.gpu_work import Kind

Texts = Literal["real", "synthetic"]
PICTURES = 24
METHODS = ("sena", "sima", "csr")
ANSWERING = ("pope", "mme", "chair")
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
            texts = [f"Is there a {name} in the image?\n{yes_no.REQUEST}" for name in names]
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
