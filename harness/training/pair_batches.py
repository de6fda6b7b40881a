"""Pairs as token ids, packed rows and image features: what the training loop eats.

Chosen and rejected share image and prompt, so a pair is one packed row ``[prompt | chosen |
rejected | padding]``: each side sees the prompt and itself only (4-D mask) and its positions
continue behind the prompt. The prompt, most of whose tokens are image patches, is computed once
for both sides; loss and gradients are those of two separate rows (kept by a test)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from harness.errors import UserError
from harness.models.chat_format import renderer
from harness.models.family import Span
from harness.models.find_family import family_of
from methods.interface import PreferencePair

PICTURES_AT_ONCE = 16
"""The tower's batch: fixed, as features may differ in their last bit between batch sizes and a
resumed run must not."""


@dataclass(frozen=True, kw_only=True)
class EncodedPair:
    """A pair's token ids; ``prompt`` holds the image's patch tokens, each side ends with the end
    token unless cut."""

    pair: PreferencePair
    prompt: list[int]
    places: Tensor  # the prompt's positions, (axes, its length)
    chosen: list[int]
    rejected: list[int]
    cut: bool = False

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B packed rows of length L and where to read them; T is the longest completion. Rows [0, B) of
    the (2B, T) tensors are the chosen sides, rows [B, 2B) the rejected ones (absent if ``sides``
    was 1)."""

    ids: Tensor  # (B, L)
    positions: Tensor  # (B, L), or (3, B, L) where images stand on a grid
    allowed: Tensor  # (B, L, L) bool: query may look at key
    sources: Tensor  # (sides * B, T): the position in the row whose hidden state predicts the label
    labels: Tensor  # (sides * B, T)
    mask: Tensor  # (sides * B, T) bool
    items: tuple[str, ...]  # B image ids
    anchored: Tensor  # (B,) bool


def encode(
    pairs: Sequence[PreferencePair],
    processor: Any,
    *,
    patches: int | Mapping[str, Span],
    positions: int,
) -> list[EncodedPair]:
    """Tokenise pairs in the family's chat format, the image's token widened to its ``patches``: a
    number where every image takes as many, else its span by item. Completions are cut where they
    would pass the model's ``positions`` (``cut`` is then True).

    Raises :class:`UserError` where a prompt leaves no room for an answer.
    """
    renders = renderer(processor)
    image = processor.tokenizer.convert_tokens_to_ids(renders.image)
    prompts = [renders.render_prompt(pair.prompt, True) for pair in pairs]
    chosen = renders.encode_pairs(
        prompts, [renders.render_completion(pair.chosen) for pair in pairs]
    )
    rejected = renders.encode_pairs(
        prompts, [renders.render_completion(pair.rejected) for pair in pairs]
    )
    encoded = []
    for pair, (narrow, better), (_, worse) in zip(pairs, chosen, rejected, strict=True):
        at = narrow.index(image)
        span = Span(1, patches) if isinstance(patches, int) else patches[pair.item]
        prompt = [*narrow[:at], *[image] * span.tokens, *narrow[at + 1 :]]
        behind = torch.arange(len(narrow) - at - 1) + at + span.steps
        places = torch.cat([span.positions(at), behind.expand(span.axes, -1)], 1)
        room = positions - len(prompt)
        if room < 1:
            raise UserError(
                f"The prompt of pair {pair.key} takes {len(prompt)} tokens and the model reads"
                f" {positions}; shorten the prompt."
            )
        cut = max(len(better), len(worse)) > room
        better, worse = better[:room], worse[:room]
        encoded.append(
            EncodedPair(
                pair=pair, prompt=prompt, places=places, chosen=better, rejected=worse, cut=cut
            )
        )
    return encoded


def pack(batch: Sequence[EncodedPair], *, sides: int = 2, pad: int = 0) -> Packed:
    """Lay B pairs out as packed rows (``sides`` 1 leaves the rejected side out: supervised
    fine-tuning)."""
    rows, places, owners = [], [], []
    reads: list[list[list[int]]] = [[], []]
    labels: list[list[list[int]]] = [[], []]
    for one in batch:
        start = len(one.prompt)
        row, place, owner = list(one.prompt), one.places.tolist(), [0] * start
        first = place[0][-1] + 1  # the prompt ends with text, so its axes end alike
        for side, completion in enumerate((one.chosen, one.rejected)[:sides]):
            # The first token of either side is predicted by the prompt's last position, the others
            # by the token before them.
            reads[side].append([start - 1, *range(len(row), len(row) + len(completion) - 1)])
            labels[side].append(completion)
            row += completion
            for axis in place:
                axis += range(first, first + len(completion))
            owner += [side + 1] * len(completion)
        rows.append(row)
        places.append(place)
        owners.append(owner)
    segment = _pad(owners, -1)
    order = torch.arange(segment.shape[1])
    causal = order[None, :] <= order[:, None]
    own = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    flat_labels = [row for side in labels for row in side]
    lengths = torch.tensor([len(row) for row in flat_labels])
    label_ids = _pad(flat_labels, pad)
    axes = [_pad(axis, 0) for axis in zip(*places, strict=True)]
    return Packed(
        ids=_pad(rows, pad),
        positions=axes[0] if len(axes) == 1 else torch.stack(axes),
        allowed=causal
        # padding looks at the prompt (no row of the attention is empty) and nothing looks at
        # padding
        & own,
        sources=_pad([row for side in reads for row in side], 0),
        labels=label_ids,
        mask=torch.arange(label_ids.shape[1])[None, :] < lengths[:, None],
        items=tuple(one.pair.item for one in batch),
        anchored=torch.tensor([one.pair.aligned for one in batch]),
    )


def picture_features(
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    *,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> dict[str, Tensor]:
    """Each distinct image's vision features *before* the projector, (tokens, width), kept in main
    memory.

    The tower is frozen in training, so an image needs it once, whatever the number of prompts,
    epochs and sides. Raises :class:`UserError` naming the pair whose image is unknown."""
    owners = {pair.item: pair for pair in reversed(pairs)}
    items = sorted(owners)
    features: dict[str, Tensor] = {}
    family = family_of(model, processor)
    for start in range(0, len(items), PICTURES_AT_ONCE):
        chunk = items[start : start + PICTURES_AT_ONCE]
        pictures = [_picture(images, owners[item]) for item in chunk]
        looked = family.encode(family.pixels(pictures))
        features |= {item: value.cpu() for item, value in zip(chunk, looked, strict=True)}
        progress("pictures", len(features), len(items))
    return features


def picture_spans(
    model: Any, processor: Any, pairs: Sequence[PreferencePair], images: Callable[[str], Image]
) -> dict[str, Span]:
    """The tokens that each distinct image takes, by item."""
    family = family_of(model, processor)
    owners = {pair.item: pair for pair in pairs}
    return {item: family.span(_picture(images, owner)) for item, owner in owners.items()}


def _picture(images: Callable[[str], Image], pair: PreferencePair) -> Image:
    try:
        return images(pair.item)
    except (LookupError, OSError) as error:
        raise UserError(
            f"Pair {pair.key} is about image {pair.item!r}, which the pool does not hold; "
            "train with the pool that the pairs were made from."
        ) from error


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
