"""Controls: what each changes in a round's pairs and what it keeps; the pairs stage applies it to
the whole round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from harness.artifacts.fingerprint import describe
from harness.artifacts.results_folder import Stage, read_json, read_jsonl
from harness.data.open_pool import open_pool
from harness.engine.engine import Engine
from harness.pipeline.stages.pairs import merge_pairs, write_items, write_pairs
from methods.controls import NO_OTHER, Control, Kind
from methods.csr.method import Csr
from methods.interface import Dropped, Method, PreferencePair, Tools
from methods.keys import coin_flip, key_hash
from methods.sena.method import Sena
from methods.sima.method import Sima
from methods.untrained import Untrained
from tests.tiny_models import tiny_llava
from tests.toy_method import Toy, save_pictures


def pair(index: int, kind: str = "question", **changes: Any) -> PreferencePair:
    texts = {"chosen": f"good {index}", "rejected": f"bad {index}"} | changes
    item = texts.pop("item", f"item {index // 2}")
    return PreferencePair(
        key=f"0/{kind}/{index}",
        item=item,
        prompt="what ?",
        kind=kind,
        aligned=kind == "description",
        trace={"seed": 0},
        **texts,
    )


PAIRS = [pair(index, kind) for index in range(60) for kind in ("question", "description")]


def control(kind: Kind, inner: Method | None = None) -> Control:
    return Control(inner=inner or Sena(), kind=kind)


def reworked(
    kind: Kind, pairs: Sequence[PreferencePair] = PAIRS, seed: int = 0
) -> list[PreferencePair]:
    records = control(kind).rework(pairs, seed)
    assert [record.key for record in records] == [pair.key for pair in pairs]
    return [record for record in records if isinstance(record, PreferencePair)]


def test_shuffled_swaps_about_half_by_the_pairs_key() -> None:
    found = reworked("shuffled")
    swapped = [
        one.chosen == two.rejected and one.rejected == two.chosen
        for one, two in zip(PAIRS, found, strict=True)
    ]
    same = [
        one.chosen == two.chosen and one.rejected == two.rejected
        for one, two in zip(PAIRS, found, strict=True)
    ]
    assert all(one != two for one, two in zip(swapped, same, strict=True))
    assert 40 <= sum(swapped) <= 80
    assert [one.trace["control"] for one in found] == [
        {"kind": "shuffled", "swapped": each} for each in swapped
    ]
    assert reworked("shuffled", PAIRS[:7]) == found[:7]
    assert reworked("shuffled", seed=1) != found
    assert [(one.kind, one.aligned, one.item, one.prompt) for one in found] == [
        (one.kind, one.aligned, one.item, one.prompt) for one in PAIRS
    ]


def test_random_rejected_comes_from_another_image_of_the_same_kind_and_is_used_once() -> None:
    found = reworked("random_rejected")
    by_key = {one.key: one for one in PAIRS}
    for before, after in zip(PAIRS, found, strict=True):
        note: Any = after.trace["control"]
        giver = by_key[note["from"]]
        assert giver.item != before.item
        assert giver.kind == before.kind
        assert after.rejected == giver.rejected
        assert after.chosen == before.chosen
        assert note["own_rejected"] == before.rejected
    uses = Counter((one.kind, one.rejected) for one in found)
    assert uses.most_common(1)[0][1] <= 2
    assert len(uses) > 0.9 * len(PAIRS)
    assert sorted(map(repr, reworked("random_rejected", PAIRS[::-1]))) == sorted(map(repr, found))
    assert reworked("random_rejected", seed=1) != found


def test_a_random_rejected_answer_never_equals_the_chosen_one() -> None:
    pairs = [
        pair(index, item=f"item {index}", chosen="yes", rejected="yes" if index % 3 else "no")
        for index in range(12)
    ]
    assert {one.rejected for one in reworked("random_rejected", pairs)} == {"no"}


def test_a_pair_without_another_is_dropped_and_counted() -> None:
    lonely = [pair(0, "description"), pair(2), pair(3)]  # the last two are of one image
    records = control("random_rejected").rework(lonely, 0)
    assert [record.reason for record in records if isinstance(record, Dropped)] == [NO_OTHER] * 3
    assert [record.kind for record in records] == ["description", "question", "question"]
    assert control("random_rejected").rework([], 0) == []


def test_sft_trains_on_the_inner_pairs_by_imitation() -> None:
    assert reworked("sft") == PAIRS
    inner = Sena()
    imitation = control("sft", inner).recipe
    assert imitation.objective == "sft"
    assert {
        name for name, value in describe(imitation).items() if value != describe(inner.recipe)[name]
    } == {"objective"}
    assert control("shuffled", inner).recipe == inner.recipe


def test_a_control_says_what_it_is_and_needs_what_its_method_needs() -> None:
    for inner in (Sena(), Sima()):
        for kind in get_args(Kind):
            made = control(kind, inner)
            assert isinstance(made, Method)
            assert made.name == f"{inner.name} {kind.replace('_', ' ')}"
            assert made.needs == inner.needs
    assert describe(control("sft"))["inner"] == describe(Sena())
    with pytest.raises(
        ValueError, match="'mirrored'; it must be 'shuffled', 'random_rejected' or 'sft'"
    ):
        Control(inner=Sena(), kind="mirrored")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="untrained trains nothing"):
        Control(inner=Untrained(), kind="sft")


def test_keys_give_the_same_chance_everywhere() -> None:
    assert key_hash("a") == 0xCA978112CA1BBDCA
    assert (coin_flip("a"), coin_flip("d")) == (False, True)
    assert 450 < sum(coin_flip(f"key {index}") for index in range(1000)) < 550


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_pairs_stage_reworks_the_whole_round(kind: Kind, tmp_path: Path) -> None:
    model, processor = tiny_llava()
    pool = open_pool(str(save_pictures(tmp_path / "pool", 8)))
    inner = Toy(tokens=4)

    def made(method: Method) -> tuple[list[PreferencePair], dict[str, Any]]:
        folder = tmp_path / method.name
        stage = Stage(folder, {"stage": "pairs", "method": method.name, "pool": "toy"})
        tools, drawn = Tools(vlm=Engine(model, processor), seed=0), pool.draw(8, 0, 1)
        stage.open()
        write_items(stage, drawn)
        for shard in range(4):
            numbers = range(2 * shard, 2 * shard + 2)
            write_pairs(stage, shard, numbers, drawn.ids, method, pool, tools)
        merge_pairs(stage, 4, method, pool, drawn, 0)
        pairs = [PreferencePair(**row) for row in read_jsonl(folder / "pairs.jsonl")]
        return pairs, read_json(folder / "record.json")["counts"]

    plain, before = made(inner)
    spoilt, after = made(Control(inner=inner, kind=kind))
    assert len(plain) > 4  # more than two shards' worth
    assert spoilt == [
        one
        for one in Control(inner=inner, kind=kind).rework(plain, 0)
        if isinstance(one, PreferencePair)
    ]
    assert after["pairs"] + after["dropped"] == before["pairs"] + before["dropped"]
    assert (spoilt == plain) == (kind == "sft")


def test_a_control_has_the_scorer_and_the_report_of_its_method() -> None:
    control = Control(inner=Csr(scorer="my-clip"), kind="sft")
    assert control.scorer == "my-clip"
    sima = Sima()
    assert Control(inner=sima, kind="shuffled").report([]) == sima.report([]) != {}
    assert Control(inner=Csr(), kind="sft").report([]) == {}
