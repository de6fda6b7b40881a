"""Teacher-forced log-probabilities: completions of one prompt are packed behind it, and logits
exist for their tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.engine.decode import Row, Speaker
from harness.engine.kv_cache import additive

PACKED = 8
"""Most completions behind one prompt: attention among them is computed and masked away."""
LOGITS = 2**26
"""Most logits held at once (float32: 256 MiB)."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A prompt and its completions (token ids with the end token); ``places`` are the completions'
    places in the call."""

    row: Row
    completions: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.row.tail) + sum(len(ids) - 1 for ids in self.completions)


def score(speaker: Speaker, packs: Sequence[Pack]) -> list[list[float]]:
    """Sums of log-probabilities (nats) of each pack's completions, each given the prompt alone.

    Completions stand one behind the other: each sees the prompt and itself, and its positions start
    at the prompt's end."""
    device, longest = speaker.device, max(pack.length for pack in packs)
    ids = torch.zeros(len(packs), longest, dtype=torch.long)
    positions = torch.zeros(len(packs), longest, dtype=torch.long)
    segments = torch.zeros(len(packs), longest, dtype=torch.long)
    sources: list[int] = []  # flat places of the hidden states that predict
    targets: list[int] = []
    owners: list[int] = []
    owner = 0
    for number, pack in enumerate(packs):
        end, first = len(pack.row.tail), pack.row.start
        ids[number, :end] = torch.tensor(pack.row.tail)
        positions[number, :end] = first + torch.arange(end)
        start = end
        for segment, completion in enumerate(pack.completions, 1):
            stop = start + len(completion) - 1  # the last token is only predicted
            ids[number, start:stop] = torch.tensor(completion[:-1], dtype=torch.long)
            positions[number, start:stop] = first + end + torch.arange(stop - start)
            segments[number, start:stop] = segment
            sources += [number * longest + place for place in (end - 1, *range(start, stop))]
            targets += completion
            owners += [owner] * len(completion)
            owner, start = owner + 1, stop
    segments = segments.to(device)
    step = torch.arange(longest, device=device)
    stranger = (segments[:, None, :] != 0) & (segments[:, None, :] != segments[:, :, None])
    unseen = stranger | (
        step[None, :] > step[:, None]
    )  # (B, S, S); pads stand last and are never looked at
    x = speaker.embed(ids.to(device))
    cache = speaker.load([pack.row for pack in packs], longest, 0)
    hidden = speaker.text(
        x, positions.to(device), cache, 0, additive(unseen, x.dtype)[:, None], last=0
    ).flatten(0, 1)[torch.tensor(sources, device=device)]
    logps = token_logps(speaker, hidden, torch.tensor(targets, device=device))
    sums = (
        torch.zeros(owner, dtype=torch.float64, device=device)
        .index_add_(0, torch.tensor(owners, device=device), logps)
        .tolist()
    )
    values = iter(sums)
    return [[next(values) for _ in pack.completions] for pack in packs]


def token_logps(speaker: Speaker, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (N,) in float64 of the targets (N,) under hidden states (N, width), a slice
    of logits at a time."""
    width = int(speaker.head(hidden[:1]).shape[-1])
    size = max(1, LOGITS // width)
    pieces = [
        -F.cross_entropy(speaker.head(states).float(), wanted, reduction="none")
        for states, wanted in zip(
            torch.split(hidden, size), torch.split(targets, size), strict=True
        )
    ]
    return torch.cat(pieces).double()
