"""Reference log-probabilities: what the frozen policy at the round's start gives each chosen and
rejected answer.

They do not change during a round, so they are computed once and kept in ``reference.jsonl``: a
header line that names the policy and the objective, then ``{"key", "texts", "chosen", "rejected"}``
a pair, sums in nats over the answer's tokens and end token."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import read_jsonl, write_jsonl
from harness.errors import UserError
from harness.training.pair_batches import EncodedPair, pack
from harness.training.policy import completion_logps
from harness.training.ranks import SINGLE, Ranks

WRITE_EVERY = 32
"""Batches between two writes of the file: what a kill can cost."""


def reference_logps(
    model: Any,
    pairs: Sequence[EncodedPair],
    features: Mapping[str, Tensor],
    *,
    policy: str,
    cache: Path,
    batch: int,
    pad: int = 0,
    rejected_argmax: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ranks: Ranks = SINGLE,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> dict[str, tuple[float, float]]:
    """(chosen, rejected) a pair's key under ``model`` as it is now; what ``cache`` holds already is
    not computed again.

    ``policy`` names the policy (such as :func:`weights_digest`'s text). With one ``batch`` pairs
    are always laid out alike, so a resumed file equals an undisturbed one to the last bit. A team
    shares the batches; its first process writes. Raises :class:`UserError` if ``cache`` belongs to
    another policy, objective or other texts."""
    header = {"policy": policy, "rejected_argmax": rejected_argmax}
    known = _read(cache, header, pairs)
    order = sorted(pairs, key=lambda one: (one.length, one.pair.key))
    chunks = [order[start : start + batch] for start in range(0, len(order), batch)]
    missing = [chunk for chunk in chunks if any(one.pair.key not in known for one in chunk)]
    texts = {one.pair.key: texts_digest(one) for one in pairs}

    def write() -> None:
        rows = (
            {"key": key, "texts": texts[key], "chosen": a, "rejected": b}
            for key, (a, b) in known.items()
        )
        write_jsonl(cache, [header, *rows])

    rounds = [missing[start : start + ranks.size] for start in range(0, len(missing), ranks.size)]
    for count, turn in enumerate(rounds, start=1):
        mine: dict[str, tuple[float, float]] = {}
        if ranks.rank < len(turn):
            chunk = turn[ranks.rank]
            with torch.no_grad(), autocast():
                logps, _ = completion_logps(
                    model, pack(chunk, pad=pad), features, rejected_argmax=rejected_argmax
                )
            sums = logps.sum(-1).tolist()
            mine = {
                one.pair.key: (a, b)
                for one, a, b in zip(chunk, sums[: len(chunk)], sums[len(chunk) :], strict=True)
            }
        fresh = {key: values for part in ranks.gather(mine) for key, values in part.items()}
        for key, (a, b) in fresh.items():
            if not math.isfinite(a + b):
                raise UserError(
                    f"The base gives pair {key} a log-probability that is not finite ({a}, {b}); "
                    "its weights are damaged or overflow: load it in bfloat16 or float32."
                )
        known |= fresh
        if ranks.is_main and (count % WRITE_EVERY == 0 or count == len(rounds)):
            write()
        progress("reference", min(count * ranks.size, len(missing)), len(missing))
    return {one.pair.key: known[one.pair.key] for one in pairs}


def weights_digest(model: Any, sample: int = 4096) -> str:
    """A quick fingerprint of a policy: up to ``sample`` evenly spread values of each parameter,
    byte by byte.

    It guards against a mixed-up folder or model; the stage's identity carries the full hash of the
    weights' files."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // sample)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(parameter.shape)} ".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def texts_digest(one: EncodedPair) -> str:
    """What a pair's reference values depend on besides the weights: its image's id and its token
    ids."""
    return fingerprint([one.pair.item, one.prompt, one.chosen, one.rejected])[:16]


def _read(
    cache: Path, header: Mapping[str, object], pairs: Sequence[EncodedPair]
) -> dict[str, tuple[float, float]]:
    if not cache.exists():
        return {}
    rows = read_jsonl(cache)
    if not rows or rows[0] != header:
        raise UserError(
            f"{cache} was computed under another model or objective; delete it and run again."
        )
    known = {row["key"]: row for row in rows[1:]}
    for one in pairs:
        row = known.get(one.pair.key)
        if row is not None and row["texts"] != texts_digest(one):
            raise UserError(
                f"{cache} holds other texts under the key {one.pair.key}; delete it and run again."
            )
    asked = {one.pair.key for one in pairs}
    return {key: (row["chosen"], row["rejected"]) for key, row in known.items() if key in asked}
