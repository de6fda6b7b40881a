"""Original checkpoints with one row more than LLaVA-1.5's words: the row of an added padding token
is read as the checkpoint itself would, and any other row is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cli.main import main
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models.base_cards import find_base
from harness.models.chat_format import VICUNA_V1
from harness.models.convert_llava import convert
from harness.models.convert_vocabulary import EMBEDDINGS
from tests.models.original_checkpoints import (
    logits,
    original_tensors,
    save_lora,
    save_original,
    settings,
    tiny,
)
from tests.tiny_models import picture

WORDS, PADDING = 66, 67
"""The words before the image token, and the base's padding behind it."""
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
ADDED = {"[PAD]": WORDS}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose padding has a row of its own behind the image token, as the hub's."""
    folder = tmp_path_factory.mktemp("bases") / "llava-v1.5-tiny"
    model, processor = tiny(0)
    processor.tokenizer.add_tokens(["<padding>"], special_tokens=True)
    processor.tokenizer.pad_token = "<padding>"
    assert processor.tokenizer.pad_token_id == PADDING
    processor.image_processor.image_aspect_ratio = "pad"
    processor.chat_template = VICUNA_V1 + processor.chat_template
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def longer(tensors: dict[str, Tensor], rows: int = 1) -> dict[str, Tensor]:
    """Both tables with more rows, of other values than any row of the base."""
    more = torch.randn(2, rows, 64, generator=torch.Generator().manual_seed(5))
    return tensors | {
        name: torch.cat([tensors[name], extra]) for name, extra in zip(TABLES, more, strict=True)
    }


def save_tokens(folder: Path, added: dict[str, int], padding: object) -> Path:
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": padding}))
    return folder


def released(folder: Path, model: Any, **changes: Any) -> Path:
    tensors = longer(original_tensors(model, False))
    saved = save_original(folder, tensors, **{"vocab_size": WORDS + 1, **changes})
    return save_tokens(saved, ADDED, {"content": "[PAD]", "lstrip": False})


def own_logits(model: Any, tables: dict[str, Tensor], ids: list[int], processor: Any) -> Tensor:
    """The forward pass of the original: its own tables, the image's patches put between the words
    by hand."""
    pixels = processor.image_processor(images=[picture(1)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        patches = model.get_image_features(pixel_values=pixels).pooler_output[0]
        words = tables[TABLES[0]][torch.tensor(ids)]
        embeds = torch.cat([words[:1], patches, words[1:]])[None]
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        return hidden @ tables[TABLES[1]].T


def new_logits(folder: Path, ids: list[int]) -> Tensor:
    model, processor = load_model(find_base(str(folder)))
    pixels = processor.image_processor(images=[picture(1)], return_tensors="pt")["pixel_values"]
    patches = model.get_image_features(pixel_values=pixels).pooler_output[0]
    row = [ids[0], *[WORDS] * len(patches), *ids[1:]]
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), pixel_values=pixels).logits


@pytest.mark.equality
def test_an_added_padding_row_is_read_as_the_checkpoint_does(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = tiny(7)
    model.model.vision_tower = tiny(0)[0].model.vision_tower
    folder = released(tmp_path / "sima", model)
    out = tmp_path / "new"
    assert main(["convert", str(folder), "--out", str(out), "--base", str(base)]) == 0
    assert "added padding '[PAD]' (row 66) is now in row 67" in capsys.readouterr().out
    tables = longer(original_tensors(model, False))
    # The prompt holds a padding token, which no text has: both its rows are compared.
    expected = own_logits(model, tables, [1, 30, WORDS, 12, 40, 65], processor)
    found = new_logits(out, [1, 30, PADDING, 12, 40, 65])
    torch.testing.assert_close(found[..., :WORDS], expected[..., :WORDS], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[..., PADDING], expected[..., WORDS], rtol=1e-5, atol=1e-5)
    for name in EMBEDDINGS:  # the rows without a text are the base's
        theirs = tiny(0)[0].get_parameter(name)
        rows = load_model(find_base(str(out)))[0].get_parameter(name)
        assert torch.equal(rows[[66, 68, 69, 70, 71]], theirs[[66, 68, 69, 70, 71]])
    assert json.loads((out / "converted.json").read_text())["padding"] == ["[PAD]", 66, 67]


@pytest.mark.equality
def test_a_lora_on_such_a_checkpoint_and_one_that_trained_its_tables(
    tmp_path: Path, base: Path
) -> None:
    start, processor = tiny(0)
    convert(released(tmp_path / "sima-7b", start), tmp_path / "new", str(base))
    expected = save_lora(tmp_path / "lora", "./checkpoints/sima-7b")
    convert(tmp_path / "lora", tmp_path / "adapter", str(tmp_path / "new"))
    model, own = load_model(find_base(str(tmp_path / "adapter")))
    torch.testing.assert_close(
        logits(model, own), logits(expected, processor), rtol=1e-5, atol=1e-5
    )

    trained = save_lora(tmp_path / "trained", "liuhaotian/llava-v1.5-tiny")
    tables = longer(original_tensors(trained, False))
    tables = {name: tables[name] + 0.05 for name in TABLES}
    others = torch.load(tmp_path / "trained" / "non_lora_trainables.bin")
    others |= {f"base_model.model.{name}": each for name, each in tables.items()}
    torch.save(others, tmp_path / "trained" / "non_lora_trainables.bin")
    (tmp_path / "trained" / "config.json").write_text(json.dumps(settings(vocab_size=WORDS + 1)))
    save_tokens(tmp_path / "trained", ADDED, "[PAD]")
    says = convert(tmp_path / "trained", tmp_path / "adapter 2", str(base))
    assert "row 66) is now in row 67" in says
    want = own_logits(trained, tables, [1, 30, WORDS, 12, 65], processor)
    found = new_logits(tmp_path / "adapter 2", [1, 30, PADDING, 12, 65])
    torch.testing.assert_close(found[..., :WORDS], want[..., :WORDS], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[..., PADDING], want[..., WORDS], rtol=1e-5, atol=1e-5)


def no_tokens(folder: Path) -> None:
    (folder / "added_tokens.json").unlink()


def another_token(folder: Path) -> None:
    save_tokens(folder, {"<im_patch>": WORDS}, "<unk>")


def later_row(folder: Path) -> None:
    save_tokens(folder, {"[PAD]": WORDS + 1}, "[PAD]")


def stated_words(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(settings(vocab_size=WORDS)))


def shorter_head(folder: Path) -> None:
    for file in folder.glob("*.bin"):
        tensors = torch.load(file)
        if "lm_head.weight" in tensors:
            torch.save(tensors | {"lm_head.weight": tensors["lm_head.weight"][:WORDS]}, file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_tokens, r"67 rows, one more.*they name no added token and the padding '\[PAD\]'"),
        (another_token, "name '<im_patch>' in row 66 and the padding '<unk>'"),
        (later_row, r"name '\[PAD\]' in row 67 and"),
        (stated_words, "67 rows, and its config.json states 66"),
        (shorter_head, r"has lm_head.weight as \[66, 64\].*vocabulary"),
    ],
)
def test_another_row_is_refused_in_one_sentence(
    tmp_path: Path, base: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = released(tmp_path / "a", tiny(7)[0])
    spoil(folder)
    with pytest.raises(UserError, match=words):
        convert(folder, tmp_path / "out", str(base))
    assert not (tmp_path / "out").exists()


def test_a_base_without_a_row_for_padding_and_two_more_rows_are_refused(
    tmp_path: Path, base: Path
) -> None:
    model, processor = tiny(0)
    plain = tmp_path / "llava-v1.5-tiny"
    model.save_pretrained(plain)
    processor.save_pretrained(plain)
    with pytest.raises(UserError, match=r"padding has none of its own behind the image token"):
        convert(released(tmp_path / "a", model), tmp_path / "out", str(plain))
    tensors = longer(original_tensors(model, False), rows=2)
    two = save_original(tmp_path / "b", tensors, vocab_size=WORDS + 2)
    with pytest.raises(UserError, match=re.escape("[68, 64], the base as [72, 64]")):
        convert(two, tmp_path / "out", str(base))
    assert not (tmp_path / "out").exists()
