"""Each family's tiny twin goes through pairs, training and answers: the same in any batch, equal to
plain forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.artifacts.fingerprint import describe
from harness.engine.clip_scorer import ClipScorer
from harness.engine.engine import Engine
from harness.engine.load import load_model, prompt_ids
from harness.models.base_cards import find_base
from harness.models.chat_format import renderer
from harness.training.pair_batches import encode, image_features, image_spans, pack
from harness.training.placement import Placement
from harness.training.policy import completion_logps
from harness.training.trainer import train_pairs
from methods.interface import Decoding, Item, Lora, Method, PreferencePair, Prompt, Recipe, Tools
from methods.sena import prompts as sena_prompts
from methods.sena.method import Sena
from methods.sima import prompts as sima_prompts
from methods.sima.method import Sima
from tests.engine.test_clip_scorer import tiny_clip
from tests.models.twins import CSR, TWINS
from tests.tiny_models import picture

SHAPES = ((60, 60), (40, 64), (72, 30))
PICTURES = [picture(index).resize(size) for index, size in enumerate(SHAPES)]
ITEMS = [
    Item(
        id=f"p{index}",
        image=image,
        question="what is in the picture ?",
        reference="a red ball and a box .",
    )
    for index, image in enumerate(PICTURES)
]
METHODS: dict[str, Method] = {
    "sena": Sena(prompts=sena_prompts.SYNTHETIC, check="none", question_tokens=8, answer_tokens=6),
    "sima": Sima(
        prompts=sima_prompts.SYNTHETIC,
        order="both",
        verdict="margin",
        response_tokens=6,
        critic_tokens=4,
    ),
    "csr": CSR,
}
PAIRS = [
    PreferencePair(
        key=f"k{index}",
        item=f"p{index}",
        prompt=text,
        chosen=chosen,
        rejected=rejected,
        aligned=index == 0,
    )
    for index, (text, chosen, rejected) in enumerate(
        [
            ("describe the picture", "a red ball on the left", "a green house"),
            ("what colour is the ball ?", "red", "green and yellow"),
            ("is there a cup in the picture ?", "no , there is a plate", "yes"),
        ]
    )
]


def images(item: str) -> Image.Image:
    return PICTURES[int(item[1:])]


@pytest.mark.equality
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", TWINS)
def test_every_method_makes_the_same_of_every_item_whatever_the_batch(
    family: str, name: str
) -> None:
    scorer = ClipScorer(*tiny_clip())
    made = []
    for size in (1, 16):
        engine = Engine(*TWINS[family](), batch_size=size)
        outcomes = list(METHODS[name].pairs(ITEMS, Tools(vlm=engine, scorer=scorer)))
        assert {outcome.item for outcome in outcomes} == {item.id for item in ITEMS}
        made.append([texts(describe(outcome)) for outcome in outcomes])
    assert made[0] == made[1]


def texts(value: Any) -> Any:
    """All but the numbers, which batches may change in their last digits."""
    if isinstance(value, dict):
        return {key: texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [texts(inner) for inner in value]
    return None if isinstance(value, float) else value


@pytest.mark.parametrize("family", TWINS)
def test_packed_pairs_score_as_transformers_own_forward_pass(family: str) -> None:
    model, processor = TWINS[family]()
    features = image_features(model, processor, PAIRS, images)
    spans = image_spans(model, processor, PAIRS, images)
    batch = pack(encode(PAIRS, processor, patches=spans, positions=512))
    with torch.no_grad():
        logps, _ = completion_logps(model, batch, features)
    words = renderer(processor)
    for row, (pair, side) in enumerate(
        [(pair, side) for side in ("chosen", "rejected") for pair in PAIRS]
    ):
        prompt = prompt_ids(model, processor, images(pair.item), pair.prompt)
        rendered = words.render_prompt(pair.prompt, True)
        [(_, answer)] = words.encode_pairs(
            [rendered], [words.render_completion(getattr(pair, side))]
        )
        ids = torch.tensor([[*prompt, *answer]])
        inputs = dict(processor.image_processor(images=[images(pair.item)], return_tensors="pt"))
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == processor.image_token_id).int()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[
                0, len(prompt) - 1 : -1
            ]
        expected = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()
        assert float(logps[row].sum()) == pytest.approx(float(expected), abs=2e-4)


@pytest.mark.parametrize("lora", [None, Lora(r=2, alpha=4)])
@pytest.mark.parametrize("family", TWINS)
def test_training_learns_saves_and_answers(family: str, lora: Lora | None, tmp_path: Path) -> None:
    model, processor = TWINS[family]()
    base = tmp_path / "base"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    card = find_base(str(base))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    recipe = Recipe(
        lr=5e-3,
        projector_lr=5e-3,
        epochs=4,
        global_batch=3,
        schedule="constant",
        alignment_weight=1.0,
        lora=lora,
    )
    train_pairs(
        model=model,
        processor=processor,
        pairs=PAIRS,
        images=images,
        recipe=recipe,
        seed=0,
        out=tmp_path / "out",
        placement=Placement(log_to=()),
        lora_targets=card.lora_targets,
    )
    log = [line for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines() if line]
    assert len(log) == 4
    trained, processor = load_model(card, weights=tmp_path / "out" / "model")
    after = dict(trained.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    tower = {
        name
        for name in before
        if "vision_tower" in name or ("visual" in name and "merger" not in name)
    }
    projector = {name for name in before if "multi_modal_projector" in name or "merger" in name}
    assert tower
    assert not moved & tower
    assert projector <= moved
    assert any("q_proj.weight" in name and "language_model" in name for name in moved)
    assert ("model.language_model.embed_tokens.weight" in moved) == (lora is None)

    def margin(of: Any) -> float:
        engine = Engine(of, processor)
        prompts = [
            Prompt(key=pair.key, text=pair.prompt, image=images(pair.item)) for pair in PAIRS
        ]
        chosen, rejected = (
            engine.logps(prompts, [getattr(pair, side) for pair in PAIRS])
            for side in ("chosen", "rejected")
        )
        return sum(chosen) - sum(rejected)

    assert margin(trained) > margin(load_model(card)[0]) + 1.0
    answers = Engine(trained, processor).generate(
        [Prompt(key="a", text="what ?", image=PICTURES[1])], Decoding(max_new_tokens=4)
    )
    assert answers[0].n_tokens > 0
