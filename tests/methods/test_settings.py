"""Settings checked from their annotations: each kind of annotation allows what it says, and a wrong
value is refused in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, AnyStr, Literal

import pytest

from methods.interface import Decoding, Lora, PreferencePair, Recipe
from methods.settings import (
    AtLeastOne,
    Text,
    above,
    at_most,
    between,
    check_settings,
    distinct,
    not_empty,
)

RECIPE = Recipe(lr=1.0)


@dataclass(frozen=True, kw_only=True)
class Example:
    count: AtLeastOne = 1
    share: Annotated[float, above(0), at_most(1)] = 1.0
    level: Annotated[int, between(1, 9)] = 5
    on: bool = True
    kind: Literal["a", "b"] = "a"
    rate: Annotated[float, above(0)] | None = None
    name: Text = "x"
    parts: Annotated[tuple[Literal["a", "b"], ...], not_empty, distinct] = ("a",)
    recipe: Recipe = RECIPE
    anything: Any = None
    listed: list[int] | None = None
    size: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 7},
        {"share": 1, "rate": 2},  # whole numbers are numbers
        {"level": 1},
        {"level": 9},
        {"kind": "b", "parts": ("b", "a"), "rate": 0.5},
        {"anything": object, "listed": [1], "size": (3, 4)},
    ],
)
def test_allowed_values_are_taken(changes: dict[str, Any]) -> None:
    assert {name: getattr(Example(**changes), name) for name in changes} == changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "Example.count is 0; it must be a whole number of at least 1."),
        ({"count": True}, "Example.count is True; it must be a whole number of at least 1."),
        ({"count": 1.0}, "Example.count is 1.0; it must be a whole number of at least 1."),
        ({"count": "1"}, "Example.count is '1'; it must be a whole number of at least 1."),
        ({"share": "0.5"}, "Example.share is '0.5'; it must be a number above 0 and at most 1."),
        ({"share": False}, "Example.share is False; it must be a number above 0 and at most 1."),
        (
            {"share": float("nan")},
            "Example.share is nan; it must be a number above 0 and at most 1.",
        ),
        ({"level": 10}, "Example.level is 10; it must be a whole number from 1 to 9."),
        ({"on": 1}, "Example.on is 1; it must be True or False."),
        ({"kind": "c"}, "Example.kind is 'c'; it must be 'a' or 'b'."),
        ({"rate": 0.0}, "Example.rate is 0.0; it must be a number above 0 or None."),
        ({"rate": float("inf")}, "Example.rate is inf; it must be a number above 0 or None."),
        ({"name": " "}, "Example.name is ' '; it must be a text (not blank)."),
        (
            {"parts": ("a", "a")},
            "Example.parts is ('a', 'a'); it must be a tuple (not empty and no entry twice) of"
            " entries that are each 'a' or 'b'.",
        ),
        (
            {"parts": ["a"]},
            "Example.parts is ['a']; it must be a tuple (not empty and no entry twice) of entries"
            " that are each 'a' or 'b'.",
        ),
        ({"recipe": None}, "Example.recipe is None; it must be a Recipe."),
        ({"listed": 3}, "Example.listed is 3; it must be a list or None."),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        Example(**changes)
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "ppo"}, "Recipe.objective is 'ppo'; it must be 'dpo', 'sft' or"),
        ({"objective": "DPO"}, "Recipe.objective is 'DPO'"),
        ({"schedule": "zigzag"}, "must be 'cosine', 'linear' or 'constant'"),
        ({"lr": "1e-5"}, "Recipe.lr is '1e-5'; it must be a number above 0"),
        ({"global_batch": 2.5}, "Recipe.global_batch is 2.5"),
        ({"warmup": 1.0}, "Recipe.warmup is 1.0; it must be a number of at least 0 and below 1"),
        ({"lora": {"r": 8}}, "it must be a Lora or None"),
    ],
)
def test_a_recipe_has_no_silent_default(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(Recipe(lr=1e-5), **changes)


def test_the_other_settings_of_the_interface_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"Lora\.r is 0"):
        Lora(r=0, alpha=1)
    with pytest.raises(ValueError, match=r"Decoding\.stop is .*; it must be a tuple"):
        Decoding(max_new_tokens=1, stop="end")  # type: ignore[arg-type]


def test_another_form_of_annotation_is_a_type_error() -> None:
    @dataclass
    class Odd:
        value: AnyStr = "a"  # type: ignore[valid-type, assignment]

    with pytest.raises(TypeError, match="cannot check the annotation"):
        check_settings(Odd())


def test_pairs_of_older_results_are_read() -> None:
    row = {"key": "k", "item": "i", "prompt": "p", "chosen": "c", "rejected": "r"}
    pair = PreferencePair(key="k", item="i", prompt="p", chosen="c", rejected="r", aligned=True)
    assert PreferencePair.from_json({**row, "anchored": True}) == pair
    assert PreferencePair.from_json({**row, "aligned": True}) == pair
