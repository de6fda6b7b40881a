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
from harness.models.adapters import current_name
from harness.models.base_cards import BaseCard, fetch_base
from harness.models.checkpoints import parameter_shapes, read_json, weight_files

EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
"""The parameters with a row for each token."""
ADDED_TOKENS = "added_tokens.json"
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""A tokenizer's files that name its padding, beside ADDED; the last one counts."""


@dataclass(frozen=True, kw_only=True)
class Padding:
    """A padding token that a checkpoint added behind LLaVA-1.5's words."""

    token: str
    row: int
    """Its row in the checkpoint."""
    base_row: int
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
    token, base_row = _padding_token(folder, config, row), processor.tokenizer.pad_token_id
    if base_row is None or not row < base_row < parameter_shapes(source)[EMBEDDINGS[0]][0]:
        raise UserError(
            f"{folder} holds a row for its padding {token!r}, and the base's padding has none of"
            f" its own behind the image token (it is token {base_row}); give --base llava-1.5-7b or"
            " llava-1.5-13b."
        )
    return Padding(token=token, row=row, base_row=base_row)


def _padding_token(folder: Path, config: Mapping[str, Any], word_count: int) -> str:
    """The token in the last row, ``word_count``, of a checkpoint's vocabulary: the padding of its
    own tokenizer. LLaVA-1.5's vocabulary of ``word_count`` tokens does not have it.

    Raises:
        UserError: its files do not say so. Another token would be part of its prompts.
    """
    if config.get("vocab_size") != word_count + 1:
        raise UserError(
            f"{folder} holds a vocabulary of {word_count + 1} rows, and its config.json states"
            f" {config.get('vocab_size')!r} (vocab_size); give the config.json that was saved with"
            " these weights."
        )
    added = {} if not (folder / ADDED_TOKENS).is_file() else read_json(folder / ADDED_TOKENS)
    added_rows = {id: token for token, id in added.items() if type(id) is int and id >= word_count}
    padding = None
    for content in (
        read_json(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()
    ):
        padding = content.get("pad_token", padding)
        decoder = content.get("added_tokens_decoder")
        for id, token in decoder.items() if isinstance(decoder, dict) else ():
            if id.isdigit() and int(id) >= word_count:
                added_rows[int(id)] = _token_text(token)
    if added_rows != {word_count: _token_text(padding)}:
        listing = ", ".join(f"{token!r} in row {id}" for id, token in sorted(added_rows.items()))
        raise UserError(
            f"{folder} holds a vocabulary of {word_count + 1} rows, one more than LLaVA-1.5's"
            f" words; such a row is taken over if {', '.join((ADDED_TOKENS, *TOKENIZER_FILES))} say"
            f" that it is the tokenizer's padding, and they name {listing or 'no added token'} and"
            f" the padding {_token_text(padding)!r}; bring the checkpoint's own tokenizer files."
        )
    return added_rows[word_count]


def _token_text(token: Any) -> str:
    """A token's text, which some files give as an object."""
    return str(token.get("content") if isinstance(token, dict) else token)


def extended_tensor(
    tensor: Tensor | None, parameter: str, name: str, base_file: Path, padding: Padding | None
) -> Tensor:
    """The checkpoint's ``tensor``; None: the base's. A vocabulary table gets the base's extra rows,
    and the added padding moves to the row of the base's padding.

    Args:
        parameter: the parameter's name.
        name: its name in ``base_file``, a file of the base.
    """
    if tensor is not None and parameter not in EMBEDDINGS:
        return tensor.clone(memory_format=torch.contiguous_format)
    with safe_open(base_file, framework="pt") as tensors:
        base_tensor: Tensor = tensors.get_tensor(name)
    if tensor is None or len(tensor) == len(base_tensor):
        return base_tensor if tensor is None else tensor.clone()
    word_count = len(tensor) if padding is None else padding.row
    extended = torch.cat([tensor[:word_count], base_tensor[word_count:].to(tensor.dtype)])
    if padding is not None:
        extended[padding.base_row] = tensor[padding.row]
    return extended


def extended_tables(
    tensors: Mapping[str, Tensor], card: BaseCard, source: Path, padding: Padding | None
) -> dict[str, Tensor]:
    """The vocabulary tables that a LoRA trained, with the base's extra rows."""
    shapes = parameter_shapes(source)
    word_count = image_token(source) + (padding is not None)
    trained = [name for name in EMBEDDINGS if name in tensors and len(tensors[name]) == word_count]
    tables = {}
    for base_file in weight_files(fetch_base(card)) if trained else ():
        with safe_open(base_file, framework="pt") as file:
            names = {current_name(name, shapes): name for name in file.keys()}  # noqa: SIM118
        for parameter in names.keys() & set(trained):
            tables[parameter] = extended_tensor(
                tensors[parameter], parameter, names[parameter], base_file, padding
            )
    return tables


def padding_sentence(padding: Padding | None) -> str:
    if padding is None:
        return ""
    return (
        f" Its added padding {padding.token!r} (row {padding.row}) is now in row"
        f" {padding.base_row}, that of the base's padding."
    )
