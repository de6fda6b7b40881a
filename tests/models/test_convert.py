"""Checkpoints in the original LLaVA repository's format: converted, loaded, and equal to an
independent forward pass; a sentence for each that is not what it seems."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.cli.main import main
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models import convert_llava
from harness.models.base_cards import find_base
from harness.models.chat_format import VICUNA_V1, renderer
from harness.models.convert_llava import convert
from harness.models.llava import shape_image
from tests.models.original_checkpoints import (
    logits,
    original_tensors,
    save_lora,
    save_original,
    settings,
    tiny,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "llava-v1.5-tiny"
    model, processor = tiny(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def papers(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same base with the papers' input: padded images, and their system text."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("papers") / base.name)
    _, processor = tiny(0)
    processor.image_processor.image_aspect_ratio = "pad"
    processor.chat_template = VICUNA_V1 + processor.chat_template
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("form", "tower"), [("bin", False), ("safetensors", True)])
@pytest.mark.equality
def test_a_full_checkpoint_computes_what_its_own_tensors_compute(
    tmp_path: Path, base: Path, form: str, tower: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_llava, "SHARD_BYTES", 60_000)
    model, processor = tiny(7)
    if not tower:
        model.model.vision_tower = tiny(0)[0].model.vision_tower
    released = save_original(tmp_path / "sima", original_tensors(model, tower), form)
    out = tmp_path / "new"
    assert main(["convert", str(released), "--out", str(out), "--base", str(base)]) == 0
    assert len([*out.glob("model-*.safetensors")]) > 2
    loaded, own = load_model(find_base(str(out)))
    assert torch.equal(logits(loaded, own), logits(model, processor))
    assert not torch.equal(logits(loaded, own), logits(tiny(0)[0], processor))
    table = loaded.model.language_model.embed_tokens.weight
    assert torch.equal(table[66:], tiny(0)[0].model.language_model.embed_tokens.weight[66:])
    assert renderer(own).render_prompt("Why?", True) == (
        f"<s>{VICUNA_V1}USER: <picture>\nWhy? ASSISTANT:"
    )
    assert shape_image(Image.new("RGB", (90, 60)), own.image_processor).size == (90, 90)
    record = json.loads((out / "converted.json").read_text())
    assert record["checkpoint"] == "sima"
    assert len(record["base_weights"]) == 64
    assert len(record["files"]) == 3


def test_a_killed_conversion_goes_on_and_another_is_refused(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_llava, "SHARD_BYTES", 60_000)
    released = save_original(tmp_path / "a", original_tensors(tiny(7)[0], False))
    out, whole = tmp_path / "out", tmp_path / "whole"
    convert(released, whole, str(base))
    written = []

    def killed(*args: Any, **options: Any) -> None:
        written.append(args[1])
        if len(written) == 3:
            raise KeyboardInterrupt
        save_file(*args, **options)

    monkeypatch.setattr(convert_llava, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(released, out, str(base))
    monkeypatch.setattr(convert_llava, "save_file", save_file)
    first = (out / sorted(file.name for file in out.glob("model-*"))[0]).stat().st_mtime_ns
    convert(released, out, str(base))
    assert (out / sorted(file.name for file in out.glob("model-*"))[0]).stat().st_mtime_ns == first
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }
    other = save_original(tmp_path / "b", original_tensors(tiny(8)[0], False))
    with pytest.raises(UserError, match="holds something other than this conversion"):
        convert(other, out, str(base))


def drop_shard(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00002.bin").unlink()


def cut_shard(folder: Path) -> None:
    file = folder / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(file.read_bytes()[:1000])


def put_code(folder: Path) -> None:
    torch.save({"x": Path("x")}, folder / "pytorch_model-00002-of-00002.bin")


def half_precision(folder: Path) -> None:
    file = folder / "pytorch_model-00002-of-00002.bin"
    torch.save({name: each.half() for name, each in torch.load(file).items()}, file)


def extra(name: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        file = folder / "pytorch_model-00002-of-00002.bin"
        torch.save({**torch.load(file), name: torch.zeros(64)}, file)

    return add


def edit(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(settings(**changes)))

    return write


def without(pattern: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for file in folder.glob("*.bin"):
            kept = {name: each for name, each in torch.load(file).items() if pattern not in name}
            torch.save(kept, file)

    return remove


def shorter_vocabulary(folder: Path) -> None:
    for file in folder.glob("*.bin"):
        cut = {
            name: each[:60].clone() if each.shape[0] == 66 else each
            for name, each in torch.load(file).items()
        }
        torch.save(cut, file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_shard, "half there: 1 of 2 weight files.*finish the download"),
        (cut_shard, "is cut or damaged"),
        (put_code, "more than tensors, or is no torch file, and was not run"),
        (half_precision, "weights as float.*all must have one"),
        (extra("model.image_newline"), "LLaVA-1.6"),
        (extra("model.mm_projector.4.weight"), "projector of another depth.*mm_projector.4"),
        (extra("model.layers.0.odd"), "layers.0.odd, which the base has not"),
        (without("mm_projector.2"), "lacks 2 of the base's tensors.*linear_2"),
        (shorter_vocabulary, "vocabulary. Give its own base"),
        (edit(mm_patch_merge_type="spatial_unpad", image_aspect_ratio="anyres"), "LLaVA-1.6"),
        (edit(mm_projector_type="linear"), "its projector is 'linear'"),
        (edit(architectures=["LlavaMistralForCausalLM"]), "another language model"),
        (edit(architectures=["LlavaForConditionalGeneration"]), "transformers' format already"),
        (edit(hidden_size=5120), "hidden_size is 5120, the base's 64"),
        (edit(rms_norm_eps=1e-5), "rms_norm_eps"),
        (edit(mm_vision_tower="clip-vit-large-patch14"), "no vision tower and names clip"),
        (edit(unfreeze_mm_vision_tower=True), "trained with its vision tower"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(
    tmp_path: Path, base: Path, spoil: Callable[[Path], None], words: str
) -> None:
    released = save_original(tmp_path / "a", original_tensors(tiny(7)[0], False))
    spoil(released)
    with pytest.raises(UserError, match=words):
        convert(released, tmp_path / "out", str(base))
    assert not (tmp_path / "out").exists()


def test_the_sentence_for_an_original_checkpoint_names_this_command(tmp_path: Path) -> None:
    released = save_original(tmp_path / "a", {})
    with pytest.raises(UserError, match=f"python -m harness convert {re.escape(str(released))}"):
        find_base(str(released))
    with pytest.raises(UserError, match=r"hidden_size 64.*give its base with --base"):
        convert(released, tmp_path / "out")


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.equality
def test_a_lora_computes_w_plus_ba(tmp_path: Path, papers: Path, form: str) -> None:
    expected = save_lora(tmp_path / "lora", "liuhaotian/llava-v1.5-tiny", form)
    out = tmp_path / "out"
    print(convert(tmp_path / "lora", out, str(papers)))
    model, processor = load_model(find_base(str(out)))
    torch.testing.assert_close(
        logits(model, processor), logits(expected, processor), rtol=1e-5, atol=1e-5
    )
    far = logits(tiny(0)[0], processor) - logits(expected, processor)
    assert float(far.abs().max()) > 0.1
    weight = model.model.language_model.layers[1].mlp.down_proj.weight
    theirs = expected.model.language_model.layers[1].mlp.down_proj.weight
    torch.testing.assert_close(weight, theirs, rtol=1e-6, atol=1e-6)


def test_a_lora_wrapped_twice_and_one_that_is_not_of_this_base(
    tmp_path: Path, papers: Path
) -> None:
    lora = tmp_path / "lora"
    save_lora(lora, "liuhaotian/llava-v1.5-tiny")
    convert(lora, tmp_path / "once", str(papers))
    twice = shutil.copytree(lora, tmp_path / "twice")
    for file in twice.glob("*.bin"):
        tensors = torch.load(file)
        renamed = {
            f"base_model.model.{name.replace('.weight', '.default.weight')}"
            if "lora_" in name
            else name: each
            for name, each in tensors.items()
        }
        torch.save(renamed, file)
    convert(twice, tmp_path / "two", str(papers))
    first, second = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("once", "two")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    save_lora(tmp_path / "vicuna", "lmsys/vicuna-7b-v1.5")
    with pytest.raises(UserError, match=r"trained on 'lmsys/vicuna-7b-v1\.5', not on the base"):
        convert(tmp_path / "vicuna", tmp_path / "out", str(papers))
    (twice / "non_lora_trainables.bin").unlink()
    with pytest.raises(UserError, match=r"half there.*non_lora_trainables"):
        convert(twice, tmp_path / "out", str(papers))
    tensors = torch.load(lora / "adapter_model.bin")
    short = dict(list(tensors.items())[:-2])
    torch.save(short, lora / "adapter_model.bin")
    with pytest.raises(UserError, match="half there"):
        convert(lora, tmp_path / "out", str(papers))
    torch.save(
        {name: each[:, :8] if "lora_A" in name else each for name, each in tensors.items()},
        lora / "adapter_model.bin",
    )
    with pytest.raises(UserError, match="of another size"):
        convert(lora, tmp_path / "out", str(papers))
    assert not (tmp_path / "out").exists()


def test_a_lora_keeps_the_input_that_it_was_trained_with(tmp_path: Path, base: Path) -> None:
    save_lora(tmp_path / "lora", "liuhaotian/llava-v1.5-tiny")
    with pytest.raises(UserError, match=r"trained with pad images .* has another input"):
        convert(tmp_path / "lora", tmp_path / "out", str(base))
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_a_converted_checkpoint_knows_it_by_its_own_name(
    tmp_path: Path, base: Path
) -> None:
    released = save_original(tmp_path / "sima-7b", original_tensors(tiny(0)[0], False))
    convert(released, tmp_path / "new", str(base))
    save_lora(tmp_path / "lora", "./checkpoints/sima-7b")
    convert(tmp_path / "lora", tmp_path / "adapter", str(tmp_path / "new"))
    card = find_base(str(tmp_path / "adapter"))
    assert card.source == (tmp_path / "new").resolve()
    # Another model of the same name is found by its fingerprint.
    other = save_original(tmp_path / "other", original_tensors(tiny(9)[0], False))
    shutil.rmtree(tmp_path / "new")
    convert(other, tmp_path / "new", str(base))
    with pytest.raises(UserError, match="trained on other weights"):
        find_base(str(tmp_path / "adapter"))
