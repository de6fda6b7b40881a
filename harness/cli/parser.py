"""The parser of all commands: options are written out, and a mistake is one sentence."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from harness.errors import UserError, unknown


class Parser(argparse.ArgumentParser):
    """argparse's parser without abbreviated options. A mistake is a UserError with the nearest
    name, not a page of usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(  # type: ignore[override]  # one of argparse's overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Each command's parser refuses its own unknown words, so that its options are named."""
        parsed, unknown_words = super().parse_known_args(args, namespace)
        if unknown_words:
            self._refuse(unknown_words)
        return parsed, []

    def _refuse(self, words: Sequence[str]) -> NoReturn:
        word = next((word for word in words if word.startswith("-")), words[0])
        option = word.partition("=")[0]
        if not option.startswith("-"):
            raise UserError(f"{self.prog} has no place for {option!r}; leave it out.")
        options = sorted(name for name in self._option_string_actions if name.startswith("--"))
        near = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{option}: {hint}All options: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = f"value of {action.option_strings[0]}" if action.option_strings else "command"
            raise unknown(kind, str(value), map(str, action.choices))

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


class Listed(argparse.Action):
    """An option with a list: several words, commas between them, and repetitions all add up."""

    def __call__(
        self, _parser: Any, args: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        listed = [name for text in values for name in names(text)]
        if not listed:
            raise UserError(
                f"{option_string} is given no name; write names behind it, apart by spaces or"
                " commas."
            )
        setattr(args, self.dest, [*(getattr(args, self.dest) or ()), *listed])


def names(text: str) -> Sequence[str]:
    """The parts between commas. In ``NAME=FOLDER`` texts a comma counts before ``NAME=`` only."""
    parts = re.split(r",(?=[^,=/]+=)" if "=" in text else ",", text)
    return [part.strip() for part in parts if part.strip()]


LISTED: dict[str, Any] = {"action": Listed, "nargs": "+"}
SWITCH: dict[str, Any] = {"action": "store_true"}


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int | None], help: str
) -> argparse.ArgumentParser:
    """Add a command; the parser stores its function as ``command``."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=function)
    return parser
