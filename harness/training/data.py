"""Pairs as token ids, packed rows and picture features: what the training loop eats.

Chosen and rejected share picture and prompt, so a pair is one packed row ``[prompt | chosen | rejected | padding]``: each side
sees the prompt and itself only (4-D mask) and its positions continue behind the prompt. The prompt, most of whose tokens are
picture patches, is computed once for both sides; loss and gradients are those of two separate rows (kept by a test).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from harness.errors import Problem
from harness.rendering import renderer
from methods.interface import PreferencePair

PICTURES_AT_ONCE = 16
"""The tower's batch: fixed, as features may differ in their last bit between batch sizes and a resumed run must not."""


@dataclass(frozen=True, kw_only=True)
class EncodedPair:
    """A pair's token ids; ``prompt`` holds the picture's patch tokens, each side ends with the end token unless cut."""

    pair: PreferencePair
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    cut: bool = False

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B packed rows of length L and where to read them; T is the longest completion. Rows [0, B) of the (2B, T) tensors are
    the chosen sides, rows [B, 2B) the rejected ones (absent if ``sides`` was 1)."""

    ids: Tensor  # (B, L)
    positions: Tensor  # (B, L)
    allowed: Tensor  # (B, L, L) bool: query may look at key
    sources: Tensor  # (sides * B, T): the position in the row whose hidden state predicts the label
    labels: Tensor  # (sides * B, T)
    mask: Tensor  # (sides * B, T) bool
    items: tuple[str, ...]  # B picture ids
    anchored: Tensor  # (B,) bool


def encode(pairs: Sequence[PreferencePair], processor: Any, *, patches: int, positions: int) -> list[EncodedPair]:
    """Tokenise pairs in the one chat format, the picture's token widened to its ``patches``. Completions are cut where they
    would pass the model's ``positions`` (``cut`` is then True).

    Raises :class:`Problem` where a prompt leaves no room for an answer.
    """
    renders = renderer(processor)
    image = processor.tokenizer.convert_tokens_to_ids(renders.image)
    prompts = [renders.render_prompt(pair.prompt, True) for pair in pairs]
    chosen = renders.encode_pairs(prompts, [renders.render_completion(pair.chosen) for pair in pairs])
    rejected = renders.encode_pairs(prompts, [renders.render_completion(pair.rejected) for pair in pairs])
    encoded = []
    for pair, (narrow, better), (_, worse) in zip(pairs, chosen, rejected, strict=True):
        at = narrow.index(image)
        prompt = [*narrow[:at], *[image] * patches, *narrow[at + 1 :]]
        room = positions - len(prompt)
        if room < 1:
            raise Problem(
                f"The prompt of pair {pair.key} takes {len(prompt)} tokens and the model reads {positions}; shorten the prompt."
            )
        cut = max(len(better), len(worse)) > room
        encoded.append(EncodedPair(pair=pair, prompt=prompt, chosen=better[:room], rejected=worse[:room], cut=cut))
    return encoded


def pack(batch: Sequence[EncodedPair], *, sides: int = 2, pad: int = 0) -> Packed:
    """Lay B pairs out as packed rows (``sides`` 1 leaves the rejected side out: supervised fine-tuning)."""
    rows, places, owners = [], [], []
    reads: list[list[list[int]]] = [[], []]
    labels: list[list[list[int]]] = [[], []]
    for one in batch:
        start = len(one.prompt)
        row, place, owner = list(one.prompt), list(range(start)), [0] * start
        for side, completion in enumerate((one.chosen, one.rejected)[:sides]):
            # The first token of either side is predicted by the prompt's last position, the others by the token before them.
            reads[side].append([start - 1, *range(len(row), len(row) + len(completion) - 1)])
            labels[side].append(completion)
            row += completion
            place += range(start, start + len(completion))
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
    return Packed(
        ids=_pad(rows, pad),
        positions=_pad(places, 0),
        allowed=causal & own,  # padding looks at the prompt (no row of the attention is empty) and nothing looks at padding
        sources=_pad([row for side in reads for row in side], 0),
        labels=label_ids,
        mask=torch.arange(label_ids.shape[1])[None, :] < lengths[:, None],
        items=tuple(one.pair.item for one in batch),
        anchored=torch.tensor([one.pair.anchored for one in batch]),
    )


def picture_features(
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    *,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> dict[str, Tensor]:
    """Each distinct picture's vision features *before* the projector, (patches, width), kept in main memory.

    The tower is frozen in training, so a picture needs it once, whatever the number of prompts, epochs and sides.
    Raises :class:`Problem` naming the pair whose picture is unknown.
    """
    owners = {pair.item: pair for pair in reversed(pairs)}
    items = sorted(owners)
    features: dict[str, Tensor] = {}
    for start in range(0, len(items), PICTURES_AT_ONCE):
        chunk = items[start : start + PICTURES_AT_ONCE]
        pictures = [_picture(images, owners[item]) for item in chunk]
        pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        features |= dict(zip(chunk, tower_features(model, pixels).cpu(), strict=True))
        progress("pictures", len(features), len(items))
    return features


@torch.no_grad()
def tower_features(model: Any, pixels: Tensor) -> Tensor:
    """The projector's input, (N, patches, width), for pixels (N, C, H, W): the configured layer (or layers, joined) of the
    tower, without the class token where the configuration says so."""
    config, tower = model.config, model.model.vision_tower
    states = tower(pixels.to(tower.device, tower.dtype), output_hidden_states=True, return_dict=True).hidden_states
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    if config.vision_feature_select_strategy == "default":
        chosen = [state[:, 1:] for state in chosen]
    return torch.cat(chosen, dim=-1)


def _picture(images: Callable[[str], Image], pair: PreferencePair) -> Image:
    try:
        return images(pair.item)
    except (LookupError, OSError) as error:
        raise Problem(
            f"Pair {pair.key} is about picture {pair.item!r}, which the pool does not hold; "
            "train with the pool that the pairs were made from."
        ) from error


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
