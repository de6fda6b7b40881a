"""Checkpoints that authors released for LLaVA-1.5 (``released.csv``): where they are, and what
stands for them in published.csv.

All are in the original LLaVA repository's format, so each is converted before it is a row. Ids are
those that the named pages state; nothing was downloaded to check them. What a page did not state is
None: no revision, size or licence is guessed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ORIGINAL, CONVERTED = "original", "released"
"""Folders below the data folder: downloads as released, and what was converted from them."""


@dataclass(frozen=True, kw_only=True)
class ReleasedCard:
    """One released checkpoint, a line of ``released.csv``."""

    name: str
    """Names its folders below the data folder, and the row for ``--only``."""
    label: str
    """Of its row in the table."""
    base: str
    """The base card that it was trained from."""
    source: str
    """The hub id."""
    origin: str
    """The page that states the hub id."""
    form: Literal["full", "lora"]
    rows: tuple[str, ...] = ()
    """Its rows in published.csv, separated by spaces in the file; empty: it has none."""
    inner: str = ""
    """The folder of the checkpoint inside the repository; empty: its root."""
    revision: str | None = None
    """The hub's commit; None: not known whole, so the newest one is downloaded."""
    gigabytes: float | None = None
    """Size of the weights, in 10^9 bytes; None: not known."""
    licence: str | None = None
    """As the repository on the hub states it; None: not known. The licence of the base (Llama 2)
    holds for all."""

    def original(self, data: Path) -> Path:
        """Where the checkpoint lies after its download."""
        return data / ORIGINAL / self.name / self.inner

    def converted(self, data: Path) -> Path:
        return data / CONVERTED / self.name

    def download(self, data: Path) -> str:
        """The command that downloads it."""
        revision = f" --revision {self.revision}" if self.revision else ""
        inner = f" --include '{self.inner}/*'" if self.inner else ""
        folder = data / ORIGINAL / self.name
        return f"hf download {self.source}{revision}{inner} --local-dir {folder}"

    def conversion(self, data: Path) -> str:
        """The command that converts it."""
        folders = f"{self.original(data)} --out {self.converted(data)}"
        return f"python -m harness convert {folders} --base {self.base}"

    def lacking(self, data: Path) -> str:
        """What must be done before it is a row; empty: nothing."""
        converted, original = self.converted(data), self.original(data)
        last_files = ("config.json", "adapter_config.json")  # written last
        if any((converted / name).is_file() for name in last_files):
            return ""
        if (original / "config.json").is_file():
            return f"{original} is not converted yet; run: {self.conversion(data)}"
        return (
            f"its weights are not in {converted}; run: {self.download(data)} && "
            f"{self.conversion(data)}"
        )


def _card(line: Mapping[str, str]) -> ReleasedCard:
    """The card of a line; an empty cell is the field's default."""
    fields: dict[str, Any] = {name: value for name, value in line.items() if value}
    if line["gigabytes"]:
        fields["gigabytes"] = float(line["gigabytes"])
    return ReleasedCard(**{**fields, "rows": tuple(line["rows"].split())})


with Path(__file__).with_name("released.csv").open(encoding="utf-8", newline="") as lines:
    CARDS: tuple[ReleasedCard, ...] = tuple(map(_card, csv.DictReader(lines)))
"""SENA's repository names no weights, and STIC's are of other bases. OPA-DPO's LoRA was trained on
an intermediate model, and of APASI no page with an id was found: they are left out."""


def cards_of(base: str) -> tuple[ReleasedCard, ...]:
    """The checkpoints that were trained from this base."""
    return tuple(card for card in CARDS if card.base == base)
