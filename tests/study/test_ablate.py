"""The ablation and tuning studies: a row differs from its method's own row in the setting of its
label alone."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from harness.errors import UserError
from harness.study import ablate, compare, tune
from harness.study.study import Run
from methods.catalogue import METHODS
from methods.csr.method import Csr
from methods.entry import EXECUTED, as_released
from methods.interface import Method
from methods.sena.method import Sena
from methods.sima.method import Sima


def changed(one: Method, other: Method) -> set[str]:
    return {
        field.name
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    }  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["sena", "sima", "csr"])
def test_an_ablation_changes_what_its_label_says_alone(method: str) -> None:
    untrained, whole, *others = ablate.study(only=[method]).runs
    assert (untrained.label, whole.label) == ("untrained", method)
    assert whole == replace(
        compare.with_images(compare.study(only=[method]).runs[1], compare.IMAGES)
    )
    settings = [run for run in others if not run.label.endswith(compare.RELEASED)]
    assert len(others) == len(settings) + 1
    for run in settings:
        assert run.varied is not None
        assert (run.varied.row, run.label) == (
            method,
            f"{method} {run.varied.field}={run.varied.value}",
        )
        field = run.label.removeprefix(f"{method} ").partition("=")[0]
        assert field in ablate.ABLATIONS[method]
        if field in ("images", "rounds"):
            plain = replace(run, label=method, varied=None)
            assert replace(plain, **{field: getattr(whole, field)}) == whole
        else:
            assert changed(run.method, whole.method) == {field.partition(".")[0]}
            assert replace(run, label=method, varied=None, method=whole.method) == whole
    labelled = {run.label.removeprefix(f"{method} ").partition("=")[0] for run in settings}
    assert labelled == set(ablate.ABLATIONS[method])


@pytest.mark.parametrize("kind", [Sena, Sima, Csr])
def test_the_released_row_has_every_flaw_and_keeps_the_rest(
    kind: type[Sena] | type[Sima] | type[Csr],
) -> None:
    row = METHODS[kind.name].synthetic
    made = as_released(row, row.recipe)
    flaws = changed(kind.as_released(), kind())
    for name in flaws - {"recipe"}:
        assert getattr(made, name) == getattr(kind.as_released(), name)
    assert changed(made, row) <= flaws
    assert made.recipe is not None
    assert row.recipe is not None
    executed = {name: getattr(kind.as_released().recipe, name) for name in EXECUTED}
    assert made.recipe == replace(row.recipe, **executed)
    assert as_released(kind()) == kind.as_released()


def test_the_recipe_is_ablated_on_lora_rows() -> None:
    runs = {run.label: run for run in ablate.study(only=["recipe"]).runs}
    assert list(runs) == [
        "untrained",
        *(
            f"{method} LoRA{change}"
            for method in ("sima", "csr")
            for change in (
                "",
                " recipe.projector_lr=0.0002",
                " recipe.lora.dropout=0.05",
                " recipe.max_grad_norm=1.0",
            )
        ),
    ]
    for method in ("sima", "csr"):
        executed, published = runs[f"{method} LoRA"].method.recipe, METHODS[method].published.recipe
        assert executed is not None
        assert published is not None
        for name in ("projector_lr", "max_grad_norm"):
            assert getattr(executed, name) == getattr(published, name) == 0
        assert executed.lora is not None
        assert executed.lora.dropout == 0


def test_trials_are_as_many_for_each_method_and_never_on_the_test_split() -> None:
    made = tune.study()
    assert made.split == "dev"
    assert {method: len(trials) for method, trials in tune.TRIALS.items()} == dict.fromkeys(
        compare.trained_rows("method"), 12
    )
    trials = [run for run in made.runs if run.method.recipe]
    assert len({run.label for run in trials}) == 36
    assert len({(run.steps, run.images) for run in trials}) == 1
    for method in compare.trained_rows("method"):  # what was chosen is one of them
        assert METHODS[method].synthetic in [run.method for run in trials]


def test_the_images_of_an_ablation_follow_a_limit() -> None:
    assert {
        run.images for run in ablate.study(only=["sima"], limit=20).runs if run.method.recipe
    } == {20}
    with pytest.raises(UserError, match="did you mean 'sima'"):
        ablate.study(only=["sina"])


def test_at_images_scales_the_steps() -> None:
    run: Run = compare.study(only=["sena"], limit=100).runs[1]
    assert (run.images, run.steps) == (100, 7)
    assert compare.with_images(run, 600) == replace(run, images=600, steps=38)


def test_settings_are_varied_from_the_command_line() -> None:
    given = ("sena.noise_step=200,420,600", "csr.recipe.lora=none", "sena.pair_kinds=question")
    built = ablate.study(vary=given)
    varied = [(run.varied.row, run.varied.field, run.varied.value) for run in built.runs
              if run.varied]  # fmt: skip
    assert varied == [
        ("sena", "noise_step", "200"),
        ("sena", "noise_step", "600"),  # 420 is SENA's own
        ("sena", "pair_kinds", "question"),
    ]
    sena = next(run for run in built.runs if run.label == "sena noise_step=200")
    assert sena.method == replace(METHODS["sena"].synthetic, noise_step=200)
    assert {run.label for run in built.runs if not run.varied} == {"untrained", "sena", "csr"}
    assert built.name == "ablate-sena.noise_step-csr.recipe.lora-sena.pair_kinds"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sena.noise_stp=1", "did you mean 'noise_step'?"),
        ("sna.noise_step=1", "did you mean 'sena'?"),
        ("sena.noise_step=many", "it must be a whole number"),
        ("sena.check=deaf", "'blind'"),
        ("sena.images=1.5", "it must be a whole number"),
        ("sena.noise_step", "must be ROW.SETTING=VALUE,VALUE"),
    ],
)
def test_a_wrong_setting_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        ablate.study(vary=[text])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
