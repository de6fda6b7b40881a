"""Settings checked from their annotations: one check for every dataclass of settings.

A field says what it allows in its annotation: ``bool``, ``int``, ``float``, ``str``,
``Literal["a", "b"]``, ``X | None``, ``tuple[X, ...]``, a class, or ``Annotated[X, limit]`` with
limits such as :func:`at_least`. Types are strict: neither ``True`` nor ``"1"`` is a number. An int
is accepted as a float, and every number must be finite. Entries of other containers, such as
``list[X]``, are not checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

TYPE_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Limit:
    """A condition on a value of the right type, and its words after "a number" or "a tuple"."""

    words: str
    holds: Callable[[Any], bool]


def at_least(bound: float) -> Limit:
    return Limit(f"of at least {bound}", lambda value: value >= bound)


def at_most(bound: float) -> Limit:
    return Limit(f"at most {bound}", lambda value: value <= bound)


def above(bound: float) -> Limit:
    return Limit(f"above {bound}", lambda value: value > bound)


def below(bound: float) -> Limit:
    return Limit(f"below {bound}", lambda value: value < bound)


def between(low: float, high: float) -> Limit:
    """Both ends are allowed."""
    return Limit(f"from {low} to {high}", lambda value: low <= value <= high)


not_empty = Limit("not empty", bool)
not_blank = Limit("not blank", lambda text: bool(text.strip()))
distinct = Limit("no entry twice", lambda entries: len(set(entries)) == len(entries))

AtLeastOne = Annotated[int, at_least(1)]
"""A count or a size."""
Text = Annotated[str, not_blank]
"""A sentence of a prompt set."""


def check_settings(settings: Any) -> None:
    """Check each field of a dataclass against its annotation.

    Raises:
        ValueError: a value is not allowed; one sentence with the setting, the value and what is
            allowed.
        TypeError: an annotation is of a form that is not listed above.
    """
    kind: type = type(settings)
    for name, annotation in _annotations(kind).items():
        value = getattr(settings, name)
        if not _allows(annotation, value):
            raise ValueError(
                f"{kind.__name__}.{name} is {value!r}; it must be {allowed(annotation)}."
            )


def read_setting(settings: Any, name: str, text: str) -> Any:
    """The value that a command line's text gives the field ``name``: the first reading that its
    annotation allows. ``+`` stands between the entries of a tuple.

    Raises:
        ValueError: no reading is allowed; one sentence with what is.
    """
    kind: type = type(settings)
    annotation = _annotations(kind)[name]
    for value in _readings(text):
        if _allows(annotation, value):
            return value
    raise ValueError(f"{kind.__name__}.{name} is {text!r}; it must be {allowed(annotation)}.")


def _readings(text: str) -> Iterator[Any]:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        yield words[text.lower()]
    for kind in (int, float, str):
        for texts in ([text], text.split("+")):
            try:
                values = tuple(map(kind, texts))
            except ValueError:
                continue
            yield values[0] if len(values) == 1 else values
            yield values


@cache
def _annotations(kind: type) -> dict[str, Any]:
    """The annotation of each field that the constructor takes."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _allows(annotation: Any, value: object) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _allows(args[0], value) and all(limit.holds(value) for limit in args[1:])
    if origin is Literal:
        # 1 == True: the types must agree, too.
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, UnionType):
        return any(_allows(arg, value) for arg in args)
    if origin is tuple and args[1:] == (...,):
        return isinstance(value, tuple) and all(_allows(args[0], entry) for entry in value)
    if annotation is float or annotation is int:
        kinds = (int, float) if annotation is float else int
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        return isinstance(value, int) or math.isfinite(value)
    if annotation is Any:
        return True
    if isinstance(kind := origin or annotation, type):
        return isinstance(value, kind)
    raise TypeError(f"check_settings cannot check the annotation {annotation!r}.")


def allowed(annotation: Any) -> str:
    """What an annotation allows, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = " and ".join(limit.words for limit in args[1:])
        if args[0] in (int, float):
            return f"{allowed(args[0])} {limits}"
        kind, of, entries = allowed(args[0]).partition(" of ")
        return f"{kind} ({limits}){of}{entries}"
    if origin is Literal:
        return _join_choices([repr(choice) for choice in args])
    if origin in (Union, UnionType):
        return _join_choices([allowed(arg) for arg in args])
    if origin is tuple and args[1:] == (...,):
        return f"a tuple of entries that are each {allowed(args[0])}"
    if annotation is bool:
        return "True or False"
    if annotation is NoneType:
        return "None"
    return TYPE_WORDS.get(annotation) or f"a {(origin or annotation).__name__}"


def _join_choices(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
