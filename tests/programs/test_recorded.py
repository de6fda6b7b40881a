"""The recorded calls are what the methods' code still asks for, and both sides of the bench replay
them with their lengths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.interface import BeamSearch, Decoding
from tests.benches import bench_gpu, gpu_replay, made, recorded
from tests.benches.gpu_models import Shape, build, build_clip
from tests.benches.gpu_work import Call, pictures

AGAIN = "the recordings are stale; make them anew: python -m tests.benches.recorded"


def few(
    calls: list[tuple[recorded.Line, list[recorded.Line]]], count: int
) -> list[tuple[recorded.Line, list[recorded.Line]]]:
    """The calls' prompts about the first images; calls that have none are left out."""
    kept = (
        (head, [line for line in prompts if line["picture"] < count]) for head, prompts in calls
    )
    return [(head, prompts) for head, prompts in kept if prompts]


def test_the_methods_still_make_the_recorded_calls() -> None:
    stored = json.loads((recorded.FOLDER / "real.json").read_text())
    assert recorded.digests() == stored, AGAIN


@pytest.mark.thorough
def test_the_methods_still_make_the_worlds_calls() -> None:
    """What the synthetic base answers may differ by rounding on another machine; what it is first
    asked, and how, may not."""
    recorders, _ = recorded.record("synthetic", 1)
    for work, recorder in recorders.items():
        stored = few(recorded.read("synthetic", work), 1)
        asked = [head["kind"] for head, _ in recorder.calls]
        assert list(dict.fromkeys(asked)) == list(
            dict.fromkeys(head["kind"] for head, _ in stored)
        ), AGAIN
        for (head, prompts), (known, lines) in zip(recorder.calls, stored, strict=False):
            assert (recorded.settings(head), head["corrupt"]) == (
                recorded.settings(known),
                known["corrupt"],
            ), AGAIN
            if head["call"].endswith(("generate 1", "branch 1")):
                assert [(one["key"], one["text"]) for one in prompts] == [
                    (one["key"], one["text"]) for one in lines
                ], AGAIN


def test_what_is_recorded_of_llava_is_of_the_kind_that_is_said() -> None:
    images = pictures(recorded.PICTURES, 8)
    calls = {work: recorded.calls(work, images, "7b") for work in (*recorded.WORK, recorded.CLIP)}
    new = {
        work: sum(sum(call.most.values()) for call in some) / len(images)
        for work, some in calls.items()
    }
    assert 90 < new["sena"] < 150  # PERFORMANCE's 120 an image
    assert 80 < new["chair"] < 130
    assert [
        len(call.prompts) / len(images) for call in calls["pope"] + calls["mme"] + calls["chair"]
    ] == [18, 2, 1]
    *answers, critic = calls["sima"]
    assert {answer.how for answer in answers} == {
        Decoding(max_new_tokens=1024),
        Decoding(max_new_tokens=1024, temperature=0.8, top_p=0.9, top_k=50),
    }
    assert all(
        700 < made.tokens(prompt.text) < 1000 for prompt in critic.prompts
    )  # our own wording; the authors' is longer
    nodes = Counter(id(prompt.image) for call in calls["csr"] for prompt in call.prompts)
    assert {call.how.num_beams for call in calls["csr"] if isinstance(call.how, BeamSearch)} == {5}
    assert all(
        1 + 3 * 8 < count < 1 + 3 * 15 for count in nodes.values()
    )  # three nodes kept of each level, until texts are full
    assert sum(bool(call.corrupt) for call in calls["sena"]) == 1
    assert {call.kind for call in recorded.calls("sima", images, "tiny")} == {"generate", "logps"}


@pytest.mark.parametrize("shape", ["7b", "tiny"])
@pytest.mark.parametrize("work", [*recorded.WORK, recorded.CLIP])
def test_a_tile_asks_the_same_of_other_pictures(work: str, shape: str) -> None:
    images = pictures(recorded.PICTURES + 2, 8)
    calls, once = (
        recorded.calls(work, images, shape),
        recorded.calls(work, images[: recorded.PICTURES], shape),
    )
    assert [call.name for call in calls] == [call.name for call in once]
    for call, single in zip(calls, once, strict=True):
        assert call.prompts[: len(single.prompts)] == single.prompts
        assert len(call.prompts) == len(call.lengths) == len(call.completions)
        asked = {
            (prompt.key, completion)
            for prompt, completion in zip(call.prompts, call.completions, strict=True)
        }
        assert len(asked) == len(call.prompts)
        again = call.prompts[len(single.prompts) :]
        assert all(prompt.image in images[-2:] for prompt in again)
        known = {prompt.key: prompt for prompt in single.prompts}
        for prompt in again:
            first = known["0" + prompt.key.removeprefix("1")]
            assert (prompt.text, prompt.prefix) == (first.text, first.prefix)
            assert prompt.image is not None
            assert first.image is images[images.index(prompt.image) - recorded.PICTURES]


def test_pairs_go_round() -> None:
    made_pairs = recorded.pairs(200, 30, "7b")
    assert len({pair.key for pair in made_pairs}) == 200
    assert {int(pair.item) for pair in made_pairs} <= set(range(30))
    assert all(pair.prompt and pair.chosen and pair.rejected for pair in made_pairs)


@pytest.mark.thorough
@pytest.mark.parametrize("shape", ["tiny", "slim"])
def test_every_answer_has_its_recorded_length_on_both_sides(shape: Shape) -> None:
    model, processor = build(shape, "cpu")
    images = pictures(2, processor.image_processor.crop_size["height"])
    engine = gpu_replay.Forced(model, processor, batch_size=8)
    alone = gpu_replay.Forced(model, processor, shared_bytes=0)
    for work in ("sena", "sima", "csr"):
        calls = recorded.calls(work, images, shape)
        for call in (calls[0], calls[-1]):
            short: Any = replace(call, lengths=[[min(n, 6) for n in each] for each in call.lengths])
            before = engine.tokens_generated
            ours = gpu_replay.run(engine, [short])
            many = call.how.num_beams if isinstance(call.how, BeamSearch) else 1
            assert engine.tokens_generated - before == many * sum(short.most.values())
            theirs = gpu_replay.one_by_one(alone, processor, [short])
            assert all(gpu_replay.same(a, b) for a, b in zip(ours, theirs, strict=True)), call.name
            assert len({str(answer) for answer in ours}) > 1


def test_relevance_is_the_same_a_sentence_at_a_time() -> None:
    scorer = build_clip("slim", "cpu")
    (call,) = recorded.calls(recorded.CLIP, pictures(1, 336), "slim")
    some = replace(call, prompts=call.prompts[:6])
    ours, alone = gpu_replay.relevance(scorer, [some]), gpu_replay.relevance_alone(scorer, [some])
    assert all(gpu_replay.same(a, b) for a, b in zip(ours, alone, strict=True))
    assert len({round(float(value), 3) for value in ours if isinstance(value, float)}) > 1


def bench(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    asked = f"--shape tiny --work mme clip --pictures 2 --loop 1 --out {out}"
    monkeypatch.setattr("sys.argv", ["bench_gpu", *asked.split()])
    bench_gpu.main()


@pytest.mark.thorough
def test_the_bench_writes_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench(monkeypatch, tmp_path)
    rows = json.loads((tmp_path / "bench_gpu.json").read_text())["rows"]
    assert [row["work"] for row in rows] == ["mme", "clip"]
    assert {row["equal"] for row in rows} == {1.0}
    assert all(row["floor"] is None or torch.cuda.is_available() for row in rows)
    assert "| mme |" in (tmp_path / "bench_gpu.md").read_text()


@pytest.mark.thorough
def test_the_bench_fails_where_a_text_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = gpu_replay.run

    def wrong(engine: gpu_replay.Forced, calls: Sequence[Call]) -> list[gpu_replay.Answer]:
        return [["another"], *right(engine, calls)[1:]]

    monkeypatch.setattr(gpu_replay, "run", wrong)
    with pytest.raises(SystemExit, match="differ from one by one: mme"):
        bench(monkeypatch, tmp_path)
