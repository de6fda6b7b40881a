"""Log-probabilities of given completions (teacher forcing). All completions of a prompt are packed
into one row after it. Logits are computed for the completions' tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.engine.decode_state import Decoder, DecodeRow
from harness.engine.kv_cache import additive_mask

MAX_PACKED = 8
"""Maximum number of completions per row. Attention between them is computed, then masked, so more
would waste work."""

MAX_LOGITS = 2**26
"""Maximum number of logits in memory at once (float32: 256 MiB)."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A prompt and its completions."""

    row: DecodeRow
    completions: tuple[tuple[int, ...], ...]
    """Token ids, with the end token."""
    indices: tuple[int, ...]
    """The completions' indices in the caller's list."""

    @property
    def length(self) -> int:
        return len(self.row.suffix) + sum(len(ids) - 1 for ids in self.completions)

    @property
    def positions(self) -> int:
        """Tokens, the prefix included."""
        return self.row.prefix_len + self.length


def score(decoder: Decoder, packs: Sequence[Pack]) -> list[list[float]]:
    """The summed log-probabilities (nats) of each pack's completions, given only the prompt.

    A pack is one row: the prompt's suffix, then its completions. A completion attends only to the
    prompt and itself, and its positions start at the end of the prompt."""
    device, longest = decoder.device, max(pack.length for pack in packs)
    ids, positions, segments = torch.zeros(3, len(packs), longest, dtype=torch.long)
    sources: list[int] = []  # flat indices of the hidden states that predict the targets
    targets: list[int] = []
    owners: list[int] = []
    owner = 0
    for row, pack in enumerate(packs):
        end, first = len(pack.row.suffix), pack.row.start
        ids[row, :end] = torch.tensor(pack.row.suffix)
        positions[row, :end] = first + torch.arange(end)
        start = end
        for segment, completion in enumerate(pack.completions, 1):
            stop = start + len(completion) - 1  # the last token is a target only, not an input
            ids[row, start:stop] = torch.tensor(completion[:-1], dtype=torch.long)
            positions[row, start:stop] = first + end + torch.arange(stop - start)
            segments[row, start:stop] = segment
            sources += [row * longest + position for position in (end - 1, *range(start, stop))]
            targets += completion
            owners += [owner] * len(completion)
            owner, start = owner + 1, stop
    segments = segments.to(device)
    step = torch.arange(longest, device=device)
    other_completion = (segments[:, None, :] != 0) & (segments[:, None, :] != segments[:, :, None])
    # (B, S, S); padding is at the end.
    hidden_mask = other_completion | (step[None, :] > step[:, None])
    x = decoder.embed(ids.to(device))
    mask = additive_mask(hidden_mask, x.dtype)[:, None]
    # copies=0: each row gets its own copy of the prefix, because many positions read it.
    cache = decoder.new_cache([pack.row for pack in packs], longest, copies=0)
    hidden = decoder.text(x, positions.to(device), cache, 0, mask, segments=0).flatten(0, 1)
    hidden = hidden[torch.tensor(sources, device=device)]
    logps = token_logps(decoder, hidden, torch.tensor(targets, device=device))
    sums = torch.zeros(owner, dtype=torch.float64, device=device)
    values = iter(sums.index_add_(0, torch.tensor(owners, device=device), logps).tolist())
    return [[next(values) for _ in pack.completions] for pack in packs]


def token_logps(decoder: Decoder, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (N,) in float64 of the targets (N,), given hidden states (N, width). At
    most :data:`MAX_LOGITS` logits are in memory at once."""
    size = max(1, MAX_LOGITS // int(decoder.lm_head(hidden[:1]).shape[-1]))
    pieces = [
        -F.cross_entropy(decoder.lm_head(states).float(), labels, reduction="none")
        for states, labels in zip(
            torch.split(hidden, size), torch.split(targets, size), strict=True
        )
    ]
    return torch.cat(pieces).double()
