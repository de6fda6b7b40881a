"""Checkpoints that authors released for LLaVA-1.5: where they are, and what stands for them in
published.csv.

All are in the original LLaVA repository's format, so each is converted before it is a row. Ids are
those that the named pages state; nothing was downloaded to check them. What a page did not state is
None: no revision, size or licence is guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ORIGINAL, CONVERTED = "original", "released"
"""Folders below the data folder: downloads as released, and what was converted from them."""


@dataclass(frozen=True, kw_only=True)
class ReleasedCard:
    """One released checkpoint."""

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
    """Its rows in published.csv; empty: it has none."""
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
        done = ("config.json", "adapter_config.json")  # written last
        if any((converted / name).is_file() for name in done):
            return ""
        if (original / "config.json").is_file():
            return f"{original} is not converted yet; run: {self.conversion(data)}"
        return (
            f"its weights are not in {converted}; run: {self.download(data)} && "
            f"{self.conversion(data)}"
        )


_SIMA = "github.com/umd-huang-lab/SIMA, README"
_CSR = "github.com/YiyangZhou/CSR, README"
_SENTINEL = "github.com/pspdada/SENTINEL, README"
_SEVA = "github.com/Kevinz-code/SeVa, README"
_HUB = "huggingface.co/"
_MERGED = "llava_merged_dpo_{}_1epoch_{}iteration"

CARDS: tuple[ReleasedCard, ...] = (
    ReleasedCard(
        name="sima-7b",
        label="SIMA released",
        base="llava-1.5-7b",
        source="furonghuang-lab/LLaVA-1.5-7B-SIMA",
        origin=_SIMA,
        form="full",
        rows=("sima",),
        gigabytes=14.13,
    ),
    ReleasedCard(
        name="csr-round1-7b",
        label="CSR released, round 1",
        base="llava-1.5-7b",
        source="charlesdj/CSR_LLaVA_1.5_7b_1Iteration",
        origin=_CSR,
        form="full",
        rows=("csr_round1",),
        inner=_MERGED.format("7b", 1),
    ),
    ReleasedCard(
        name="csr-round2-7b",
        label="CSR released, round 2",
        base="llava-1.5-7b",
        source="charlesdj/CSR_LLaVA_1.5_7b_2Iteration",
        origin=_CSR,
        form="full",
        rows=("csr_round2",),
        inner=_MERGED.format("7b", 2),
        licence="apache-2.0",
    ),
    ReleasedCard(
        name="csr-round3-7b",
        label="CSR released, round 3",
        base="llava-1.5-7b",
        source="charlesdj/CSR_LLaVA_1.5_7b_3Iteration",
        origin=_CSR,
        form="full",
        rows=("csr", "csr_round3"),
        gigabytes=14.13,
        licence="apache-2.0",
    ),
    ReleasedCard(
        name="povid-7b",
        label="POVID released",
        base="llava-1.5-7b",
        source="YiyangAiLab/llava_POVID_stage_two_full",
        origin=f"{_HUB}YiyangAiLab",
        form="full",
        rows=("povid",),
        inner="llava_stage_two",
    ),
    ReleasedCard(
        name="rlaif-v-7b",
        label="RLAIF-V released",
        base="llava-1.5-7b",
        source="openbmb/RLAIF-V-7B",
        origin=f"{_HUB}openbmb/RLAIF-V-7B",
        form="full",
        rows=("rlaif_v",),
        revision="8105cb9ca70c126ae3534390b1d3bce5bdaf241f",
        licence="apache-2.0",
    ),
    ReleasedCard(
        name="sentinel-7b",
        label="SENTINEL released",
        base="llava-1.5-7b",
        source="psp-dada/LLaVA-v1.5-7B-SENTINEL",
        origin=_SENTINEL,
        form="lora",
        rows=("sentinel",),
        licence="apache-2.0",
    ),
    ReleasedCard(
        name="seva-7b",
        label="SeVa released, diffusion 800",
        base="llava-1.5-7b",
        source="kevinke/seva-7b-diffu800",
        origin=_SEVA,
        form="lora",
    ),
    ReleasedCard(
        name="ha-dpo-7b",
        label="HA-DPO released",
        base="llava-1.5-7b",
        source="juliozhao/hadpo-llava-1.5",
        origin="github.com/opendatalab/HA-DPO, README",
        form="lora",
        rows=("ha_dpo",),
    ),
    ReleasedCard(
        name="sima-13b",
        label="SIMA released",
        base="llava-1.5-13b",
        source="furonghuang-lab/LLaVA-1.5-13B-SIMA",
        origin=_SIMA,
        form="full",
        rows=("sima",),
        revision="373d34f73e30ab49b68568b44b814487b836bf28",
        gigabytes=26.70,
    ),
    ReleasedCard(
        name="csr-round1-13b",
        label="CSR released, round 1",
        base="llava-1.5-13b",
        source="charlesdj/CSR_LLaVA_1.5_13b_1Iteration",
        origin=_CSR,
        form="full",
        rows=("csr_round1",),
        inner=_MERGED.format("13b", 1),
        licence="apache-2.0",
    ),
    ReleasedCard(
        name="csr-round2-13b",
        label="CSR released, round 2",
        base="llava-1.5-13b",
        source="charlesdj/CSR_LLaVA_1.5_13b_2Iteration",
        origin=_CSR,
        form="full",
        rows=("csr_round2",),
        revision="6de9d89d8f3697dd6b5d340d97badfd94d6bba98",
        gigabytes=26.70,
        licence="apache-2.0",
    ),
    ReleasedCard(
        name="csr-round3-13b",
        label="CSR released, round 3",
        base="llava-1.5-13b",
        source="charlesdj/CSR_LLaVA_1.5_13b_3Iteration",
        origin=_CSR,
        form="full",
        rows=("csr", "csr_round3"),
        revision="fb450a0b275dc5b718bb770c2da7c460999759fd",
        gigabytes=26.70,
    ),
    ReleasedCard(
        name="sentinel-13b",
        label="SENTINEL released",
        base="llava-1.5-13b",
        source="psp-dada/LLaVA-v1.5-13B-SENTINEL",
        origin=_SENTINEL,
        form="lora",
        rows=("sentinel",),
    ),
)
"""SENA's repository names no weights, and STIC's are of other bases. OPA-DPO's LoRA was trained on
an intermediate model, and of APASI no page with an id was found: they are left out."""


def cards_of(base: str) -> tuple[ReleasedCard, ...]:
    """The checkpoints that were trained from this base."""
    return tuple(card for card in CARDS if card.base == base)
