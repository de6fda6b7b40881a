"""CSR end to end on a scripted model, whose branches are a pure function of the prompt's text and
image."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from PIL.Image import Image

from methods.catalogue import METHODS
from methods.csr import method as csr_method
from methods.csr.method import EQUAL_COST, NO_SENTENCE, TOO_FEW, Csr
from methods.csr.search import UNLIKELY
from methods.interface import (
    BeamSearch,
    Branch,
    Dropped,
    Item,
    Lora,
    Method,
    PreferencePair,
    Recipe,
    Tools,
)
from tests.methods.scripted_csr import (
    ITEMS,
    Script,
    ScriptedScorer,
    ScriptedVLM,
    end,
    fixed,
    scripted,
    step,
)
from tests.tiny_models import picture

SETTINGS: dict[str, Csr] = {
    "default": Csr(max_chars=120),
    "released": Csr.as_released(max_chars=120),
    "scores": Csr(max_chars=120, reward="scores", lam=0.5),
    "by reward": Csr(max_chars=120, keep="best_and_worst_by_reward"),
    "plain": Csr(max_chars=100, penalty_in_score=False, keep="best"),
    "sampled": Csr(max_chars=100, temperature=0.7, candidates=4, groups=4),
}


def run(
    csr: Csr, items: Sequence[Item] = ITEMS, script: Script = scripted, seed: int = 0
) -> list[PreferencePair | Dropped]:
    return list(
        csr.pairs(items, Tools(vlm=ScriptedVLM(script), seed=seed, scorer=ScriptedScorer()))
    )


def tree_of(record: PreferencePair | Dropped) -> list[dict[str, Any]]:
    """The trace's tree as a dictionary per node."""
    columns = record.trace["tree"]
    assert isinstance(columns, Mapping)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("name", SETTINGS)
def test_all_items_in_one_call_equal_one_item_a_call(name: str) -> None:
    together = run(SETTINGS[name])
    assert together == [record for item in ITEMS for record in run(SETTINGS[name], [item])]
    assert together[::-1] == run(SETTINGS[name], ITEMS[::-1])
    assert [record.item for record in together] == [item.id for item in ITEMS]
    assert len({record.key for record in together}) == len(ITEMS)
    assert any(isinstance(record, PreferencePair) for record in together)
    json.dumps([record.trace for record in together])
    assert run(SETTINGS[name], []) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pair_is_two_leaves_of_its_tree(name: str) -> None:
    for record in run(SETTINGS[name]):
        tree = tree_of(record)
        if isinstance(record, PreferencePair):
            assert record.chosen != record.rejected
            assert record.prompt == next(item.question for item in ITEMS if item.id == record.item)
            leaves: Any = (record.trace["chosen"], record.trace["rejected"])
            for leaf, text in zip(leaves, (record.chosen, record.rejected), strict=True):
                assert tree[leaf]["final"]
                place, said = leaf, []
                while place > 0:
                    said.append(tree[place]["text"])
                    place = tree[place]["parent"]
                assert " ".join(said[::-1]).strip() == text
        for node in tree:
            assert not (node["kept"] and node["final"])
            assert node["parent"] == -1 or tree[node["parent"]]["kept"]


def test_a_level_is_one_call_and_relevance_one_for_all() -> None:
    model, scorer = ScriptedVLM(), ScriptedScorer()
    records = list(SETTINGS["default"].pairs(ITEMS, Tools(vlm=model, seed=3, scorer=scorer)))
    depth = 0
    for record in records:
        tree = tree_of(record)
        levels = [0]
        for node in tree[1:]:
            levels.append(levels[node["parent"]] + 1)
        depth = max(
            depth, *(level for level, node in zip(levels, tree, strict=True) if node["kept"])
        )
    assert len(model.calls) == depth + 1
    assert scorer.calls == 1
    first, _ = model.calls[0]
    assert [prompt.prefix for prompt in first] == [""] * len(ITEMS)
    assert [prompt.key for prompt in first[:2]] == ["3/picture/0/0", "3/picture/1/0"]
    assert all(prompt.prefix for prompt in model.calls[1][0])


def reward_so_far(tree: list[dict[str, Any]], place: int, csr: Csr) -> float:
    """The paper's cumulative reward of the text that ends at a node, or the negative ranks."""
    total = 0.0
    while place > 0:
        node = tree[place]
        if csr.reward == "scores":
            total += csr.lam * node["relevance"] + (1 - csr.lam) * math.exp(node["logp"])
        else:
            siblings = [n for n, each in enumerate(tree) if each["parent"] == node["parent"]]
            for name, weight in (("relevance", csr.lam), ("score", 1 - csr.lam)):
                before = [n for n in siblings if n < place and tree[n][name] == node[name]]
                above = [n for n in siblings if tree[n][name] > node[name]]
                total -= weight * (1 + len(before) + len(above)) / len(siblings)
        place = node["parent"]
    return round(total, 5)


@pytest.mark.parametrize("reward", ["ranks", "scores"])
def test_the_papers_order_continues_the_best_and_worst_by_the_reward_so_far(reward: Any) -> None:
    csr = Csr(max_chars=120, keep="best_and_worst_by_reward", reward=reward, lam=0.5)
    crowded = Counter[int]()
    for record in run(csr):
        tree, level = tree_of(record), [0]
        for node in tree[1:]:
            level.append(level[node["parent"]] + 1)
        for depth in range(1, max(level) + 1):
            opened = [n for n, at in enumerate(level) if at == depth and not tree[n]["final"]]
            values = sorted(reward_so_far(tree, n, csr) for n in opened)
            kept = sorted(reward_so_far(tree, n, csr) for n in opened if tree[n]["kept"])
            crowded[depth] += len(opened) >= csr.candidates
            best_and_worst = [*values[:2], values[-1]] if len(opened) >= csr.candidates else values
            assert kept == pytest.approx(best_and_worst, abs=2e-5)
    assert crowded[1]
    assert crowded[2]  # later levels differ by the sum, not by the last step
    assert run(csr) != run(replace(csr, keep="best_and_worst"))


def test_in_the_papers_order_relevance_is_one_call_a_level() -> None:
    model, scorer = ScriptedVLM(), ScriptedScorer()
    by_reward = list(SETTINGS["by reward"].pairs(ITEMS, Tools(vlm=model, seed=3, scorer=scorer)))
    assert scorer.calls == len(model.calls)
    for record in by_reward:  # each node has the relevance that one call for all would give
        item = next(item for item in ITEMS if item.id == record.item)
        said = [node for node in tree_of(record)[1:] if node["text"]]
        alone = ScriptedScorer().relevance([item.image] * len(said), [n["text"] for n in said])
        assert [node["relevance"] for node in said] == [
            round(max(0.0, value), 3) for value in alone
        ]


def outcome(root: list[Branch], later: list[Branch], **changes: Any) -> PreferencePair | Dropped:
    csr = Csr(**{"candidates": 4, "groups": 4, **changes})
    (record,) = run(csr, ITEMS[:1], fixed([*root, end(-9.0)], [*later, end(-9.0)]))
    return record


def reason(record: PreferencePair | Dropped) -> str | None:
    return record.reason if isinstance(record, Dropped) else None


def test_why_an_item_is_dropped() -> None:
    one_way = [step("a cat.", end=True)] * 4
    assert reason(outcome(one_way, [])) == TOO_FEW
    assert reason(outcome([step("no.")] * 4, [])) == TOO_FEW
    no_end = [step(f"sentence {place} goes on and on", stopped=False) for place in range(4)]
    cut = outcome(
        no_end, [replace(branch, text=" " + branch.text) for branch in no_end], max_chars=60
    )
    assert reason(cut) == NO_SENTENCE
    assert all(node["how"] == "cut" for node in tree_of(cut)[1:])
    assert isinstance(
        outcome([*no_end[:3], step("a cat.")], [step(" it ends.", end=True)] * 4), PreferencePair
    )
    two = [step("a cat is there.", -0.1, end=True), step("a dog is there.", -0.2, end=True)]
    assert isinstance(outcome(two * 2, []), PreferencePair)
    tied = list(
        Csr(lam=1.0, reward="scores", candidates=2, groups=2).pairs(
            ITEMS[:1], Tools(vlm=ScriptedVLM(fixed([*two, end(-9.0)], [])), scorer=Flat())
        )
    )
    assert reason(tied[0]) == EQUAL_COST


class Flat:
    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:  # noqa: ARG002
        return [20.0] * len(sentences)


@pytest.mark.parametrize(("lam", "expected"), [(1.0, "relevant"), (0.0, "likely")])
def test_lambda_weighs_relevance_against_likelihood(lam: float, expected: str) -> None:
    class Prefers:
        def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:  # noqa: ARG002
            return [30.0 if "relevant" in said else 5.0 for said in sentences]

    root = [step("a relevant text.", -2.0, end=True), step("a likely text.", -0.1, end=True)]
    for reward in ("ranks", "scores"):
        csr = Csr(candidates=2, groups=2, lam=lam, reward=reward)
        (pair,) = csr.pairs(
            ITEMS[:1], Tools(vlm=ScriptedVLM(fixed([*root, end(-9.0)], [])), scorer=Prefers())
        )
        assert isinstance(pair, PreferencePair)
        assert pair.chosen == f"a {expected} text."


def test_the_settings_of_the_beam_search() -> None:
    def asked(csr: Csr, seed: int = 0) -> BeamSearch:
        model = ScriptedVLM()
        list(csr.pairs(ITEMS[:1], Tools(vlm=model, seed=seed, scorer=ScriptedScorer())))
        return model.calls[0][1]

    default = BeamSearch(
        num_beams=5,
        num_beam_groups=5,
        diversity_penalty=3.0,
        max_new_tokens=74,
        stop=(".",),
        end="apart",
        seed=7,
    )
    assert asked(Csr(), 7) == default
    assert asked(Csr.as_released(), 7) == replace(default, max_new_tokens=70, end="token")
    assert asked(Csr(temperature=0.7), 7) == replace(default, temperature=0.7, end="stop")


def test_as_released_differs_only_where_papers_md_says() -> None:
    ours, released = Csr(), Csr.as_released()
    changed = {
        f.name: getattr(released, f.name)
        for f in fields(Csr)
        if getattr(ours, f.name) != getattr(released, f.name)
    }
    assert changed == {
        "sentence_tokens": 70,
        "count_prompt": True,
        "ending": "released",
        "recipe": replace(ours.recipe, double_wrapped=True),
    }
    assert Csr.as_released(lam=0.5) == replace(released, lam=0.5)


def test_the_published_recipe() -> None:
    assert Csr().recipe == csr_method.PUBLISHED
    assert Csr().recipe == Recipe(
        lr=1e-7,
        epochs=1,
        global_batch=1,
        warmup=0.03,
        projector_lr=0.0,
        max_grad_norm=0.0,
        lora=Lora(r=128, alpha=256, dropout=0.0),
        beta=0.1,
    )


def test_the_catalogue_has_it() -> None:
    assert METHODS["csr"].published == Csr()
    assert isinstance(Csr(), Method)
    assert Csr.needs == {"image", "question", "scorer"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": "both"}, "reward is 'both'; it must be 'ranks' or 'scores'"),
        ({"keep": "worst"}, "must be 'best_and_worst', 'best' or 'best_and_worst_by_reward'"),
        ({"ending": "never"}, "must be 'scored' or 'released'"),
        ({"lam": 1.1}, "Csr.lam is 1.1; it must be a number from 0 to 1"),
        (
            {"candidates": 1, "groups": 1},
            "candidates is 1; it must be a whole number of at least 2",
        ),
        ({"candidates": 5, "groups": 2}, "5 beams cannot form 2 groups"),
        ({"penalty": -1.0}, "Csr.penalty is -1.0; it must be a number of at least 0"),
        ({"max_chars": 0}, "max_chars is 0"),
        ({"sentence_tokens": True}, "sentence_tokens is True"),
        ({"sentence_ends": "."}, "sentence_ends is '.'"),
        ({"sentence_ends": ("",)}, "entries that are each a text (not empty)"),
        ({"penalty_in_score": 1}, "penalty_in_score is 1; it must be True or False"),
        ({"temperature": -0.5}, "temperature is -0.5"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        Csr(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_scorer_search_or_question_is_an_error() -> None:
    class NoBranches:
        generate = ScriptedVLM.generate
        logps = ScriptedVLM.logps

    with pytest.raises(ValueError, match=r"CSR has no scorer; give Tools\.scorer"):
        list(Csr().pairs(ITEMS, Tools(vlm=ScriptedVLM())))
    with pytest.raises(ValueError, match="searches with branch"):
        list(Csr().pairs(ITEMS, Tools(vlm=NoBranches(), scorer=ScriptedScorer())))
    with pytest.raises(ValueError, match="Item 'x' has no question"):
        list(
            Csr().pairs(
                [Item(id="x", image=picture(0))], Tools(vlm=ScriptedVLM(), scorer=ScriptedScorer())
            )
        )


def test_dropped_candidates_are_counted() -> None:
    records = run(Csr(max_chars=120, candidates=4, groups=2))
    found = sum((Counter(record.trace["dropped"]) for record in records), Counter[str]())  # type: ignore[arg-type]
    assert found[UNLIKELY] > 0
    assert all(
        record.trace["expanded"] == sum(node["kept"] for node in tree_of(record))
        for record in records
    )
