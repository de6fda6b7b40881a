"""Studies and vary(): an ablation is one line, and what is not allowed is said in one sentence."""

from dataclasses import replace
from typing import Any

import pytest

from harness.artifacts.fingerprint import canonical
from harness.errors import UserError
from harness.study.study import Run, Study, Varied, vary
from methods.interface import Lora, Recipe
from methods.untrained import Untrained
from tests.toy_method import Toy, Words

RUN = Run(label="toy", base="tiny", method=Toy())
BASE = Run(label="untrained", base="tiny", method=Untrained())
STUDY = Study(name="s", question="Does it?", runs=(BASE, RUN), benchmarks=(Words(),))


def test_vary_a_setting_of_the_method() -> None:
    runs = vary(RUN, "tokens", (2, 4))
    assert [run.label for run in runs] == ["toy tokens=2", "toy tokens=4"]
    assert [run.method for run in runs] == [Toy(tokens=2), Toy(tokens=4)]
    assert {replace(run, label="toy", method=Toy(), varied=None) for run in runs} == {RUN}


def test_vary_a_setting_of_the_recipe_and_of_the_run() -> None:
    (one,) = vary(RUN, "recipe.lr", (5e-5,))
    assert one.label == "toy recipe.lr=5e-05"
    assert one.method.recipe == replace(Toy().recipe, lr=5e-5)
    (one,) = vary(RUN, "recipe.lora", (Lora(r=4, alpha=8),))
    assert one.method.recipe == replace(Toy().recipe, lora=Lora(r=4, alpha=8))
    assert one.label == "toy recipe.lora=r=4,alpha=8,dropout=0.0"
    assert [(run.label, run.images) for run in vary(RUN, "images", (10, 20))] == [
        ("toy images=10", 10),
        ("toy images=20", 20),
    ]


def test_what_was_varied_is_a_field_and_no_part_of_a_label() -> None:
    (first,) = vary(RUN, "tokens", (2,))
    (second,) = vary(first, "recipe.lr", (5e-5,))
    assert first.varied == Varied(row="toy", field="tokens", value="2")
    assert second.varied == Varied(row="toy tokens=2", field="recipe.lr", value="5e-05")
    named = replace(RUN, label="a=b")
    runs = replace(STUDY, runs=(BASE, first, named)).as_json()["runs"]
    assert [run["varied"] for run in runs] == [
        None,
        {"row": "toy", "field": "tokens", "value": "2"},
        None,
    ]


def test_seeds_are_one_row() -> None:
    runs = vary(RUN, "seed", range(3))
    assert {(run.label, run.varied) for run in runs} == {("toy", None)}
    Study(name="s", question="Does it?", runs=(BASE, *runs), benchmarks=(Words(),))


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"no field of toy or of a run 'token'; did you mean 'tokens'\?"
    ):
        vary(RUN, "token", (1,))
    with pytest.raises(UserError, match=r"did you mean 'recipe.lr'\?"):
        vary(RUN, "recipe.lrr", (1,))


def test_a_value_that_is_not_allowed_is_a_problem() -> None:
    with pytest.raises(
        UserError,
        match=r"toy: recipe.lr cannot be -1: Recipe.lr is -1; it must be a number above 0",
    ):
        vary(RUN, "recipe.lr", (-1,))
    with pytest.raises(UserError, match="images of 'toy images=0' is 0; it must be at least 1"):
        vary(RUN, "images", (0,))


def test_a_trained_run_ends_in_its_last_round_and_an_untrained_one_has_none() -> None:
    assert replace(RUN, rounds=3).last == 3
    assert replace(BASE, rounds=3).last == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": "a/b"}, "folder's name"),
        ({"images": 0}, "at least 1"),
        ({"rounds": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"method": "toy"}, "must be a dataclass"),
        ({"method": Untrained(), "seed": 1}, "has no training seed"),
    ],
)
def test_a_run_is_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(RUN, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../s"}, "folder's name"),
        ({"question": " "}, "asks no question"),
        ({"benchmarks": ()}, "has no benchmark"),
        ({"benchmarks": (Words(), Words(pictures=9))}, "holds the benchmark 'words' twice"),
        ({"benchmarks": (Words(name="a/b"),)}, "folder's name"),
        ({"runs": (RUN,)}, "no row to be the baseline 'untrained'"),
        ({"runs": (RUN, replace(RUN, seed=1)), "baseline": "toy"}, "'toy' has several seeds"),
        ({"runs": (BASE, RUN, RUN)}, "holds the run 'toy, seed 0' twice"),
        ({"runs": (BASE, RUN, replace(RUN, seed=1, images=7))}, "differ in more than their seed"),
        ({"primary": ("words/word",)}, r"no metric 'words/word'; did you mean 'words/words'\?"),
    ],
)
def test_a_study_is_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(STUDY, **changes)


def test_study_json_says_what_the_table_needs() -> None:
    said = STUDY.as_json()
    assert canonical(said)
    assert [(run["label"], run["rounds"], run["needs"]) for run in said["runs"]] == [
        ("untrained", 0, []),
        ("toy", 1, ["image"]),
    ]
    assert said["runs"][1]["settings"]["tokens"] == 6
    assert said["runs"][1]["recipe"]["lr"] == Recipe(lr=1e-3).lr
    (benchmark,) = said["benchmarks"]
    assert {name: benchmark[name] for name in ("name", "group", "version")} == {
        "name": "words",
        "group": "general",
        "version": "1",
    }
    assert [metric["primary"] for metric in benchmark["metrics"]] == [True, False]


def test_a_study_may_name_its_own_primary_metrics() -> None:
    (benchmark,) = replace(STUDY, primary=("words/the",)).as_json()["benchmarks"]
    assert [metric["primary"] for metric in benchmark["metrics"]] == [False, True]
