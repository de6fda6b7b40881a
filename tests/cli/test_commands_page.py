"""COMMANDS.md lists every command and option, as the parsers define them.

``python -m tests.cli.test_commands_page`` writes it again. The page is made from the parsers'
arguments, not from argparse's help text, whose layout depends on the terminal's width and on
Python's version.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from harness.cli.main import parser
from harness.synthetic import rebuild

PAGE = Path(__file__).resolve().parents[2] / "COMMANDS.md"
HEAD = """# Commands

Made from the program's own parser by `python -m nox -s regenerate`; a test checks that it is
current. In an installation the same commands are `selfsight COMMAND`.

Exit codes: 0 done; 1 `verify` found a broken file; 2 a mistake, explained on stderr; 3 done, but a
row ended early; 130 interrupted.

"""
TIMES = {"+": "{0} ...", "*": "[{0} ...]", "?": "[{0}]", argparse.REMAINDER: "[{0}]"}
"""How often an argument is given, by argparse's ``nargs``."""


def commands() -> dict[str, argparse.ArgumentParser]:
    """Each command's name and parser, in the order of ``python -m harness --help``."""
    top = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {**top.choices, "synthetic": rebuild.parser()}


def arguments(command: argparse.ArgumentParser) -> Iterator[tuple[argparse.Action, str]]:
    """Each argument but ``--help``, with the words that give it, such as ``--seeds N``."""
    for action in command._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        value = ""
        if action.nargs != 0:
            metavar = action.metavar if isinstance(action.metavar, str) else action.dest
            if action.choices is not None and action.metavar is None:
                metavar = "{" + ",".join(map(str, action.choices)) + "}"
            value = TIMES.get(str(action.nargs), "{0}").format(metavar)
        yield action, " ".join(filter(None, [", ".join(action.option_strings), value]))


def section(name: str, command: argparse.ArgumentParser) -> str:
    """A command's part of the page: what it does, how it is called, a table of its arguments."""
    given = list(arguments(command))
    last = [words for action, words in given if action.nargs == argparse.REMAINDER]
    needed = [
        words
        for action, words in given
        if (not action.option_strings or action.required) and words not in last
    ]
    more = ["[options]"] if len(needed) + len(last) < len(given) else []
    call = " ".join(["python -m harness", name, *needed, *more, *last])
    rows = [
        f"| `{words}` | {(action.help or '') % {**vars(action), 'prog': command.prog}} |"
        for action, words in given
    ]
    says = " ".join((command.description or "").split())
    lines = [f"## {name}", "", f"{says[:1].upper()}{says[1:].rstrip('.')}.", ""]
    return "\n".join([*lines, "```bash", call, "```", "", "| | |", "|:--|:--|", *rows, ""])


def page() -> str:
    return HEAD + "\n".join(section(name, command) for name, command in commands().items())


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it: python -m nox -s regenerate"


def test_a_new_option_changes_the_page() -> None:
    command = argparse.ArgumentParser(description="do it")
    command.add_argument("place", nargs="*", metavar="PLACE", help="where")
    before = section("do", command)
    command.add_argument("--often", choices=(1, 2), required=True, help="100 %% of %(dest)s")
    assert "| `[PLACE ...]` | where |\n" in before
    assert "python -m harness do [PLACE ...]\n" in before
    after = section("do", command)
    assert "python -m harness do [PLACE ...] --often {1,2}\n" in after
    assert after == before.replace("[PLACE ...]\n", "[PLACE ...] --often {1,2}\n") + (
        "| `--often {1,2}` | 100 % of often |\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
