"""What the GPU bench builds is LLaVA-1.5-7B's shape, and its training is placed by memory: on the
meta device, so without any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.training.lora import choose_trainable
from harness.training.pair_batches import EncodedPair
from harness.training.placement import GIB, Placement, estimate, fit
from methods.interface import BeamSearch, Decoding, PreferencePair, Prompt, Recipe
from tests.benches import bench_schedule, recorded
from tests.benches.gpu_models import VOCABULARY, build, build_tokenizer
from tests.benches.gpu_work import Call, floor_seconds, pictures
from tests.benches.schedule import Replay


@pytest.fixture(scope="module")
def model() -> Any:
    return build("7b", "meta")[0]


def pairs(count: int, side: int = 100) -> list[EncodedPair]:
    pair = PreferencePair(key="a", item="a", prompt="a", chosen="a", rejected="a")
    prompt, answer = [0] * 620, [0] * side
    one = EncodedPair(
        pair=pair, prompt=prompt, positions=torch.zeros(1, 620), chosen=answer, rejected=answer
    )
    return [one] * count


def test_the_shape_is_llava_1_5_7b(model: Any) -> None:
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == 7_063_427_072  # the published checkpoint's
    assert model.dtype == torch.bfloat16
    assert model.config.image_seq_length == 576


def test_full_training_of_7b_is_placed_by_memory(model: Any) -> None:
    trained = choose_trainable(model, Recipe(lr=1e-6))
    need = estimate(model, trained, pairs(8), sides=2, checkpointing=True)
    assert need.weights + need.gradients + need.optimizer == pytest.approx(16 * 6.76e9, rel=0.02)
    asked: dict[str, Any] = {"sides": 2, "processes": 1, "adapted": False}
    one = fit(Placement(memory=139 * GIB), model, trained, pairs(8), **asked)
    assert (one.checkpointing, one.sharded) == (True, False)
    four = fit(Placement(memory=79 * GIB), model, trained, pairs(8), **{**asked, "processes": 4})
    assert four.sharded
    with pytest.raises(
        UserError,
        match=(
            r"needs about 1\d\d\.\d GiB per device .*, but only 79\.0 GiB are"
            r" available; use LoRA"
        ),
    ):
        fit(Placement(memory=79 * GIB), model, trained, pairs(8), **asked)


def test_a_word_takes_as_many_tokens_as_with_llamas_tokenizer() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == VOCABULARY
    some = []
    for work in ("sena", "sima", "csr", "pope", "mme"):
        head, prompts = recorded.read("real", work)[-1]  # the critic, CSR's sentences
        texts = [line["text"] for line in prompts]
        rate = sum(map(len, tokenizer(texts)["input_ids"])) / sum(
            len(text.split()) for text in texts
        )
        assert 1.15 < rate < 1.45, head["call"]
        some += texts
    text = "A man is near the window.\nBetter answer: [[2]]"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.unk_token_id not in {
        token for ids in tokenizer(some)["input_ids"] for token in ids
    }
    assert tokenizer.decode([VOCABULARY - 1]) != tokenizer.decode(
        [VOCABULARY - 2]
    )  # a random model's texts can be told apart


def call(
    name: str, prompts: Sequence[Prompt], lengths: Sequence[Sequence[int]], **more: Any
) -> Call:
    return Call(
        name=name, prompts=prompts, lengths=lengths, **{"how": Decoding(max_new_tokens=64), **more}
    )


def test_the_floor_is_the_arithmetic_it_says() -> None:
    one, two = pictures(2, 8)
    ten = " ".join(["word"] * 10)  # 13 tokens, with the format 25
    asked = [Prompt(key="a", text=ten, image=one), Prompt(key="b", text=ten, image=two)]
    first = call("first", asked, [[10], [20]])
    prompts = 13.5e9 * 2 * (576 + 25) / 790e12
    positions = 576 * (10 + 20) + 25 * (10 + 20) + 10 * 11 / 2 + 20 * 21 / 2
    decoding = (13.5e9 * 20 + 512 * 1024 * positions) / 4.3e12
    assert floor_seconds([first], 2) == pytest.approx((prompts + decoding) / 2)
    # The same prompts again: nothing is left to read of them. Noised images are each prompt's
    # own.
    assert floor_seconds([first, first], 2) == pytest.approx((prompts + 2 * decoding) / 2)
    noised = replace(first, corrupt=lambda pixels, _key: pixels)
    assert floor_seconds([first, noised], 2) == pytest.approx(prompts + decoding)
    # Two prompts about one image: its keys are read once a step for both.
    both = call("both", [asked[0], replace(asked[1], image=one)], [[10], [20]])
    fewer = (13.5e9 * (576 + 25) / 790e12) + decoding - 512 * 1024 * 576 * 10 / 4.3e12
    assert floor_seconds([both], 1) == pytest.approx(fewer)


def test_the_floor_of_branches_scores_and_sentences() -> None:
    (one,) = pictures(1, 8)
    how = BeamSearch(num_beams=2, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=20)
    node = call(
        "node",
        [Prompt(key="a", text="word", image=one, prefix="word")],
        [[8, 12]],
        how=how,
        kind="branch",
    )
    assert node.most == {"a": 10}
    positions = (
        10 * (576 + 12 + 1 + 1) + 2 * 10 * 11 / 2
    )  # the prefix is read, but was written by the search itself
    expected = 13.5e9 * (576 + 13) / 790e12 + (13.5e9 * 10 + 512 * 1024 * positions) / 4.3e12
    assert floor_seconds([node], 1) == pytest.approx(expected)
    scored = call(
        "scored",
        [Prompt(key="a", text="word", image=one)],
        [[]],
        kind="logps",
        completions=["two words"],
    )
    assert floor_seconds([scored], 1) == pytest.approx(13.5e9 * (576 + 13 + 3) / 790e12)
    heard = call(
        "heard",
        [Prompt(key=f"{n}", text="two words", image=one) for n in range(2)],
        [[], []],
        kind="relevance",
    )
    assert floor_seconds([heard], 1) == pytest.approx((0.35e12 + 0.17e9 * 6) / 67e12)


def test_a_priced_schedule_lies_between_its_floor_and_one_prompt_at_a_time(model: Any) -> None:
    images, tiny, replay = pictures(1, 336), bench_schedule.recorder(), Replay(model)
    engine = bench_schedule.engine_on(*tiny, 79.0)
    calls = recorded.calls("pope", images, "7b")
    sizes = [size for call in calls for size in bench_schedule.sizes_of(engine, call)]
    assert {prefix for prefix, _ in sizes} == {583}  # 576 patches, and the words before them
    assert all(suffix > 10 for _, suffix in sizes)
    row = bench_schedule.row_of("pope", 79.0, images, tiny, replay)
    assert 0 < row["floor_s"] < row["priced_s"] < row["one_by_one_s"]
