"""Preference pairs as token ids, packed rows and image features.

The chosen and the rejected answer share image and prompt, so a pair is one packed row ``[prompt |
chosen | rejected | padding]``. Each answer sees the prompt and itself only (4-D mask), and its
positions continue behind the prompt. The prompt, most of whose tokens are image patches, is so
computed once. Loss and gradients equal those of two separate rows, as a test shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from harness.errors import RowEnded, UserError
from harness.models.chat_format import renderer
from harness.models.family import Span
from harness.models.find_family import family_of
from methods.interface import PreferencePair

TOWER_BATCH = 16
"""Images in one pass of the vision tower. It is fixed, as another batch size may change a feature's
last bit and a resumed training must not."""


@dataclass(frozen=True, kw_only=True)
class EncodedPair:
    """A pair's token ids."""

    pair: PreferencePair
    prompt: list[int]
    """With one id for each of the image's patches."""
    positions: Tensor
    """The prompt's positions, (axes, its length)."""
    chosen: list[int]
    """Ends with the end token unless cut."""
    rejected: list[int]
    cut: bool = False
    """Whether an answer was cut at the model's length."""

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B packed rows of length L and where their answers stand; T is the longest answer.

    Rows [0, B) of the (sides * B, T) tensors are the chosen answers, rows [B, 2B) the rejected ones
    (absent if ``sides`` is 1)."""

    ids: Tensor
    """(B, L)."""
    positions: Tensor
    """(B, L), or (3, B, L) where image tokens stand on a grid."""
    allowed: Tensor
    """(B, L, L) of bool: whether a query sees a key."""
    sources: Tensor
    """(sides * B, T): the position in the row whose hidden state predicts the label."""
    labels: Tensor
    """(sides * B, T)."""
    mask: Tensor
    """(sides * B, T) of bool: True on labels, False on padding."""
    items: tuple[str, ...]
    """B image ids."""
    aligned: Tensor
    """(B,) of bool: pairs with SENA's alignment term."""


def encode(
    pairs: Sequence[PreferencePair],
    processor: Any,
    *,
    patches: int | Mapping[str, Span],
    positions: int,
    double_wrapped: bool = False,
) -> list[EncodedPair]:
    """Tokenise pairs in the family's chat format.

    ``patches`` says how many tokens an image takes: a number for all images, or a span by item.
    ``positions`` is the model's length; answers are cut there. ``double_wrapped`` is the recipe's.

    Raises:
        RowEnded: a prompt leaves no room for an answer.
    """
    chat = renderer(processor)
    image_id = processor.tokenizer.convert_tokens_to_ids(chat.image)
    texts = [(pair.prompt, [pair.chosen, pair.rejected]) for pair in pairs]
    if double_wrapped:
        texts = [chat.wrap_again(prompt, answers) for prompt, answers in texts]
    prompts = [chat.render_prompt(prompt, True) for prompt, _ in texts]
    chosen, rejected = (
        chat.encode_pairs(prompts, [chat.render_completion(answers[side]) for _, answers in texts])
        for side in (0, 1)
    )
    encoded = []
    for pair, (ids, chosen_ids), (_, rejected_ids) in zip(pairs, chosen, rejected, strict=True):
        index = ids.index(image_id)
        span = Span(1, patches) if isinstance(patches, int) else patches[pair.item]
        prompt = [*ids[:index], *[image_id] * span.tokens, *ids[index + 1 :]]
        suffix = torch.arange(len(ids) - index - 1) + index + span.steps
        room = positions - len(prompt)
        if room < 1:
            raise RowEnded(
                f"The prompt of pair {pair.key} takes {len(prompt)} tokens and the model reads"
                f" {positions}; shorten the prompt."
            )
        encoded.append(
            EncodedPair(
                pair=pair,
                prompt=prompt,
                positions=torch.cat([span.positions(index), suffix.expand(span.axes, -1)], 1),
                chosen=chosen_ids[:room],
                rejected=rejected_ids[:room],
                cut=max(len(chosen_ids), len(rejected_ids)) > room,
            )
        )
    return encoded


def pack(batch: Sequence[EncodedPair], *, sides: int = 2, pad: int = 0) -> Packed:
    """B pairs as packed rows. ``sides`` 1 leaves the rejected answer out (supervised fine-tuning).
    ``pad`` is the padding token's id."""
    rows, positions, segments = [], [], []
    sources: list[list[list[int]]] = [[] for _ in range(sides)]
    labels: list[list[list[int]]] = [[] for _ in range(sides)]
    for encoded in batch:
        start = len(encoded.prompt)
        row, axes, segment = list(encoded.prompt), encoded.positions.tolist(), [0] * start
        first = axes[0][-1] + 1  # the prompt ends with text, where all axes are equal
        for side, answer in enumerate((encoded.chosen, encoded.rejected)[:sides]):
            # An answer's first token is predicted by the prompt's last position, the others by the
            # token before them.
            sources[side].append([start - 1, *range(len(row), len(row) + len(answer) - 1)])
            labels[side].append(answer)
            row += answer
            for axis in axes:
                axis += range(first, first + len(answer))
            segment += [side + 1] * len(answer)
        rows.append(row)
        positions.append(axes)
        segments.append(segment)
    owner = _pad(segments, -1)
    order = torch.arange(owner.shape[1])
    # Padding sees the prompt, so that no attention row is empty; nothing sees padding.
    visible = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
    answers = [answer for side in labels for answer in side]
    lengths = torch.tensor([len(answer) for answer in answers])
    label_ids = _pad(answers, pad)
    by_axis = [_pad(axis, 0) for axis in zip(*positions, strict=True)]
    return Packed(
        ids=_pad(rows, pad),
        positions=by_axis[0] if len(by_axis) == 1 else torch.stack(by_axis),
        allowed=(order[None, :] <= order[:, None]) & visible,
        sources=_pad([answer for side in sources for answer in side], 0),
        labels=label_ids,
        mask=torch.arange(label_ids.shape[1])[None, :] < lengths[:, None],
        items=tuple(encoded.pair.item for encoded in batch),
        aligned=torch.tensor([encoded.pair.aligned for encoded in batch]),
    )


def image_features(
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    *,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> dict[str, Tensor]:
    """Each distinct image's features *before* the projector, (tokens, width), in main memory.

    The vision tower is frozen, so an image passes it once, whatever the number of prompts, epochs
    and answers.

    Raises:
        UserError: an image is unknown (with the pair).
    """
    owners = {pair.item: pair for pair in reversed(pairs)}
    items = sorted(owners)
    features: dict[str, Tensor] = {}
    family = family_of(model, processor)
    for start in range(0, len(items), TOWER_BATCH):
        chunk = items[start : start + TOWER_BATCH]
        pixels = family.pixels([_image(images, owners[item]) for item in chunk])
        encoded = zip(chunk, family.encode(pixels), strict=True)
        features |= {item: value.cpu() for item, value in encoded}
        progress("images", len(features), len(items))
    return features


def image_spans(
    model: Any, processor: Any, pairs: Sequence[PreferencePair], images: Callable[[str], Image]
) -> dict[str, Span]:
    """The tokens that each distinct image takes, by item."""
    family = family_of(model, processor)
    owners = {pair.item: pair for pair in pairs}
    return {item: family.span(_image(images, owner)) for item, owner in owners.items()}


def _image(images: Callable[[str], Image], pair: PreferencePair) -> Image:
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
