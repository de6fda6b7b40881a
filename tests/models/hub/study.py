"""The smallest study on a base that the command line names: two answers an image, a training, a
few questions."""

from __future__ import annotations

from collections.abc import Sequence

from harness.study.compare import run_from_text
from harness.study.study import Run, Study
from methods.csr.method import Csr
from methods.interface import Method, Recipe
from methods.untrained import Untrained
from tests.toy_method import Toy, Words

CSR = Csr(
    candidates=4,
    groups=4,
    penalty=1.0,
    sentence_tokens=4,
    max_chars=30,
    sentence_ends=(".", "a", "is", "the"),
    recipe=Recipe(lr=1e-3, global_batch=4),
)


def study(
    *,
    base: str,
    pool: str = "synthetic",
    images: int = 4,
    only: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Study:
    methods: dict[str, Method] = {"toy": Toy(), "csr": CSR}
    runs = [
        Run(label=label, base=base, method=methods[label], pool=pool, images=images)
        for label in only
    ]
    untrained = Run(label="untrained", base=base, method=Untrained())
    return Study(
        name="hub",
        question="Does it run?",
        runs=(untrained, *runs, *map(run_from_text, rows)),
        benchmarks=(Words(pictures=2),),
    )
