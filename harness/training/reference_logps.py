"""Reference log-probabilities of DPO: those of the policy at the round's start.

They do not change during a round, so they are computed once and kept in ``reference.jsonl``: a
header line that names the policy and the objective, then a pair a line as ``{"key", "texts",
"chosen", "rejected"}``, sums in nats over an answer's tokens and end token."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import as_jsonl, read_jsonl, write_bytes
from harness.errors import RowEnded, UserError
from harness.training.loop import Loop
from harness.training.pair_batches import EncodedPair, pack

WRITE_EVERY = 32
"""Batches between two writes of the file: at most so many are lost in a kill."""


def reference_logps(
    loop: Loop,
    pairs: Sequence[EncodedPair],
    *,
    policy: str,
    cache: Path,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> dict[str, tuple[float, float]]:
    """(chosen, rejected) by the pair's key, under the loop's policy as it is now. Values in
    ``cache`` are not computed again.

    ``policy`` names the policy, for instance by :func:`weights_digest`. With the same
    ``device_batch`` the pairs are always batched alike, so a resumed file has the same bits.
    Processes share the batches, and the main one writes.

    Raises:
        UserError: ``cache`` belongs to another policy, objective or other texts.
        RowEnded: a value is not finite.
    """
    header = {"policy": policy, "rejected_argmax": loop.policy.rejected_argmax}
    ranks, batch = loop.ranks, 2 * loop.device_batch  # nothing is kept for a backward pass
    computed = _read(cache, header, pairs)
    order = sorted(pairs, key=lambda encoded: (encoded.length, encoded.pair.key))
    chunks = [order[start : start + batch] for start in range(0, len(order), batch)]
    missing = [
        chunk for chunk in chunks if any(encoded.pair.key not in computed for encoded in chunk)
    ]
    texts = {encoded.pair.key: texts_digest(encoded) for encoded in pairs}

    def compute(chunk: Sequence[EncodedPair]) -> dict[str, tuple[float, float]]:
        with torch.no_grad(), loop.autocast():
            logps, _ = loop.policy(pack(chunk, pad=loop.pad))
        sums = logps.sum(-1).tolist()
        values = zip(sums[: len(chunk)], sums[len(chunk) :], strict=True)
        return {encoded.pair.key: value for encoded, value in zip(chunk, values, strict=True)}

    turns = [missing[start : start + ranks.size] for start in range(0, len(missing), ranks.size)]
    for count, turn in enumerate(turns, start=1):
        local_values = compute(turn[ranks.rank]) if ranks.rank < len(turn) else {}
        new = {
            key: values
            for rank_values in ranks.gather(local_values)
            for key, values in rank_values.items()
        }
        for key, (chosen, rejected) in new.items():
            if not math.isfinite(chosen + rejected):
                raise RowEnded(
                    f"The base gives pair {key} a log-probability that is not finite ({chosen},"
                    f" {rejected}); its weights are damaged or overflow: load it in bfloat16 or"
                    " float32."
                )
        computed |= new
        if ranks.is_main and (count % WRITE_EVERY == 0 or count == len(turns)):
            rows = (
                {"key": key, "texts": texts[key], "chosen": chosen, "rejected": rejected}
                for key, (chosen, rejected) in computed.items()
            )
            lines = as_jsonl(rows)
            first_line = {**header, "sha256": hashlib.sha256(lines).hexdigest()}
            write_bytes(cache, as_jsonl([first_line]) + lines)
        progress("reference", min(count * ranks.size, len(missing)), len(missing))
    return {encoded.pair.key: computed[encoded.pair.key] for encoded in pairs}


def weights_digest(model: Any, sample: int = 4096) -> str:
    """A quick fingerprint of a policy: up to ``sample`` evenly spaced values of each parameter.

    It detects a wrong folder or model. The stage's identity holds the full hash of the weights'
    files."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // sample)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(parameter.shape)} ".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def texts_digest(pair: EncodedPair) -> str:
    """A fingerprint of all that a pair's values depend on besides the weights: its image's id and
    its token ids."""
    return fingerprint([pair.pair.item, pair.prompt, pair.chosen, pair.rejected])[:16]


def _read(
    cache: Path, header: Mapping[str, object], pairs: Sequence[EncodedPair]
) -> dict[str, tuple[float, float]]:
    if not cache.exists():
        return {}
    stored_header, *rows = read_jsonl(cache) or [None]
    sha = stored_header.pop("sha256", None) if isinstance(stored_header, dict) else None
    if sha is not None and sha != hashlib.sha256(as_jsonl(rows)).hexdigest():
        raise UserError(
            f"{cache} was cut or changed after it was written; move it aside and run again."
        )
    if stored_header != header:
        raise UserError(
            f"{cache} was computed under another model or objective; move it aside and run again."
        )
    by_key = {row["key"]: row for row in rows}
    for encoded in pairs:
        row = by_key.get(encoded.pair.key)
        if row is not None and row["texts"] != texts_digest(encoded):
            raise UserError(
                f"{cache} holds other texts under the key {encoded.pair.key}; move it aside and run"
                " again."
            )
    keys = {encoded.pair.key for encoded in pairs}
    return {key: (row["chosen"], row["rejected"]) for key, row in by_key.items() if key in keys}
