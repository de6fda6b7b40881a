"""The comparison's rows: which there are, which a pool can serve, and what is added beside the
methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.study import compare
from methods.catalogue import METHODS as CATALOGUE
from methods.controls import Control
from tests.toy_method import save_pictures

METHODS = ["sena", "sima", "csr"]
CONTROLS = {
    label: [f"{label} shuffled", f"{label} random rejected", f"{label} sft"] for label in METHODS
}
ALL = [label for labels in CONTROLS.values() for label in labels]


def labels(**options: object) -> list[str]:
    return [run.label for run in compare.study(**{"seeds": 1, **options}).runs]  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["synthetic", "llava-1.5-7b"])
def test_bounds_and_controls_come_when_they_are_asked_for(base: str) -> None:
    assert labels(base=base) == ["untrained", *METHODS]
    assert labels(base=base, controls=True) == ["untrained", *METHODS, "gt_dpo", "oracle", *ALL]
    assert labels(base=base, only=["sima"]) == ["untrained", "sima"]
    assert labels(base=base, only=["oracle"]) == ["untrained", "oracle"]
    assert labels(base=base, only=["sima"], controls=True) == [
        "untrained",
        "sima",
        "gt_dpo",
        "oracle",
        *CONTROLS["sima"],
    ]


def test_a_row_that_the_pool_cannot_serve_is_left_out_unless_named(tmp_path: Path) -> None:
    folder = str(save_pictures(tmp_path / "pictures", 2))
    assert labels(pool=folder, controls=True) == ["untrained", "sena", *CONTROLS["sena"]]
    assert labels(pool=folder, only=["sima"]) == [
        "untrained",
        "sima",
    ]  # refused by the runner, in words
    manifest = tmp_path / "pool.jsonl"
    manifest.write_text(
        json.dumps({"image": "pictures/00.png", "question": "what ?", "reference": "a ball ."})
    )
    assert labels(pool=str(manifest), controls=True) == ["untrained", *METHODS, "gt_dpo", *ALL]
    assert labels(only=["csr"]) == ["untrained", "csr"]


def test_controls_are_of_the_row_beside_them() -> None:
    for base in ("synthetic", "llava-1.5-7b"):
        rows = {run.label: run.method for run in compare.study(base=base, controls=True).runs}
        for inner, labelled in CONTROLS.items():
            for label in labelled:
                method = rows[label]
                assert isinstance(method, Control)
                assert method.inner == rows[inner]
                assert method.name == label


@pytest.mark.parametrize("base", ["synthetic", "llava-1.5-7b"])
def test_the_profile_equal_gives_every_row_the_same_batch_and_steps(base: str) -> None:
    runs = [
        run for run in compare.study(base=base, controls=True, images=600).runs if run.method.recipe
    ]
    assert (
        len(
            {
                (run.steps, run.method.recipe.global_batch, run.images)
                for run in runs
                if run.method.recipe
            }
        )
        == 1
    )
    assert runs[0].steps == (
        38 if base == "synthetic" else 5
    )  # 2 visits an image at batch 32, 1 at 128


def test_the_profile_published_takes_each_papers_recipe() -> None:
    for base in ("synthetic", "llava-1.5-7b"):
        rows = {run.label: run for run in compare.study(base=base, profile="published").runs}
        assert all(run.steps is None for run in rows.values())
        recipes = {label: run.method.recipe for label, run in rows.items()}
        assert recipes == {label: CATALOGUE[label].published.recipe for label in rows}
    with pytest.raises(UserError, match="did you mean 'equal'"):
        compare.study(profile="eqal")  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["synthetic", "llava-1.5-7b"])
def test_released_rows_stand_beside_the_methods(base: str) -> None:
    plain = {run.label: run for run in compare.study(base=base).runs}
    runs = {run.label: run for run in compare.study(base=base, released=True).runs}
    added = [f"{label} as released" for label in METHODS]
    assert sorted(runs) == sorted([*plain, *added])
    assert all(runs[label] == run for label, run in plain.items())
    for name in METHODS:
        entry, run = CATALOGUE[name], runs[f"{name} as released"]
        released = type(entry.published).as_released()  # type: ignore[attr-defined]
        recipe = run.method.recipe
        assert recipe is not None
        if base == "synthetic":  # its own rates, batch and steps
            own = plain[name].method.recipe
            assert (recipe.lr, recipe.global_batch, run.steps) == (
                own.lr,  # type: ignore[union-attr]
                own.global_batch,  # type: ignore[union-attr]
                plain[name].steps,
            )
            assert recipe.objective == released.recipe.objective
        else:
            assert run.method == released
            assert run.steps is None
    assert runs["csr as released"].same_images
    assert not runs["csr"].same_images


def test_the_profile_released_is_the_released_code_throughout() -> None:
    rows = {run.label: run for run in compare.study(base="llava-1.5-7b", profile="released").runs}
    for name in METHODS:
        released = type(CATALOGUE[name].published).as_released()  # type: ignore[attr-defined]
        assert rows[name].method == released
    small = {run.label: run for run in compare.study(profile="released").runs}
    assert small["sima"].method.recipe == rows["sima"].method.recipe
    assert small["sima"].method.prompts == CATALOGUE["sima"].synthetic.prompts  # type: ignore[attr-defined]


def test_13b_has_its_own_epochs() -> None:
    def epochs(base: str) -> dict[str, float]:
        runs = compare.study(base=base, profile="published").runs
        return {run.label: run.method.recipe.epochs for run in runs if run.method.recipe}

    assert epochs("llava-1.5-7b") == {"sena": 1, "sima": 3, "csr": 1}
    assert epochs("llava-1.5-13b") == epochs("llava-1.5-13b-hf") == {"sena": 1, "sima": 1, "csr": 1}


def test_an_unknown_row_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'oracle'"):
        compare.study(only=["orakle"])
    with pytest.raises(UserError, match="no pool"):
        compare.study(pool="nowhere")


def test_references_and_most_controls_take_one_round() -> None:
    rounds = {run.label: run.rounds for run in compare.study(rounds=3, controls=True).runs}
    assert {label for label, last in rounds.items() if last == 3} == {
        "untrained",
        *METHODS,
        *(f"{method} random rejected" for method in METHODS),
    }


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        ("synthetic", "compare"),
        ("data/my images/", "compare-my-images"),
        ("llava:data/mix.json:data/coco", "compare-llava-mix-coco"),
        ("pool.jsonl", "compare-pool"),
    ],
)
def test_another_pool_has_its_own_folder(pool: str, name: str) -> None:
    assert compare.folder_name("compare", "synthetic", None, pool) == name
    assert compare.folder_name("compare", "synthetic", 5, pool) == f"{name}-limit5"


def test_a_large_base_has_its_published_recipe_in_all_rows_that_share_it() -> None:
    runs = compare.study(
        base="llava-1.5-13b", profile="published", only=["sima", "gt_dpo", "oracle"], limit=2
    ).runs
    epochs = {run.label: run.method.recipe.epochs for run in runs if run.method.recipe}
    assert epochs == {"sima": 1, "gt_dpo": 1, "oracle": 1}


def test_a_control_sees_the_images_of_its_method() -> None:
    only = ["csr", "csr random rejected", "sima"]
    runs = compare.study(profile="published", only=only, rounds=2, seeds=1, limit=2).runs
    same = {run.label: run.same_images for run in runs if run.method.recipe}
    assert same == {"csr": True, "csr random rejected": True, "sima": False}
