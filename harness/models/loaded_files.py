"""The small files that loading a model, a processor or an adapter reads, as part of an identity.

Each file is described by its content, so that a difference can name the file and, in JSON, the
field. The order and spaces of JSON do not count, nor do fields that loading ignores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.artifacts.fingerprint import canonical
from harness.errors import UserError

WEIGHTS = "*.safetensors"
"""Stands in an identity for the fingerprint of all weights."""
MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")
"""Read with a model's weights."""
PROCESSOR = tuple(
    "processor_config.json preprocessor_config.json video_preprocessor_config.json tokenizer.json"
    " tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json vocab.txt"
    " merges.txt tokenizer.model spiece.model sentencepiece.bpe.model chat_template.json"
    " chat_template.jinja additional_chat_templates/*.jinja".split()
)
"""Read by image processors, tokenizers and chat templates of every family and scorer."""
ADAPTER = ("adapter_config.json",)

IGNORED_FIELDS = frozenset(
    "transformers_version _name_or_path name_or_path is_local local_files_only"
    " base_model_name_or_path revision inference_mode peft_version metadata".split()
)
"""Fields at the top of a file that say where or by what it was written. An adapter's base counts by
its content."""
SET_FIELDS = ("target_modules", "modules_to_save")
"""An adapter's lists that peft writes from sets, in any order."""
LONG_FIELD, MANY_FIELDS = 1000, 200
"""Characters of a field and number of fields above which a hash stands for the content."""


def loaded_files(folder: Path, names: Sequence[str] = MODEL + PROCESSOR) -> dict[str, Any]:
    """The content of the files of these names (or patterns) that the folder has, by name.

    A JSON object is described by its fields; a long field, a file of many fields and any other
    file by the SHA-256 of its content.

    Raises:
        UserError: a file cannot be read.
    """
    contents = {}
    for pattern in names:
        for path in sorted(folder.glob(pattern)):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror}); save or download the model again."
                ) from error
            contents[path.relative_to(folder).as_posix()] = _describe(path.suffix, content)
    return contents


@lru_cache(maxsize=64)
def _describe(suffix: str, content: bytes) -> Any:
    """A JSON object's fields, or the SHA-256 of the content."""
    try:
        fields = json.loads(content) if suffix == ".json" else None
        if not isinstance(fields, dict):
            return hashlib.sha256(content).hexdigest()
        read_fields = {name: value for name, value in fields.items() if name not in IGNORED_FIELDS}
        for name in SET_FIELDS:
            if isinstance(read_fields.get(name), list):
                read_fields[name] = sorted(read_fields[name], key=canonical)
        digest = _sha(read_fields)  # refuses what is no plain JSON: NaN, halves of characters
        if len(read_fields) > MANY_FIELDS:
            return digest
        return {
            name: value if len(canonical(value)) <= LONG_FIELD else _sha(value)
            for name, value in read_fields.items()
        }
    except (ValueError, RecursionError):
        # Loading says what is wrong with the file. Here any change of it is a difference.
        return hashlib.sha256(content).hexdigest()


def _sha(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
