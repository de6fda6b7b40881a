"""--lora and --full: one kind of training for all rows, or a sentence why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import UserError
from harness.study import ablate, compare, paper
from harness.study.training_kind import LORA, SYNTHETIC_LORA


def trained(**options: object) -> dict[str, object]:
    study = compare.study(**{"seeds": 1, **options})  # type: ignore[arg-type]
    return {run.label: run.method.recipe for run in study.runs if run.method.recipe}


@pytest.mark.parametrize(
    ("base", "adapters"), [("synthetic", SYNTHETIC_LORA), ("llava-1.5-7b", LORA)]
)
def test_lora_changes_every_row_alike_and_nothing_else(base: str, adapters: object) -> None:
    full, lora = (trained(base=base, controls=True, lora=lora) for lora in (False, True))
    assert trained(base=base, controls=True, full=True) == full
    for label, recipe in full.items():
        rate = lora[label].lr  # type: ignore[attr-defined]
        assert rate == pytest.approx(10 * recipe.lr)  # type: ignore[attr-defined]
        changed = replace(recipe, lr=rate, lora=adapters, projector_lr=0.0)  # type: ignore[type-var]
        assert lora[label] == changed


def test_the_studys_name_and_notes_say_lora_and_a_full_study_is_the_usual_one() -> None:
    usual = compare.study(limit=2, seeds=1)
    study = compare.study(limit=2, seeds=1, lora=True)
    assert (usual.name, study.name) == ("compare-limit2", "compare-limit2-lora")
    assert study.notes == (
        "Trained with LoRA (r 16, alpha 32, projector frozen, 10 times the learning rate, not"
        " tuned) in place of full training: sena, sima, csr.",
    )
    assert usual.tuning
    assert not study.tuning  # its rates were chosen for full training
    assert compare.study(limit=2, seeds=1, full=True).as_json() == usual.as_json()


def test_published_recipes_take_lora_where_they_train_in_full_and_never_full_where_lora() -> None:
    usual = trained(base="llava-1.5-7b", profile="published")
    lora = trained(base="llava-1.5-7b", profile="published", lora=True, released=True)
    assert (lora["sima"], lora["csr"]) == (usual["sima"], usual["csr"])
    assert lora["sena"].lora == LORA  # type: ignore[attr-defined]
    assert lora["sena as released"].lora is None  # type: ignore[attr-defined]
    runs, _ = paper.needs(lora=True)
    assert all(run.method.recipe.lora for run in runs if run.method.recipe)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lora": True, "full": True}, "exclude each other"),
        ({"lora": True, "profile": "released"}, "trains as the authors' code does"),
        ({"full": True, "profile": "published"}, "trains as the papers do"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        compare.study(base="llava-1.5-7b", **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave --lora out"):
        ablate.study(only=["recipe"], lora=True)
