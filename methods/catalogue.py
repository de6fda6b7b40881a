"""The methods by name: a new one is written in its own folder and added here, in this one line of
its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from methods.csr.method import Csr
from methods.gt_dpo import GtDpo
from methods.interface import Method
from methods.oracle import Oracle
from methods.sena.method import Sena
from methods.sima.method import Sima
from methods.untrained import Untrained

METHODS: Mapping[str, Callable[..., Method]] = {
    "untrained": Untrained,
    "sena": Sena,
    "sima": Sima,
    "csr": Csr,
    "gt_dpo": GtDpo,
    "oracle": Oracle,
}
