"""What every part has in common: what it was asked for, the time that is left, writing figures."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Shape = Literal["7b", "slim", "tiny"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A part's call: the model's shape, the device, the results' folder, when it must be done."""

    part: str
    shape: Shape
    device: str
    out: Path
    until: float

    @property
    def left(self) -> float:
        """Seconds that this part may still take."""
        return self.until - time.time()

    def row(self, table: str, row: str, cells: dict[str, Any]) -> None:
        """Add cells, by the names of their columns, to a row of a table, at once."""
        self._append({"table": table, "row": row, "cells": cells})

    def note(self, text: str) -> None:
        """Add a sentence."""
        self._append({"note": text})

    def block(self, title: str, text: str) -> None:
        """Add a Markdown text below a title."""
        self._append({"title": title, "block": text})

    def _append(self, line: dict[str, Any]) -> None:
        with (self.out / "gpu-check.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": self.part, **line}) + "\n")


def child(part: str, run: Callable[[Asked], None]) -> None:
    """The program of a part: parse the runner's arguments and run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=("7b", "slim", "tiny"), required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True)
    given = parser.parse_args()
    run(Asked(part=part, **vars(given)))
