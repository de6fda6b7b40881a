"""The vocabulary of a converted LLaVA: the words are the checkpoint's, the rows behind them the
base's.

The hub's LLaVA-1.5 has 32,064 rows: 32,000 words, the image token, padding and rows without a text.
The original's checkpoints have the words alone, or one more row for a padding token that a project
added. That row takes the place of the base's own padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from harness.errors import UserError
from harness.models.adapters import renamed
from harness.models.base_cards import BaseCard, fetched
from harness.models.checkpoints import parameter_shapes, read_json, weight_files

EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
"""The parameters with a row for each token."""
ADDED = "added_tokens.json"
TOKENS = ("tokenizer_config.json", "special_tokens_map.json")
"""A tokenizer's files that name its padding, beside ADDED; the last one counts."""


@dataclass(frozen=True, kw_only=True)
class Padding:
    """A padding token that a checkpoint added behind LLaVA-1.5's words."""

    token: str
    row: int
    """Its row in the checkpoint."""
    place: int
    """The row of the base's own padding."""


def image_token(source: Path) -> int:
    """The base's image token, which follows LLaVA-1.5's words."""
    base = read_json(source / "config.json")
    return int(base["image_token_index" if "image_token_index" in base else "image_token_id"])


def added_padding(
    folder: Path,
    config: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    processor: Any,
    source: Path,
) -> Padding | None:
    """The padding token that the checkpoint added; None where its vocabulary is LLaVA-1.5's.

    Raises:
        UserError: the added row is no padding, or the base has no row for it.
    """
    row = image_token(source)
    tables = [stored[name] for name in EMBEDDINGS if name in stored]
    if not any(len(table) == row + 1 for table in tables):
        return None
    token, place = _padding_token(folder, config, row), processor.tokenizer.pad_token_id
    if place is None or not row < place < parameter_shapes(source)[EMBEDDINGS[0]][0]:
        raise UserError(
            f"{folder} holds a row for its padding {token!r}, and the base's padding has none of"
            f" its own behind the image token (it is token {place}); give --base llava-1.5-7b or"
            " llava-1.5-13b."
        )
    return Padding(token=token, row=row, place=place)


def _padding_token(folder: Path, config: Mapping[str, Any], words: int) -> str:
    """The token in row ``words`` of a checkpoint's vocabulary, whose last row it is: the padding of
    its own tokenizer, which LLaVA-1.5's vocabulary of ``words`` tokens has not.

    Raises:
        UserError: its files do not say so. Another token would be part of its prompts.
    """
    if config.get("vocab_size") != words + 1:
        raise UserError(
            f"{folder} holds a vocabulary of {words + 1} rows, and its config.json states"
            f" {config.get('vocab_size')!r} (vocab_size); give the config.json that was saved with"
            " these weights."
        )
    added = {} if not (folder / ADDED).is_file() else read_json(folder / ADDED)
    extra = {id: token for token, id in added.items() if type(id) is int and id >= words}
    padding = None
    for content in (read_json(folder / name) for name in TOKENS if (folder / name).is_file()):
        padding = content.get("pad_token", padding)
        listed = content.get("added_tokens_decoder")
        for id, token in listed.items() if isinstance(listed, dict) else ():
            if id.isdigit() and int(id) >= words:
                extra[int(id)] = _text(token)
    if extra != {words: _text(padding)}:
        found = ", ".join(f"{token!r} in row {id}" for id, token in sorted(extra.items()))
        raise UserError(
            f"{folder} holds a vocabulary of {words + 1} rows, one more than LLaVA-1.5's words;"
            f" such a row is taken over if {', '.join((ADDED, *TOKENS))} say that it is the"
            f" tokenizer's padding, and they name {found or 'no added token'} and the padding"
            f" {_text(padding)!r}; bring the checkpoint's own tokenizer files."
        )
    return extra[words]


def _text(token: Any) -> str:
    """A token's text, which some files give as an object."""
    return str(token.get("content") if isinstance(token, dict) else token)


def whole_tensor(
    tensor: Tensor | None, own: str, name: str, place: Path, padding: Padding | None
) -> Tensor:
    """The checkpoint's ``tensor``, with the base's extra rows of a vocabulary and the added
    padding in its place; None: the base's.

    Args:
        own: the parameter's name.
        name: its name in the base's file ``place``.
    """
    if tensor is not None and own not in EMBEDDINGS:
        return tensor.clone(memory_format=torch.contiguous_format)
    with safe_open(place, framework="pt") as tensors:
        theirs: Tensor = tensors.get_tensor(name)
    if tensor is None or len(tensor) == len(theirs):
        return theirs if tensor is None else tensor.clone()
    words = len(tensor) if padding is None else padding.row
    whole = torch.cat([tensor[:words], theirs[words:].to(tensor.dtype)])
    if padding is not None:
        whole[padding.place] = tensor[padding.row]
    return whole


def whole_tables(
    tensors: Mapping[str, Tensor], card: BaseCard, source: Path, padding: Padding | None
) -> dict[str, Tensor]:
    """The vocabulary tables that a LoRA trained, with the base's extra rows."""
    shapes = parameter_shapes(source)
    words = image_token(source) + (padding is not None)
    wanted = [name for name in EMBEDDINGS if name in tensors and len(tensors[name]) == words]
    found = {}
    for place in weight_files(fetched(card)) if wanted else ():
        with safe_open(place, framework="pt") as file:
            names = {renamed(name, shapes): name for name in file.keys()}  # noqa: SIM118
        for own in names.keys() & set(wanted):
            found[own] = whole_tensor(tensors[own], own, names[own], place, padding)
    return found


def padding_sentence(padding: Padding | None) -> str:
    if padding is None:
        return ""
    return (
        f" Its added padding {padding.token!r} (row {padding.row}) is now in row {padding.place},"
        " that of the base's padding."
    )
