"""Ready-made checkpoints: folders, adapters and hub ids as bases, and a sentence for each way that
one is not what it seems."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.errors as hub
import pytest
import torch
from peft import LoraConfig, LoraModel, get_peft_model_state_dict
from safetensors.torch import save_file

from harness.engine.engine import Engine
from harness.engine.load import check_batch, check_model, check_tokens, load_model
from harness.errors import UserError
from harness.models import hub_snapshots, load_base
from harness.models.base_cards import BASES, LLAMA_LINEARS, BaseCard, find_base
from harness.models.checkpoints import weights_fingerprint
from harness.pipeline.stage_identity import untrained
from harness.study import compare
from methods.interface import Decoding, Prompt
from tests.models.twins import TWINS, tiny_qwen
from tests.tiny_models import picture, tiny_llava

NAMES = list(TWINS)


def save(folder: Path, family: str, **options: Any) -> Path:
    model, processor = TWINS[family]()
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, parent: Path, **changes: Any) -> Any:
    """A LoRA adapter of the tiny LLaVA, with weights that do something; the model with it."""
    model, _ = tiny_llava()
    config = LoraConfig(r=2, target_modules=LLAMA_LINEARS, init_lora_weights=False)
    wrapped = LoraModel(model, {"default": config}, "default")
    config.save_pretrained(folder)
    # The names that peft's own save_pretrained writes.
    state = {
        f"base_model.{name}": tensor for name, tensor in get_peft_model_state_dict(wrapped).items()
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / "adapter_model.safetensors",
    )
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(
            {**json.loads(path.read_text()), "base_model_name_or_path": str(parent), **changes}
        )
    )
    return wrapped


@pytest.mark.equality
@pytest.mark.parametrize("family", NAMES)
def test_a_folder_is_a_base_of_the_family_its_config_names(family: str, tmp_path: Path) -> None:
    card = find_base(str(save(tmp_path / "my model", family)))
    assert (card.family, card.name, card.dtype, card.prompts) == (
        family,
        "my-model",
        "float32",
        "real",
    )
    model, processor = load_model(card)
    fresh, _ = TWINS[family]()
    assert torch.equal(model.lm_head.weight, fresh.lm_head.weight)
    prompt = Prompt(key="a", text="describe the picture .", image=picture(1))
    loaded = Engine(model, processor).generate([prompt], Decoding(max_new_tokens=6))
    assert loaded == Engine(*TWINS[family]()).generate([prompt], Decoding(max_new_tokens=6))


def test_pictures_of_a_qwen_are_bounded_by_its_card(tmp_path: Path) -> None:
    card = find_base(str(save(tmp_path, "qwen2.5-vl")))
    assert card.max_pixels == BASES["qwen2.5-vl-7b"].max_pixels
    small = replace(card, max_pixels=512)
    assert untrained(small).id != untrained(card).id
    _, processor = load_model(small)
    assert processor.image_processor.size["longest_edge"] == 512
    _, processor = load_model(
        card
    )  # trained on images of at most 4,096 pixels: not shown larger ones
    assert processor.image_processor.size["longest_edge"] == 4096
    before, file = untrained(card).id, tmp_path / "preprocessor_config.json"
    file.write_text(file.read_text().replace("4096", "2048"))
    assert untrained(card).id != before


def test_an_adapter_is_merged_into_its_parent(tmp_path: Path) -> None:
    parent = save(tmp_path / "parent", "llava-1.5")
    wrapped = save_adapter(tmp_path / "adapter", parent)
    card = find_base(str(tmp_path / "adapter"))
    assert card.adapters == (tmp_path / "adapter",)
    assert untrained(card).id != untrained(find_base(str(parent))).id
    model, _ = load_model(card)
    merged = wrapped.merge_and_unload()
    weight = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(model.get_parameter(weight), merged.get_parameter(weight), atol=1e-6)
    assert not torch.allclose(
        model.get_parameter(weight), tiny_llava()[0].get_parameter(weight), atol=1e-3
    )


def test_an_adapter_of_another_base_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    parent = save(tmp_path / "parent", "llava-1.5")
    save_adapter(tmp_path / "hub", Path("someone/other-7b"))
    with pytest.raises(
        UserError,
        match=(
            r"of the base 'someone/other-7b', which is none of synthetic,.*; as a hub id: .*go"
            r" online"
        ),
    ):
        find_base(str(tmp_path / "hub"))
    save_adapter(tmp_path / "gone", tmp_path / "nowhere")
    with pytest.raises(
        UserError,
        match=r"nowhere', which is none of synthetic,.*nowhere is no folder. Bring it there",
    ):
        find_base(str(tmp_path / "gone"))
    save_adapter(tmp_path / "commit", Path("llava-hf/llava-1.5-7b-hf"), revision="0" * 40)
    with pytest.raises(UserError, match=r"at commit 0000.*the base card pins b234b804"):
        find_base(str(tmp_path / "commit"))
    save_adapter(tmp_path / "weights", parent, parent_weights="ab")
    with pytest.raises(UserError, match="trained on other weights"):
        find_base(str(tmp_path / "weights"))
    save_adapter(tmp_path / "same", parent, parent_weights=weights_fingerprint(parent))
    assert find_base(str(tmp_path / "same")).adapters
    save_adapter(tmp_path / "qwen", save(tmp_path / "q", "qwen2.5-vl"))
    with pytest.raises(
        UserError,
        match=r"of a base of another size: model\.language_model\.layers\.0\..* is \[2, 96\]",
    ):
        find_base(str(tmp_path / "qwen"))
    for name, words in (
        ("blocks.0.self_attn.q_proj.lora_A.weight", "it holds model.blocks.0"),
        ("x", "it holds model.x"),
    ):
        save_file(
            {f"base_model.model.model.{name}": torch.zeros(2, 32)},
            tmp_path / "qwen" / "adapter_model.safetensors",
        )
        with pytest.raises(UserError, match=f"of another architecture: {words}"):
            find_base(str(tmp_path / "qwen"))
    (tmp_path / "qwen" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="cut or damaged"):
        find_base(str(tmp_path / "qwen"))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    for config, words in (
        (
            {"model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"]},
            "'llava_next'.*supported are",
        ),
        (
            {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]},
            "original repository's format.*convert",
        ),
        ({}, "no architecture"),
    ):
        folder = tmp_path / words[:5]
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=words):
            find_base(str(folder))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        find_base(str(tmp_path))
    with pytest.raises(UserError, match=r"no folder '\./nowhere'"):
        find_base("./nowhere")


def test_the_name_in_the_hubs_cache_stands_for_whole_weights(tmp_path: Path) -> None:
    """Planning with a model of 14 GB need not read it; a cut file is read, so its identity
    differs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "commit"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"a": torch.arange(6.0)}, tmp_path / "weights")
    sha = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()
    blob = (tmp_path / "weights").rename(blobs / sha)
    (snapshot / "model.safetensors").symlink_to(blob)
    whole = weights_fingerprint(snapshot)
    assert weights_fingerprint(snapshot, downloaded=True) == whole
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"?")  # loading finds it
    os.utime(blob, (1, 1))  # a process reads an unchanged file once
    assert weights_fingerprint(snapshot, downloaded=True) == whole != weights_fingerprint(snapshot)
    blob.write_bytes(content[:-1])
    assert weights_fingerprint(snapshot, downloaded=True) == weights_fingerprint(snapshot) != whole
    named_otherwise = blob.rename(blobs / "etag")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(named_otherwise)
    named_otherwise.write_bytes(content)
    assert weights_fingerprint(snapshot, downloaded=True) == whole


def test_half_downloaded_weights_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path, "llava-1.5", max_shard_size="100KB")
    card = find_base(str(folder))
    assert card.parameters == sum(value.numel() for value in tiny_llava()[0].parameters())
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-100])
    for look in (lambda: load_model(card), lambda: find_base(str(folder))):
        with pytest.raises(UserError, match=rf"{shards[1].name} is cut or damaged"):
            look()
    shards[1].unlink()
    with pytest.raises(
        UserError, match=rf"half there: 1 of {len(shards)} .* such as {shards[1].name}"
    ):
        find_base(str(folder))
    shards[1].write_bytes(whole)
    load_model(card)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"pytorch_model\.bin is a torch file, which is not read: convert it"
    ):
        load_model(card)


def response(status: int) -> Any:
    # What huggingface_hub answers with: httpx2 from its version 2 on, httpx before.
    if importlib.util.find_spec("httpx2"):
        import httpx2 as httpx
    else:
        import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub.GatedRepoError("x", response=response(403)), "gated: accept its terms"),
        (hub.RevisionNotFoundError("x", response=response(404)), "no revision 'v9'"),
        (
            hub.RepositoryNotFoundError("x", response=response(404)),
            "no such repository, or it is private",
        ),
        (hub.LocalEntryNotFoundError("x"), "cannot be reached"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_the_hub_says_is_a_sentence(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(hub_snapshots, "hf_hub_download", refuse)
    with pytest.raises(
        UserError, match=rf"'org/name' could not be loaded from org/name: .*{words}"
    ):
        hub_snapshots.fetch_config("org/name", "v9")
    wrapped = OSError(
        "a page of advice"
    )  # transformers wraps the hub's errors: what they came from counts
    wrapped.__cause__ = error
    said = str(hub_snapshots.load_error("Base 'x'", "org/name", "v9", wrapped))
    assert (words in said) == (words != "odd")


def test_a_machine_that_cannot_hold_it_is_named_before_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=r"7\.1 billion parameters and this machine has no GPU"):
        load_model(BASES["llava-1.5-7b"], "cpu")
    monkeypatch.setattr(load_base, "free_gib", lambda _device: 0.5)
    with pytest.raises(UserError, match=r"needs about 0\.9 GiB .* and 0\.5 GiB of memory are free"):
        load_base.check_machine("middling", "cpu", 10**9, None, "float32")
    load_base.check_machine("small", "cpu", 10**6, None, "float32")


def test_rows_are_ready_made_checkpoints(tmp_path: Path) -> None:
    folder = save(tmp_path / "released", "llava-1.5")
    study = compare.study(rows=[f"SIMA released={folder}"], only=["sena"], seeds=1)
    assert [(run.label, run.base, run.last) for run in study.runs] == [
        ("untrained", "synthetic", 0),
        ("sena", "synthetic", 1),
        ("SIMA released", str(folder), 0),
    ]
    for text in ("released", "=x", "released="):
        with pytest.raises(UserError, match="must be LABEL=CHECKPOINT"):
            compare.study(rows=[text])
    with pytest.raises(UserError, match=r"no folder '\./gone'"):
        compare.study(rows=["a=./gone"])


@pytest.mark.parametrize("family", NAMES)
def test_a_model_that_is_not_asked_as_its_family_does_is_refused(family: str) -> None:
    model, processor = TWINS[family]()
    check_model(model, processor)
    # A version of transformers that computes otherwise: its own forward pass sees another image
    # than the engine.
    hook = model.register_forward_pre_hook(
        lambda _module, given, named: (given, {**named, "pixel_values": named["pixel_values"] + 1}),
        with_kwargs=True,
    )
    with pytest.raises(
        UserError, match=r"Padding and positions: .* by transformers' own forward pass"
    ):
        check_batch(model, processor)
    hook.remove()
    if family == "qwen2.5-vl":
        processor.image_processor.merge_size = 1
    else:
        model.config.image_seq_length += 1
    with pytest.raises(
        UserError, match=r"Image tokens: (an image of 96 x 64 takes|the processor cuts)"
    ):
        check_tokens(model, processor)


def test_a_qwen_with_llavas_template_is_refused() -> None:
    model, processor = tiny_qwen()
    processor.chat_template = tiny_llava()[1].chat_template
    with pytest.raises(UserError, match="chat template gives"):
        check_model(model, processor)


def test_a_card_says_what_changes_answers() -> None:
    plain = BASES["synthetic"]
    assert plain.settings == {
        "dtype": "float32"
    }  # results made before there were other settings keep their identity
    assert isinstance(plain, BaseCard)
