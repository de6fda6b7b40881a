"""The methods by name. A new method is one folder, which defines its ``ENTRY``, and one line
here; comparisons, costs, the doctor and the documents read this list."""

from __future__ import annotations

from collections.abc import Mapping

from methods import references, untrained
from methods.csr import method as csr
from methods.entry import Entry
from methods.sena import method as sena
from methods.sima import method as sima

METHODS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        untrained.ENTRY,
        sena.ENTRY,
        sima.ENTRY,
        csr.ENTRY,
        references.GT_DPO,
        references.ORACLE,
    )
}
