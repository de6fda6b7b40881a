"""Checks of a model folder's small files against its config.json, before its weights are read.

A tokenizer, image processor or generation file of another model would give wrong answers, or ask
for any amount of memory. What only a forward pass can show is checked after loading
(harness/engine/load.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.models.chat_format import check_template, renderer
from harness.models.checkpoints import read_json
from harness.models.device_memory import out_of_memory
from harness.models.hub_snapshots import load_error
from harness.models.loaded_files import MODEL, PROCESSOR

SAMPLE = "There is a red ball."
MAX_PIXEL = 1000.0
"""The largest mean or deviation of pixels."""
MAX_SIDE = 16
"""An image may be enlarged to this many times the model's own side before it is cut."""


@contextmanager
def explain_load_errors(label: str, source: str, revision: str | None = None) -> Iterator[None]:
    """Wrap library code that reads other people's files, which can fail in any way.

    Raises:
        UserError: it failed.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        if out_of_memory(error):
            raise
        raise load_error(label, source, revision, error) from error


def check_small_files(folder: Path) -> None:
    """Raise UserError for a JSON file that loading reads and that is no JSON object.

    transformers silently ignores some of them if they are broken, such as generation_config.json.
    """
    for name in MODEL + PROCESSOR:
        if name.endswith(".json") and (folder / name).exists():
            read_json(folder / name)


def check_processor(processor: Any, config: Any, source: str) -> None:
    """Check tokenizer, chat template and image sizes against the model's configuration.

    Raises:
        UserError: they are not of one model.
    """
    _check_tokenizer(processor, config, source)
    check_template(processor)
    check_pixels(processor.image_processor, source)
    if hasattr(processor.image_processor, "merge_size"):
        _check_patches(processor.image_processor, config, source)
    else:
        _check_square(processor, config, source)


def check_vocabulary(tokenizer: Any, text_config: Any, source: str, reader: str = "model") -> None:
    """Raise UserError for a tokenizer with a token that the ``reader`` has no embedding for."""
    rows, largest = text_config.vocab_size, max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < rows:
        raise UserError(
            f"The tokenizer in {source} has token {largest} and the {reader}'s embedding {rows}"
            " rows; give the tokenizer that was saved with this model."
        )


def _check_tokenizer(processor: Any, config: Any, source: str) -> None:
    tokenizer, chat = processor.tokenizer, renderer(processor)
    check_vocabulary(tokenizer, config.get_text_config(), source)
    config_id, tokenizer_id = config.image_token_id, tokenizer.convert_tokens_to_ids(chat.image)
    if config_id != tokenizer_id:
        raise UserError(
            f"The image token in {source} is {config_id} in config.json and {tokenizer_id}"
            f" ({chat.image}) in the tokenizer; give the tokenizer that was saved with this model."
        )
    ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode(ids)
    if "".join(decoded.lower().split()) != "".join(SAMPLE.lower().split()):
        raise UserError(
            f"The tokenizer in {source} reads {SAMPLE!r} as {decoded!r:.80}: a file of it is"
            " missing or damaged; save or download it again."
        )


def check_pixels(images: Any, source: str) -> None:
    """Raise UserError for an image processor's setting of a wrong type: a text in place of a yes
    or no would count as yes."""
    for name, value in vars(images).items():
        valid = True
        if name.startswith("do_"):
            valid = isinstance(value, bool | None)
        elif name in ("image_mean", "image_std"):
            minimum = -MAX_PIXEL if name == "image_mean" else 1e-6
            valid = isinstance(value, list | tuple) and len(value) == 3
            valid = valid and all(
                _is_number(number) and minimum <= number <= MAX_PIXEL for number in value
            )
        elif name == "rescale_factor":
            valid = _is_number(value) and 0 < value <= 1
        if not valid:
            raise UserError(
                f"The image processor in {source} has {name} {value!r:.60}, which is no setting of"
                " an image processor; save or download it again."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool


def _check_square(processor: Any, config: Any, source: str) -> None:
    """LLaVA: images are enlarged or shrunk, then cut to the vision tower's side."""
    vision, images = config.vision_config, processor.image_processor
    if processor.patch_size is None:
        raise UserError(
            f"The processor in {source} has no patch_size, so its image tokens cannot be counted;"
            f' add "patch_size": {vision.patch_size} and "vision_feature_select_strategy":'
            f' "{config.vision_feature_select_strategy}" to its processor_config.json.'
        )
    for name, owner in (("patch_size", vision), ("vision_feature_select_strategy", config)):
        processor_value, model_value = getattr(processor, name), getattr(owner, name)
        if processor_value != model_value:
            raise UserError(
                f"The processor in {source} has {name} {processor_value!r}, the model"
                f" {model_value!r}; give the processor that was saved with this model."
            )
    crops, side = images.do_center_crop, vision.image_size
    shape = _sides(images.crop_size if crops else images.size)
    largest = largest_side(images.size) if images.do_resize else 0
    if not {shape.get("height"), shape.get("width")} == {side} or largest > MAX_SIDE * side:
        raise UserError(
            f"Image tokens: the image processor in {source} makes images of size"
            f" {dict(_sides(images.size))}{f' cut to {dict(shape)}' if crops else ''}, the model"
            f" reads {side} x {side}; give the processor that was saved with this model."
        )


def _check_patches(images: Any, config: Any, source: str) -> None:
    """Qwen2.5-VL: images keep their shape, between two numbers of pixels."""
    sides = _sides(images.size)
    minimum, maximum = sides.get("shortest_edge", 0), sides.get("longest_edge", 0)
    patch = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    if not patch**2 <= minimum <= maximum:
        raise UserError(
            f"The image processor in {source} makes images of {minimum} to {maximum} pixels (size),"
            f" and one token takes {patch**2}; give the processor that was saved with this model."
        )


def largest_side(size: Any) -> int:
    """The largest number of an image processor's size; 0 where there is none."""
    return max(_sides(size).values(), default=0)


def _sides(size: Any) -> Mapping[str, int]:
    fields = size if isinstance(size, Mapping) else getattr(size, "__dict__", {})
    return {name: side for name, side in fields.items() if isinstance(side, int)}


def check_generation(model: Any, source: str) -> None:
    """Raise UserError unless the model's end tokens are tokens of its vocabulary: another type
    would never end an answer."""
    ends = model.generation_config.eos_token_id
    rows = model.config.get_text_config().vocab_size
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and not (type(end) is int and 0 <= end < rows):
            raise UserError(
                f"{source}/generation_config.json names the end token {end!r:.40}, which is no"
                f" token of the model's {rows}; save or download it again."
            )
