"""What a model's folder can lack or hold in a file's place: one sentence, before large weights are
read, and ``doctor`` never says "ready" for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.cli.doctor import load_state
from harness.engine import load
from harness.engine.clip_scorer import ScorerCard, load_scorer
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models import load_base
from harness.models.base_cards import find_base
from methods.interface import Decoding, Prompt
from tests.engine.test_clip_scorer import saved as save_scorer
from tests.models import mutilate
from tests.models.test_checkpoints import save
from tests.models.test_unsound_checkpoints import change
from tests.models.twins import TWINS
from tests.tiny_models import picture

WEIGHTS = "model.safetensors"


def fields(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file's part: ``part__field``."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        part = content
        *outer, last = name.split("__")
        for each in outer:
            part = part[each]
        part[last] = value
    path.write_text(json.dumps(content))


def without_patch_size(folder: Path) -> None:
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    del content["patch_size"]
    path.write_text(json.dumps(content))


def tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / WEIGHTS)
    [full] = [each for each in tensors if each.endswith(name)]
    tensors[full] = change(tensors[full]).contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def dangling(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("nowhere")


def other_tokenizer(folder: Path) -> None:
    """Of another model: token ids beyond the embedding."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = 10**6
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)


BROKEN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no tokenizer.json": (
        "llava-1.5",
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"it has no tokenizer; put its tokenizer\.json there",
    ),
    "a pointer for the tokenizer": (
        "qwen2.5-vl",
        lambda folder: (folder / "tokenizer.json").write_bytes(mutilate.POINTER),
        r"tokenizer\.json cannot be read as JSON .* because it is a Git LFS pointer",
    ),
    "a pointer for the weights": (
        "llava-1.5",
        lambda folder: (folder / WEIGHTS).write_bytes(mutilate.POINTER),
        "is cut or damaged .* because it is a Git LFS pointer",
    ),
    "a page for the weights": (
        "qwen2.5-vl",
        lambda folder: (folder / WEIGHTS).write_bytes(mutilate.HTML),
        "is cut or damaged .* because it is an HTML page",
    ),
    "junk for the end tokens": (
        "qwen2.5-vl",
        lambda folder: (folder / "generation_config.json").write_text("[]"),
        r"generation_config\.json is not a JSON object",
    ),
    "no patch_size": (
        "llava-1.5",
        without_patch_size,
        'has no patch_size, .* add "patch_size": 10 and',
    ),
    "a tokenizer larger than the embedding": (
        "llava-1.5",
        other_tokenizer,
        r"has token 1000000 and the model's embedding \d+ rows",
    ),
    "an embedding smaller than config.json": (
        "llava-1.5",
        lambda folder: tensor(folder, "embed_tokens.weight", lambda each: each[:-9]),
        r"1 of another shape, such as .*embed_tokens\.weight, which is \[\d+, 64\]",
    ),
    "a weight of another shape": (
        "qwen2.5-vl",
        lambda folder: tensor(folder, "layers.1.mlp.up_proj.weight", lambda each: each.T),
        r"1 of another shape, such as .*layers\.1\.mlp\.up_proj\.weight",
    ),
    "weights that are not finite": (
        "llava-1.5",
        lambda folder: tensor(folder, "linear_1.weight", lambda each: each * float("nan")),
        "a log-probability that is not finite",
    ),
    "a dangling weights file": ("llava-1.5", dangling, "is cut or damaged"),
    "images of another size": (
        "llava-1.5",
        lambda folder: fields(
            folder / "processor_config.json", image_processor__crop_size={"height": 50, "width": 50}
        ),
        r"Image tokens: .* cut to .*50.*, the model reads 60 x 60",
    ),
    "images of endless size": (
        "llava-1.5",
        lambda folder: fields(
            folder / "processor_config.json", image_processor__size={"shortest_edge": 10**7}
        ),
        r"Image tokens: .*10000000",
    ),
    "images of endless pixels": (
        "qwen2.5-vl",
        lambda folder: fields(folder / "preprocessor_config.json", size__shortest_edge=10**12),
        r"makes images of 1000000000000 to 4096 pixels",
    ),
    "a text for yes or no": (
        "llava-1.5",
        lambda folder: fields(
            folder / "processor_config.json", image_processor__do_normalize="false"
        ),
        "do_normalize",
    ),
    "a template that is no template": (
        "llava-1.5",
        lambda folder: template(folder, "{% for %}"),
        "could not be loaded from .*TemplateSyntaxError",
    ),
    "a template that raises": (
        "qwen2.5-vl",
        lambda folder: template(folder, "{{ raise_exception('no') }}"),
        "could not be loaded from .*no",
    ),
    "a layer of the tower that is not there": (
        "llava-1.5",
        lambda folder: change(folder / "config.json", vision_feature_layer=-99),
        "could not be loaded from .*IndexError",
    ),
    "an end token of another type": (
        "llava-1.5",
        lambda folder: change(folder / "generation_config.json", eos_token_id=10**9),
        "names the end token 1000000000, which is no token",
    ),
    "nested JSON": (
        "llava-1.5",
        lambda folder: (folder / "config.json").write_text("[" * 10**5 + "]" * 10**5),
        r"config\.json cannot be read as JSON",
    ),
    "an index that names a file outside": (
        "llava-1.5",
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../secret.safetensors"}})
        ),
        "does not name a safetensors file of its folder",
    ),
    "single and indexed weights": (
        "llava-1.5",
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "other.safetensors"}})
        ),
        "delete the one that is not of this model",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_that_cannot_load_is_one_sentence_and_never_ready(
    kind: str, tmp_path: Path
) -> None:
    family, mutilated, words = BROKEN[kind]
    folder = save(tmp_path / "m", family)
    mutilated(folder)
    with pytest.raises(UserError, match=words) as refused:
        load_model(find_base(str(folder)))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 900
    state = load_state(str(folder))
    assert not state.ready
    assert state.says


@pytest.mark.parametrize("family", TWINS)
def test_a_sound_folder_is_ready_because_it_was_loaded(family: str, tmp_path: Path) -> None:
    state = load_state(str(save(tmp_path / "m", family)))
    assert state.ready, state
    assert state.says.endswith("loaded and checked")


def test_small_files_are_checked_before_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "m", "llava-1.5")
    monkeypatch.setattr(load_base, "check_weights", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(load, "check_model", lambda *_: pytest.fail("the model was built"))
    template(folder, "{% for %}")
    with pytest.raises(UserError, match="TemplateSyntaxError"):
        load_model(find_base(str(folder)))


@pytest.mark.parametrize("family", TWINS)
def test_a_template_in_tokenizer_config_alone_is_read(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", family)
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    change(folder / "tokenizer_config.json", chat_template=text)
    _, processor = load_model(find_base(str(folder)))
    assert processor.chat_template == text
    change(folder / "tokenizer_config.json", chat_template="another")
    with pytest.raises(UserError, match="chat template gives"):
        load_model(find_base(str(folder)))


@pytest.mark.parametrize("family", TWINS)
def test_an_image_token_in_a_question_is_no_text(family: str) -> None:
    model, processor = TWINS[family]()
    prompts = [
        Prompt(key=text, text=text, image=picture(0))
        for text in ("what is <image> there ?", "what is   there ?")
    ]
    first, second = Engine(model, processor).generate(prompts, Decoding(max_new_tokens=6))
    assert first == second


@pytest.mark.thorough
@pytest.mark.parametrize("family", TWINS)
@pytest.mark.parametrize("image", [None, picture(0)], ids=["text", "image"])
def test_a_question_of_a_megabyte_is_one_sentence(family: str, image: Any) -> None:
    """Also where the model says that it reads any length."""
    model, processor = TWINS[family]()
    model.config.get_text_config().max_position_embeddings = 10**9
    prompt = Prompt(key="long one", text="red " * 250_000, image=image)
    ask = Engine(model, processor)
    with pytest.raises(UserError, match=r"takes \d{6} tokens and the model reads 32768"):
        ask.generate([prompt], Decoding(max_new_tokens=2))


def text_dtype(folder: Path) -> None:
    tensor(folder, "text_projection.weight", lambda each: each.to(torch.int32))


SCORERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "integer weights": (text_dtype, "as I32; only"),
    "a config of fewer layers": (
        lambda folder: fields(folder / "config.json", vision_config__num_hidden_layers=1),
        r"has no place for \d+ of them",
    ),
    "an absent tensor": (
        lambda folder: save_file(
            dict(list(load_file(folder / WEIGHTS).items())[1:]),
            folder / WEIGHTS,
            metadata={"format": "pt"},
        ),
        "1 absent",
    ),
    "a larger tokenizer": (other_tokenizer, "has token 1000000 and the scorer's embedding"),
    "images of endless size": (
        lambda folder: fields(folder / "preprocessor_config.json", size={"shortest_edge": 10**7}),
        "makes images of size",
    ),
    "weights that are not finite": (
        lambda folder: tensor(folder, "text_projection.weight", lambda each: each * float("nan")),
        "gives a small image the score nan",
    ),
    "a page for the weights": (
        lambda folder: (folder / WEIGHTS).write_bytes(mutilate.HTML),
        "because it is an HTML page",
    ),
}


@pytest.mark.parametrize("kind", SCORERS)
def test_a_scorer_that_cannot_load_is_one_sentence(kind: str, tmp_path: Path) -> None:
    card: ScorerCard = save_scorer(tmp_path / "clip")
    load_scorer(card)
    mutilated, words = SCORERS[kind]
    mutilated(tmp_path / "clip")
    with pytest.raises(UserError, match=words) as refused:
        load_scorer(card)
    assert "\n" not in str(refused.value)


def outcomes(count: int) -> set[str]:
    return {shown for _, _, shown in mutilate.run(count)}


SOUND = {"a sentence", "the same answers", "other answers, another identity"}


@pytest.mark.thorough
def test_mutilated_files_give_a_sentence_or_the_same_answers() -> None:
    found = outcomes(20)
    assert found <= SOUND
    assert "a sentence" in found


@pytest.mark.slow
def test_many_mutilated_files_give_a_sentence_or_the_same_answers() -> None:
    assert outcomes(500) <= SOUND
