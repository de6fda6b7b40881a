"""Log-probabilities of completions equal one full forward pass for each."""

from __future__ import annotations

import pytest

from harness.engine.engine import Engine
from methods.interface import Decoding, Prompt
from tests.engine.oracle import TEXTS, ending, logp, mixed
from tests.tiny_models import picture, tiny_llava

ANSWERS = (
    "yes",
    "a red ball .",
    "",
    "the blue boat is left of a green tree and a house is right of the cup .",
)


def test_logps_equal_a_full_forward_pass() -> None:
    model, processor = tiny_llava()
    prompts = [prompt for prompt in mixed() for _ in ANSWERS]
    answers = list(ANSWERS) * (len(prompts) // len(ANSWERS))
    expected = [
        logp(model, processor, prompt, answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    for batch_size in (1, 5, 64):
        assert Engine(model, processor, batch_size=batch_size).logps(
            prompts, answers
        ) == pytest.approx(expected, abs=1e-4)


def test_many_completions_of_one_prompt_with_one_key() -> None:
    model, processor = tiny_llava()
    prompt = Prompt(key="same", text=TEXTS[1], image=picture(1))
    answers = [
        f"{size} {thing}"
        for size in ("one", "two", "three")
        for thing in ("ball", "box", "cup .", "house")
    ]
    values = Engine(model, processor).logps([prompt] * 12, answers)
    assert values == pytest.approx(
        [logp(model, processor, prompt, answer) for answer in answers], abs=1e-4
    )


def test_logp_of_an_answer_is_what_generation_reported() -> None:
    model, processor = ending()
    engine = Engine(model, processor)
    answers = engine.generate(mixed(), Decoding(max_new_tokens=9))
    values = engine.logps(mixed(), [answer.text for answer in answers])
    # An answer's text lacks special tokens, which random weights may generate: skip such answers.
    same = [
        len(processor.tokenizer(answer.text)["input_ids"]) + 1 == answer.n_tokens
        for answer in answers
    ]
    ended = [place for place, answer in enumerate(answers) if answer.finished and same[place]]
    assert len(ended) >= 3
    assert [values[place] for place in ended] == pytest.approx(
        [answers[place].logp for place in ended], abs=1e-4
    )
