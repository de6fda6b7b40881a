"""Generation equals transformers' ``generate``, in any batch. Further: sampling, stop strings,
corruption, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

from harness.engine.backbone import LeanLlama, TransformersText
from harness.engine.decode import sample
from harness.engine.engine import Engine
from harness.errors import UserError
from methods.interface import Decoding, Prompt
from tests.engine.oracle import TEXTS, ending, greedy, inputs, logp, logp_of, mixed
from tests.tiny_models import picture, tiny_llava

GREEDY = Decoding(max_new_tokens=12)


@pytest.mark.equality
def test_batched_equals_transformers_one_by_one_to_the_token() -> None:
    model, processor = ending()
    prompts = mixed()
    engine = Engine(model, processor)
    answers = engine.generate(prompts, GREEDY)
    total = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = greedy(model, processor, prompt, GREEDY.max_new_tokens)
        total += len(ids)
        ended = ids[-1] == processor.tokenizer.eos_token_id
        assert answer.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert (answer.n_tokens, answer.finished) == (len(ids), ended)
        assert answer.logp == pytest.approx(logp_of(model, processor, prompt, ids), abs=1e-4)
    assert engine.tokens_generated == total
    assert {answer.finished for answer in answers} == {
        True,
        False,
    }  # so that rows do leave the batch


@pytest.mark.equality
@pytest.mark.parametrize(
    ("batch_size", "shared_bytes"), [(1, None), (3, None), (5, 1), (16, 40_000)]
)
def test_batch_size_memory_and_order_change_nothing(
    batch_size: int, shared_bytes: int | None
) -> None:
    model, processor = ending()
    prompts = mixed()
    for decoding in (GREEDY, replace(GREEDY, temperature=0.9, top_p=0.9, seed=3)):
        expected = Engine(model, processor).generate(prompts, decoding)
        engine = Engine(model, processor, batch_size=batch_size, shared_bytes=shared_bytes)
        for order in (range(16), range(15, -1, -1)):
            answers = engine.generate([prompts[place] for place in order], decoding)
            for place, answer in zip(order, answers, strict=True):
                assert (answer.text, answer.n_tokens) == (
                    expected[place].text,
                    expected[place].n_tokens,
                )
                assert answer.logp == pytest.approx(expected[place].logp, abs=1e-4)


def llava_with(text: Any) -> tuple[Any, Any]:
    base, processor = tiny_llava()
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    shared = {
        "vocab_size": base.config.text_config.vocab_size,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    config = LlavaConfig(
        **{**base.config.to_dict(), "text_config": text(**sizes, **shared, bos_token_id=1)}
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = LlavaForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.2 * parameter.shape[-1] ** -0.5)
    return model, processor


@pytest.mark.parametrize(
    ("text", "path"), [(LlamaConfig, LeanLlama), (Qwen2Config, TransformersText)]
)
def test_grouped_queries_and_other_language_models(text: Any, path: type) -> None:
    model, processor = llava_with(text)
    engine = Engine(model, processor)
    assert isinstance(engine.decoder.text, path)
    prompts = mixed()
    for prompt, answer in zip(prompts, engine.generate(prompts, GREEDY), strict=True):
        ids = greedy(model, processor, prompt, GREEDY.max_new_tokens)
        assert answer.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    texts = ["a red ball .", "yes"] * 8
    for prompt, words, value in zip(prompts, texts, engine.logps(prompts, texts), strict=True):
        assert value == pytest.approx(logp(model, processor, prompt, words), abs=1e-4)


def test_lean_forward_is_for_the_exact_architecture_only() -> None:
    model, _ = tiny_llava()
    language_model = model.model.language_model
    assert LeanLlama.fits(language_model)
    handle = language_model.layers[0].register_forward_hook(lambda *_: None)
    assert not LeanLlama.fits(language_model)
    handle.remove()
    language_model.layers[1].mlp.up_proj = torch.nn.Linear(64, 96, bias=True)
    assert not LeanLlama.fits(language_model)


def test_an_image_is_encoded_once_and_cached() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    engine.generate(mixed(), GREEDY)
    assert engine.prefix_cache.images_encoded == 3  # the copies are equal images
    engine.generate(mixed(), GREEDY)
    engine.logps(mixed(), ["yes"] * 16)
    assert engine.prefix_cache.images_encoded == 3


@pytest.mark.equality
def test_earlier_calls_change_no_bit() -> None:
    """A resumed run has other images cached than an uninterrupted one, and must write the same
    bytes."""
    parts = tiny_llava()
    asks = [
        Prompt(key=f"{at}/{text}", text=text, image=picture(at))
        for at in range(24)
        for text in TEXTS
    ]
    used = Engine(*parts)
    used.generate(asks[len(asks) // 2 :], GREEDY)
    assert used.generate(asks, GREEDY) == Engine(*parts).generate(asks, GREEDY)


def test_changed_weights_are_read_again() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    before = engine.generate(mixed(), GREEDY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = engine.generate(mixed(), GREEDY)
    assert after == Engine(model, processor).generate(mixed(), GREEDY)
    assert after != before


def test_sampling_follows_key_and_seed() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    prompts = [
        Prompt(key=str(number), text="describe the picture", image=picture(0))
        for number in range(8)
    ]
    decoding = Decoding(max_new_tokens=8, temperature=1.0, seed=1)
    answers = engine.generate(prompts, decoding)
    assert len({answer.text for answer in answers}) == 8  # keys differ
    assert engine.generate(prompts, decoding) == answers
    assert engine.generate(prompts, replace(decoding, seed=2)) != answers
    longer = engine.generate(prompts, replace(decoding, max_new_tokens=40))
    assert all(
        long.text.startswith(short.text) for long, short in zip(longer, answers, strict=True)
    )
    assert answers[0].logp == pytest.approx(
        engine_logp(engine, prompts[0], answers[0].text), abs=1e-3
    )


def engine_logp(engine: Engine, prompt: Prompt, text: str) -> float:
    """log p(text) without the end token: with it, minus that of the end token behind the text."""
    return engine.logps([prompt], [text])[0] - engine.logps([replace(prompt, prefix=text)], [""])[0]


def test_sample_draws_from_the_nucleus_in_proportion() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().repeat(4000, 1)
    draw = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for top_p, top_k, expected in (
        (1.0, None, [0.1, 0.5, 0.15, 0.25]),
        (0.7, None, [0, 2 / 3, 0, 1 / 3]),
        (0.5, None, [0, 1, 0, 0]),
        (1.0, 50, [0.1, 0.5, 0.15, 0.25]),
        (1.0, 3, [0, 5 / 9, 1.5 / 9, 2.5 / 9]),
        (0.6, 2, [0, 1, 0, 0]),  # the shares of two tokens are 2/3 and 1/3
    ):
        decoding = Decoding(max_new_tokens=1, temperature=1.0, top_p=top_p, top_k=top_k)
        counts = sample(logits, decoding, draw).bincount(minlength=4) / 4000
        assert counts.tolist() == pytest.approx(expected, abs=0.02)
        assert all(
            count == 0 for count, share in zip(counts.tolist(), expected, strict=True) if share == 0
        )
    cold = sample(logits, Decoding(max_new_tokens=1, temperature=0.05), draw)
    assert (cold == 1).all()


def test_stop_strings_end_the_answer_and_stay_in_it() -> None:
    model, processor = tiny_llava()
    prompts, engine = mixed(), Engine(model, processor)
    free = engine.generate(prompts, GREEDY)
    stop = free[1].text.split()[3]
    for whole, answer in zip(
        free, engine.generate(prompts, replace(GREEDY, stop=(stop, "?"))), strict=True
    ):
        ends = [whole.text.index(text) + len(text) for text in (stop, "?") if text in whole.text]
        assert answer.text == (whole.text[: min(ends)] if ends else whole.text)
        assert answer.finished == bool(ends)


def test_corruption_is_seeded_by_the_key_and_leaves_the_clean_image_alone() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    prompts = mixed()
    seen: list[tuple[tuple[int, ...], str]] = []

    def noise(pixels: torch.Tensor, key: str) -> torch.Tensor:
        seen.append((tuple(pixels.shape), key))
        return pixels + 2 * torch.randn(
            pixels.shape, generator=torch.Generator().manual_seed(len(key) + int(key[0]))
        )

    clean = engine.generate(prompts, GREEDY)
    corrupted = engine.generate(prompts, GREEDY, corrupt=noise)
    assert sorted(seen) == sorted(
        ((3, 60, 60), prompt.key) for prompt in prompts if prompt.image is not None
    )
    assert [a.text == b.text for a, b in zip(clean, corrupted, strict=True)][12:] == [
        True
    ] * 4  # those without an image
    assert engine.generate(prompts, GREEDY) == clean
    assert (
        Engine(model, processor, batch_size=2).generate(prompts[::-1], GREEDY, corrupt=noise)[::-1]
        != clean
    )
    for place in (0, 5):
        given = inputs(processor, prompts[place])
        given["pixel_values"] = noise(given["pixel_values"][0], prompts[place].key)[None]
        ids = model.generate(**given, max_new_tokens=12, do_sample=False)[
            0, given["input_ids"].shape[1] :
        ]
        assert (
            corrupted[place].text
            == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        )
    with pytest.raises(UserError, match="must keep the shape"):
        engine.generate(prompts, GREEDY, corrupt=lambda pixels, _: pixels[:, :30])


def test_errors_and_empty_calls() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    assert engine.generate([], GREEDY) == []
    assert engine.logps([], []) == []
    with pytest.raises(UserError, match="occur twice in one call, such as '0/0'"):
        engine.generate([*mixed(), mixed()[0]], GREEDY)
    with pytest.raises(UserError, match="16 prompts and 1 completions"):
        engine.logps(mixed(), ["yes"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        Engine(model, processor, batch_size=0)


@pytest.mark.thorough
def test_long_answers_outgrow_the_first_cache() -> None:
    model, processor = tiny_llava()
    prompts = mixed()[2:6]
    for prompt, answer in zip(
        prompts,
        Engine(model, processor).generate(prompts, Decoding(max_new_tokens=150)),
        strict=True,
    ):
        ids = greedy(model, processor, prompt, 150)
        assert answer.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
