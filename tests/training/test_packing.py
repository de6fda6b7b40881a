"""Packed rows give the loss and the gradients of separate rows. Further: image features, reference
values and token ids."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.artifacts.results_folder import write_jsonl
from harness.errors import UserError
from harness.models.chat_format import renderer
from harness.models.find_family import family_of
from harness.training.fsdp import Policy
from harness.training.loop import Loop, pair_losses
from harness.training.pair_batches import encode, image_features, pack
from harness.training.policy import completion_logps
from harness.training.ranks import SINGLE
from harness.training.reference_logps import reference_logps, weights_digest
from methods.interface import PreferencePair, Recipe
from tests.tiny_models import picture, tiny_llava
from tests.training.cases import PAIRS, images, plain_logps

PATCHES = 36


def loop_of(model: Any, features: dict[str, torch.Tensor], device_batch: int) -> Loop:
    return Loop(
        policy=Policy(model, features, rejected_argmax=False),
        parameters={},
        references={},
        recipe=Recipe(lr=1e-3),
        seed=0,
        pad=0,
        device_batch=device_batch,
        sharded=False,
        ranks=SINGLE,
        autocast=nullcontext,
    )


def test_projected_features_are_the_models_own_image_features() -> None:
    model, processor = tiny_llava()
    pixels = processor.image_processor(images=[picture(0), picture(1)], return_tensors="pt")[
        "pixel_values"
    ]
    with torch.no_grad():
        expected = torch.stack(list(model.get_image_features(pixels).pooler_output))
        family = family_of(model, processor)
        assert torch.equal(torch.stack(family.project(family.encode(list(pixels)))), expected)
    assert list(image_features(model, processor, PAIRS, images)) == [
        "p0",
        "p1",
        "p2",
    ]  # once an image, not once a pair


def test_encoding_is_the_processors_own() -> None:
    _, processor = tiny_llava()
    pair = encode(PAIRS[:1], processor, patches=PATCHES, positions=512)[0]
    text = (
        "<s>USER: <image>\ndescribe the picture ASSISTANT: a red ball on the left and a blue"
        " box</s>"
    )
    whole = processor(images=picture(0), text=text, add_special_tokens=False)["input_ids"][0]
    assert pair.prompt + pair.chosen == list(whole)
    assert pair.chosen[-1] == pair.rejected[-1] == processor.tokenizer.eos_token_id
    assert not pair.cut


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_packed_rows_have_the_loss_and_gradients_of_plain_rows(weight: float) -> None:
    recipe = Recipe(lr=1e-3, alignment_weight=weight, beta=0.3)
    references = torch.randn(len(PAIRS), 2, generator=torch.Generator().manual_seed(0)) - 30
    aligned = torch.tensor([pair.aligned for pair in PAIRS])
    gradients = []
    losses = []
    for packed in (True, False):
        model, processor = tiny_llava()
        model.model.vision_tower.requires_grad_(False)
        if packed:
            batch = pack(encode(PAIRS, processor, patches=PATCHES, positions=512))
            logps, mask = completion_logps(
                model, batch, image_features(model, processor, PAIRS, images)
            )
        else:
            logps, mask = plain_logps(model, processor, PAIRS)
        loss = pair_losses(recipe, logps, mask, references, aligned)["loss"]
        loss.sum().backward()
        losses.append(loss.detach())
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    assert any("multi_modal_projector" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient,
            gradients[1][name],
            rtol=1e-3,
            atol=1e-5 * float(gradients[1][name].abs().max()) + 1e-6,
        )


def test_a_pairs_log_probability_depends_neither_on_its_neighbours_nor_on_the_other_side() -> None:
    model, processor = tiny_llava()
    features = image_features(model, processor, PAIRS, images)
    swapped = [replace(PAIRS[0], rejected="yes")]
    with torch.no_grad():
        together, _ = completion_logps(
            model, pack(encode(PAIRS, processor, patches=PATCHES, positions=512)), features
        )
        alone, _ = completion_logps(
            model, pack(encode(swapped, processor, patches=PATCHES, positions=512)), features
        )
    torch.testing.assert_close(together[0].sum(), alone[0].sum(), rtol=1e-5, atol=1e-5)


def test_eager_attention_respects_the_packing_mask_too() -> None:
    model, processor = tiny_llava()
    features = image_features(model, processor, PAIRS, images)
    batch = pack(encode(PAIRS, processor, patches=PATCHES, positions=512))
    with torch.no_grad():
        fast, _ = completion_logps(model, batch, features)
        model.set_attn_implementation("eager")
        plain, _ = completion_logps(model, batch, features)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_the_released_rejected_side_scores_the_models_own_tokens() -> None:
    model, processor = tiny_llava()
    features = image_features(model, processor, PAIRS, images)
    batch = pack(encode(PAIRS, processor, patches=PATCHES, positions=512))
    with torch.no_grad():
        published, _ = completion_logps(model, batch, features)
        released, _ = completion_logps(model, batch, features, rejected_argmax=True)
    n = len(PAIRS)
    assert torch.equal(published[:n], released[:n])
    assert (
        released[n:].sum(-1) > published[n:].sum(-1)
    ).all()  # likelier tokens than the rejected ones


@pytest.mark.equality
def test_reference_values_are_cached_reused_and_equal_to_fresh_ones(tmp_path: Path) -> None:
    model, processor = tiny_llava()
    features = image_features(model, processor, PAIRS, images)
    encoded = encode(PAIRS, processor, patches=PATCHES, positions=512)
    cache = tmp_path / "reference.jsonl"
    loop, policy = loop_of(model, features, device_batch=1), weights_digest(model)
    computed = []
    first = reference_logps(loop, encoded, cache=cache, policy=policy)
    with torch.no_grad():
        expected = plain_logps(model, processor, PAIRS)[0].sum(-1)
    for index, pair in enumerate(PAIRS):
        assert first[pair.key] == pytest.approx(
            (expected[index].item(), expected[index + 6].item()), abs=1e-4
        )
    header, *lines = cache.read_text().splitlines(keepends=True)
    cache.write_text(header + lines[0].replace("-", "-1", 1) + "".join(lines[1:]))
    with pytest.raises(UserError, match="was cut or changed"):
        reference_logps(loop, encoded, cache=cache, policy=policy)
    # A kill leaves the file with fewer lines. The others are computed again, to the last bit.
    rows = [json.loads(line) for line in lines[:3]]
    write_jsonl(cache, [{**json.loads(header), "sha256": None}, *rows])
    again = reference_logps(
        loop, encoded, cache=cache, policy=policy, progress=lambda *done: computed.append(done)
    )
    assert again == first
    assert 0 < len(computed) < 3
    empty = loop_of(None, {}, device_batch=1)  # all are cached: no model is needed
    assert reference_logps(empty, encoded, cache=cache, policy=policy) == first


def test_a_cache_of_another_policy_or_other_texts_is_an_error(tmp_path: Path) -> None:
    model, processor = tiny_llava()
    features = image_features(model, processor, PAIRS, images)
    cache = tmp_path / "reference.jsonl"
    encoded = encode(PAIRS, processor, patches=PATCHES, positions=512)
    loop = loop_of(model, features, device_batch=2)
    reference_logps(loop, encoded, cache=cache, policy="a")
    with pytest.raises(UserError, match="another model or objective"):
        reference_logps(loop, encoded, cache=cache, policy="b")
    other = encode([replace(PAIRS[0], rejected="no")], processor, patches=PATCHES, positions=512)
    with pytest.raises(UserError, match="other texts under the key k0"):
        reference_logps(loop, other, cache=cache, policy="a")


def test_the_digest_notices_a_changed_weight() -> None:
    model, _ = tiny_llava()
    before = weights_digest(model)
    assert weights_digest(tiny_llava()[0]) == before
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert weights_digest(model) != before


def test_double_wrapped_pairs_are_encoded_as_their_texts() -> None:
    _, processor = tiny_llava()
    words = renderer(processor)
    [pair] = encode(PAIRS[:1], processor, patches=1, positions=512, double_wrapped=True)
    asked, chosen, rejected = PAIRS[0].prompt, PAIRS[0].chosen, PAIRS[0].rejected
    wrapped = f"USER: \n{asked}"  # this base has no system text
    assert words.encode([words.render_prompt(wrapped, True)]) == [pair.prompt]
    for ids, text in ((pair.chosen, chosen), (pair.rejected, rejected)):
        assert words.encode([f" ASSISTANT: {text}</s>"]) == [ids]


def test_long_answers_are_cut_and_marked_and_a_long_prompt_is_an_error() -> None:
    _, processor = tiny_llava()
    long = PreferencePair(
        key="long", item="p0", prompt="describe", chosen="red " * 50, rejected="no"
    )
    pair = encode([long], processor, patches=PATCHES, positions=64)[0]
    assert pair.cut
    assert len(pair.prompt) + len(pair.chosen) == 64
    assert len(pair.rejected) == 2  # the other answer is not cut
    with pytest.raises(UserError, match=r"The prompt of pair long takes .* the model reads 40"):
        encode([replace(long, prompt="red " * 20)], processor, patches=PATCHES, positions=40)


def test_the_alignment_term_adds_the_gradient_of_transformers_loss_on_aligned_answers() -> None:
    """The oracle is transformers' ``labels=`` loss, a mean over the answer's tokens. Pairs that are
    not aligned add nothing."""
    weight = 0.7

    def gradients(alignment_weight: float) -> dict[str, torch.Tensor]:
        model, processor = tiny_llava()
        model.model.vision_tower.requires_grad_(False)
        batch = pack(encode(PAIRS, processor, patches=PATCHES, positions=512))
        logps, mask = completion_logps(
            model, batch, image_features(model, processor, PAIRS, images)
        )
        recipe = Recipe(lr=1e-3, alignment_weight=alignment_weight)
        pair_losses(recipe, logps, mask, torch.zeros(len(PAIRS), 2), batch.aligned)[
            "loss"
        ].sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    model, processor = tiny_llava()
    model.model.vision_tower.requires_grad_(False)
    for pair in (pair for pair in PAIRS if pair.aligned):
        prompt = renderer(processor).render_prompt(pair.prompt, True)
        text = prompt + renderer(processor).render_completion(pair.chosen)
        whole = processor(
            images=images(pair.item), text=text, add_special_tokens=False, return_tensors="pt"
        )
        asked = processor(
            images=images(pair.item), text=prompt, add_special_tokens=False, return_tensors="pt"
        )
        labels = whole["input_ids"].clone()
        labels[:, : asked["input_ids"].shape[1]] = -100
        (weight * model(**whole, labels=labels).loss).backward()
    without, with_term = gradients(0.0), gradients(weight)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.abs().max() > 0
            added = with_term[name] - without[name]
            torch.testing.assert_close(
                added, parameter.grad, rtol=1e-3, atol=1e-4 * float(parameter.grad.abs().max())
            )
