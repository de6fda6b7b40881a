"""Replaying recorded calls with forced lengths: by the engine as it is, and a prompt at a time,
every image encoded anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from harness.engine.clip_scorer import ClipScorer
from harness.engine.decode import Row, Running, sample, uniform
from harness.engine.engine import Engine, Planned
from harness.models.chat_format import renderer
from methods.interface import BeamSearch, Corrupt, Decoding, Prompt
from tests.benches.bench_methods import SentenceBySentence
from tests.benches.gpu_work import Call

Answer = list[str] | float
"""A prompt's texts (several where it branches), or its completion's log-probability."""

CLOSE = 1e-3
"""Nats, and hundredths of CLIP's cosine: scores nearer than this are the same."""


class Forced(Engine):
    """An engine whose answers end at the lengths it is told (``lengths``, by prompts' keys), and by
    nothing else."""

    def __init__(self, model: Any, processor: Any, **settings: Any) -> None:
        super().__init__(model, processor, **settings)
        self.ends = frozenset()
        self.lengths: Mapping[str, int] = {}

    def windows(
        self, plans: Sequence[Planned], pictures: dict[str, Image], corrupt: Corrupt | None
    ) -> Iterator[tuple[list[int], list[Row]]]:
        for places, rows in super().windows(plans, pictures, corrupt):
            yield places, [replace(row, most=self.lengths.get(row.key)) for row in rows]


def run(engine: Forced, calls: Sequence[Call]) -> list[Answer]:
    """Every prompt's answer."""
    answers: list[Answer] = []
    for call in calls:
        engine.lengths = call.most
        if call.kind == "logps":
            answers += engine.logps(call.prompts, call.completions)
        elif isinstance(call.how, BeamSearch):
            found = engine.branch(call.prompts, replace(call.how, stop=()))
            answers += [[one.text for one in some] for some in found]
        else:
            told = engine.generate(call.prompts, replace(call.how, stop=()), corrupt=call.corrupt)
            answers += [[one.text] for one in told]
    return answers


def one_by_one(alone: Forced, processor: Any, calls: Sequence[Call]) -> list[Answer]:
    """The same, a prompt at a time: ``model.generate`` for answers, a plain forward pass for
    log-probabilities; for branches, which transformers does not search any more, our own search of
    one node, by the engine ``alone`` that keeps nothing."""
    model, render, answers = alone.model, renderer(processor), list[Answer]()
    for call in calls:
        alone.lengths = call.most
        for prompt, completion in zip(
            call.prompts, call.completions or [""] * len(call.prompts), strict=True
        ):
            if call.kind == "logps":
                answers.append(plain_logp(model, processor, prompt, completion))
            elif isinstance(call.how, BeamSearch):
                alone.sharing.clear()
                answers.append(
                    [one.text for one in alone.branch([prompt], replace(call.how, stop=()))[0]]
                )
            else:
                given = inputs(
                    model,
                    processor,
                    render.render_prompt(prompt.text, prompt.image is not None, prompt.prefix),
                    prompt,
                )
                if call.corrupt is not None:
                    noised = call.corrupt(given["pixel_values"][0].float(), prompt.key)
                    given["pixel_values"] = noised[None].to(model.dtype)
                start = given["input_ids"].shape[1]
                drawn = (
                    [OurSampling(call.how, prompt.key, start, model.device)]
                    if call.how.temperature
                    else []
                )
                length = call.most[prompt.key]
                ids = model.generate(
                    **given,
                    max_new_tokens=length,
                    do_sample=False,
                    eos_token_id=None,
                    logits_processor=drawn,
                )
                answers.append(
                    [processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()]
                )
    return answers


class OurSampling:
    """A processor of logits that leaves one token: the one that the engine draws for this key at
    this step, so that sampled answers can be compared too."""

    def __init__(self, decoding: Decoding, key: str, start: int, device: torch.device) -> None:
        self.decoding, self.start = decoding, start
        draws = uniform([Row(key=key, tail=(), prefix=None)], decoding, device)
        assert draws is not None
        self.draws = draws

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        chosen = sample(scores.float(), self.decoding, self.draws[:, ids.shape[1] - self.start])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def inputs(model: Any, processor: Any, text: str, prompt: Prompt) -> Any:
    given = processor(
        images=prompt.image, text=text, return_tensors="pt", add_special_tokens=False
    ).to(model.device)
    given["pixel_values"] = given["pixel_values"].to(model.dtype)
    return given


def plain_logp(model: Any, processor: Any, prompt: Prompt, completion: str) -> float:
    """The completion's summed log-probability by one forward pass over prompt and completion."""
    render = renderer(processor)
    asked = render.render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
    told = render.render_completion(completion, prompt.prefix)
    ((_, new),) = render.encode_pairs([asked], [told])
    with torch.inference_mode():
        logits = model(**inputs(model, processor, asked + told, prompt)).logits[
            0, -len(new) - 1 : -1
        ]
    return float(
        logits.float()
        .log_softmax(-1)
        .gather(1, torch.tensor(new, device=logits.device)[:, None])
        .sum()
    )


def same(ours: Answer, theirs: Answer) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) < CLOSE
    return ours == theirs


def logit_difference(processor: Any, engine: Engine, calls: Sequence[Call]) -> float | None:
    """The largest difference of a first token's logits between the shared batch and a plain forward
    pass, over the greedy and sampled answers on clean images; None where there are none."""

    def first(rows: Sequence[Row]) -> list[Tensor]:
        return list(Running(engine.speaker, rows, 1).logits())

    model, render, found = engine.model, renderer(processor), list[float]()
    for call in calls:
        if call.kind != "generate" or call.corrupt is not None:
            continue
        with torch.inference_mode():
            shared = engine.written(call.prompts, first, None, new=1)
            for prompt, (_, logits) in zip(call.prompts, shared, strict=True):
                text = render.render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
                plain = model(**inputs(model, processor, text, prompt)).logits[0, -1]
                found.append(float((plain.float() - logits).abs().max()))
    return max(found, default=None)


def tokens(processor: Any, calls: Sequence[Call], patches: int) -> tuple[int, int]:
    """Prompt tokens as one prompt at a time reads them, each with its image, and new tokens, each
    candidate's counted."""
    render, asked, new = renderer(processor), 0, 0
    for call in calls:
        rendered = [
            render.render_prompt(one.text, one.image is not None, one.prefix)
            for one in call.prompts
        ]
        asked += sum(len(ids) - 1 + patches for ids in render.encode(rendered))
        new += sum(call.most.values()) * (
            call.how.num_beams if isinstance(call.how, BeamSearch) else 1
        )
    return asked, new


def relevance(scorer: ClipScorer, calls: Sequence[Call]) -> list[Answer]:
    """Every sentence's relevance, as CSR asks for them: all in one call."""
    return [value for call in calls for value in scorer.relevance(*sides(call))]


def relevance_alone(scorer: ClipScorer, calls: Sequence[Call]) -> list[Answer]:
    """The same, a sentence at a time, its image embedded anew."""
    return [value for call in calls for value in SentenceBySentence(scorer).relevance(*sides(call))]


def sides(call: Call) -> tuple[list[Image], list[str]]:
    return [one.image for one in call.prompts if one.image is not None], [
        one.text for one in call.prompts
    ]
