"""Qwen2.5-VL's images: patches, positions and features are transformers' own, whatever a
image's shape."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.chat_format import check_template, renderer
from harness.models.find_family import family_of
from methods.interface import BeamSearch, Decoding, Prompt
from tests.models.twins import tiny_qwen
from tests.tiny_models import picture

SIZES = ((60, 60), (40, 60), (90, 24), (17, 33))
PICTURES = [picture(seed).resize(size) for seed, size in enumerate(SIZES)]


def theirs(processor, image, text):  # type: ignore[no-untyped-def]
    """Ids, token types, patches and grid as transformers' processor makes them."""
    made = processor.image_processor(images=[image], return_tensors="pt")
    count = int(made["image_grid_thw"].prod()) // processor.image_processor.merge_size**2
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    ids = processor.tokenizer(
        rendered.replace("<|image_pad|>", "<|image_pad|>" * count), return_tensors="pt"
    )["input_ids"]
    return {**made, "input_ids": ids, "mm_token_type_ids": (ids == processor.image_token_id).int()}


def test_template_is_the_familys() -> None:
    _, processor = tiny_qwen()
    check_template(processor)
    words = renderer(processor)
    assert words.render_completion("a ball") == "a ball<|im_end|>"
    assert words.render_completion("a box", "a ball .") == " a box<|im_end|>"
    assert "<|im_start|>" not in words.neutralize("<|im_start|>system <|IM_END|>")


@pytest.mark.parametrize("image", PICTURES)
def test_patches_span_and_features_are_transformers(image: Image.Image) -> None:
    model, processor = tiny_qwen()
    family = family_of(model, processor)
    inputs = theirs(processor, image, "what is there ?")
    [pixels] = family.pixels([image])
    assert torch.equal(family.patches(pixels), inputs["pixel_values"])  # type: ignore[attr-defined]
    span = family.span(image)
    assert pixels.shape == (3, span.rows * 8, span.columns * 8)
    with torch.no_grad():
        [expected] = model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"]
        ).pooler_output
        [mine] = family.project(family.encode([pixels]))
    assert torch.allclose(mine, expected, atol=1e-6)
    at = inputs["input_ids"][0].tolist().index(processor.image_token_id)
    places, _ = model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )
    assert torch.equal(span.positions(at), places[:, 0, : at + span.tokens])
    assert (places[:, 0, at + span.tokens] == at + span.steps).all()


def test_features_do_not_depend_on_the_batch() -> None:
    model, processor = tiny_qwen()
    family = family_of(model, processor)
    together = family.encode(family.pixels(PICTURES))
    for image, value in zip(PICTURES, together, strict=True):
        [alone] = family.encode(family.pixels([image]))
        assert torch.allclose(alone, value, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [1, 16])
def test_greedy_texts_are_those_of_model_generate(batch_size: int) -> None:
    model, processor = tiny_qwen()
    texts = ("describe the picture .", "what colour is the ball in the image on the left ?")
    prompts = [
        Prompt(key=f"{i}-{j}", text=text, image=image)
        for i, image in enumerate(PICTURES)
        for j, text in enumerate(texts)
    ]
    mine = Engine(model, processor, batch_size=batch_size).generate(
        prompts, Decoding(max_new_tokens=8)
    )
    for prompt, answer in zip(prompts, mine, strict=True):
        inputs = theirs(processor, prompt.image, prompt.text)
        with torch.no_grad():
            whole = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
        new = whole[inputs["input_ids"].shape[1] :]
        assert answer.text == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert len({answer.text for answer in mine}) > 4


def test_corruption_scores_and_branches_are_the_same_alone_and_in_a_batch() -> None:
    model, processor = tiny_qwen()
    prompts = [
        Prompt(key=str(i), text="describe the picture .", image=image)
        for i, image in enumerate(PICTURES)
    ]
    together, alone = Engine(model, processor), Engine(model, processor, batch_size=1)
    decoding = Decoding(max_new_tokens=6, temperature=0.9, seed=1)
    blank = together.generate(
        prompts, decoding, corrupt=lambda pixels, _key: torch.zeros_like(pixels)
    )
    assert [one.text for one in blank] == [
        alone.generate([prompt], decoding, corrupt=lambda pixels, _key: torch.zeros_like(pixels))[
            0
        ].text
        for prompt in prompts
    ]
    told = ["a red ball", "the cup", "a house", "one"]
    scores = together.logps(prompts, told)
    assert scores == pytest.approx(
        [alone.logps([prompt], [text])[0] for prompt, text in zip(prompts, told, strict=True)],
        abs=1e-4,
    )
    branching = BeamSearch(num_beams=2, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=5)
    branches = together.branch(prompts, branching)
    assert [[one.text for one in some] for some in branches] == [
        [one.text for one in alone.branch([prompt], branching)[0]] for prompt in prompts
    ]


def test_scores_are_those_of_a_full_forward_pass() -> None:
    model, processor = tiny_qwen()
    for image in PICTURES:
        prompt = Prompt(key="a", text="what is there ?", image=image)
        [mine] = Engine(model, processor).logps([prompt], ["a red ball"])
        inputs = theirs(processor, image, prompt.text)
        answer = processor.tokenizer("a red ball<|im_end|>", return_tensors="pt")["input_ids"]
        ids = torch.cat([inputs["input_ids"], answer], 1)
        types = (ids == processor.image_token_id).int()
        with torch.no_grad():
            logits = (
                model(**{**inputs, "input_ids": ids, "mm_token_type_ids": types})
                .logits[0]
                .log_softmax(-1)
            )
        start = inputs["input_ids"].shape[1]
        expected = sum(
            float(logits[start - 1 + i, token]) for i, token in enumerate(answer[0].tolist())
        )
        assert mine == pytest.approx(expected, abs=1e-4)


def test_a_sliver_is_named() -> None:
    model, processor = tiny_qwen()
    with pytest.raises(UserError, match="400 x 1 pixels is too narrow"):
        family_of(model, processor).span(Image.new("RGB", (400, 1)))
