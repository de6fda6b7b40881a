"""The synthetic models: their training data, their recipe, the shipped weights and their card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import torch

from benchmarks.synthetic.words import vocabulary
from harness.models.chat_format import renderer
from harness.synthetic import card, checkpoint, rebuild
from harness.synthetic.architecture import build_llava, build_processor, build_tokenizer
from harness.synthetic.grounding import IGNORE, ContentHeads
from harness.synthetic.train_llava import Packer, _embed, _run_layers, train_llava
from harness.synthetic.turns import turns
from methods.sena.prompts import SYNTHETIC as SENA
from methods.sima.prompts import SYNTHETIC as SIMA
from tests.tiny_models import SIZES

MIX = rebuild.LLAVA.phases[-1].mix
TOKENIZER = build_tokenizer(vocabulary())
PROCESSOR = build_processor(TOKENIZER, SIZES)


def test_no_turn_and_no_prompt_holds_an_unknown_word() -> None:
    known = set(vocabulary())
    for index in range(150):
        for turn in turns(index, 0, 180, MIX):
            assert not set((turn.prompt + " " + turn.answer).split()) - known
    for text in (
        SENA.ask,
        SENA.enhance_lead,
        *SENA.describe,
        SENA.brief,
        SENA.word,
        SIMA.verdict,
        SIMA.criteria,
    ):
        assert TOKENIZER.unk_token_id not in TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_turns_are_the_same_at_every_call_and_new_at_every_visit() -> None:
    assert turns(3, 5, 180, MIX) == turns(3, 5, 180, MIX)
    assert turns(3, 5, 180, MIX) != turns(3, 6, 180, MIX)


def test_a_packed_turn_has_the_ids_of_the_one_renderer() -> None:
    render = renderer(PROCESSOR)
    packer = Packer(PROCESSOR, 1)  # one image token, as the renderer writes it
    for turn in turns(1, 0, 180, MIX):
        ((prompt, completion),) = render.encode_pairs(
            [render.render_prompt(turn.prompt, has_image=True)],
            [render.render_completion(turn.answer)],
        )
        words, start = packer.turn(turn)
        assert [*packer.prefix, *words[:start]] == list(prompt)
        assert words[start:] == list(completion)


def test_a_turn_in_a_packed_row_sees_what_it_sees_alone() -> None:
    torch.manual_seed(0)
    model = build_llava(TOKENIZER, SIZES)
    packer = Packer(PROCESSOR, SIZES.patches)
    three = [turn for turn in turns(2, 0, 180, MIX) if not turn.blind][:3]
    assert len(three) == 3
    features = model.model.multi_modal_projector(torch.randn(1, SIZES.patches, SIZES.vision_width))

    def last_word(row: list[object]) -> torch.Tensor:
        rows = packer.pack([row], 0.5)  # type: ignore[list-item]
        with torch.no_grad():
            *_, hidden = _run_layers(
                model.model.language_model,
                _embed(model, rows, features),
                rows.mask,
                rows.positions,
            )
        return hidden[0][rows.weights[0] > 0][-1]

    assert torch.allclose(last_word([three[2]]), last_word(list(three)), atol=1e-5)


def test_looking_asks_only_at_prompt_words_that_name_a_category() -> None:
    looking = ContentHeads(PROCESSOR, SIZES.width)
    packer = Packer(PROCESSOR, SIZES.patches)
    rows = packer.pack([[turn for turn in turns(2, 0, 180, MIX) if not turn.blind]], 0.5)
    assert not (rows.prompt_mask & (rows.weights > 0)).any()
    assert not rows.prompt_mask[0][: len(packer.prefix)].any()
    read = rows.mistakes != IGNORE
    judged = [turn for turn in turns(2, 0, 180, MIX) if turn.mistakes is not None]
    assert int(read.sum()) == 2 * len(judged)
    assert looking.counts.out_features == 5


def test_a_judgement_names_the_account_with_fewer_mistakes() -> None:
    judged = [
        turn
        for index in range(200)
        for turn in turns(index, 0, 180, MIX)
        if turn.mistakes is not None
    ]
    assert len(judged) > 30
    for turn in judged:
        assert turn.mistakes is not None
        first, second = turn.mistakes
        assert turn.answer == ("[[1]]" if first < second else "[[2]]")


@pytest.mark.equality
def test_a_training_that_was_cut_goes_on_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after its first checkpoint; the weights at the end are those of an undisturbed
    training."""
    from harness.synthetic import train_llava as module

    monkeypatch.setattr(module.shutil, "which", lambda _name: None)  # no compiler: the plain path
    phase = rebuild.LLAVA.phases[-1]
    recipe = rebuild.LlavaRecipe(
        phases=(module.Phase(**{**vars(phase), "steps": 4, "horizon": 4}),),
        batch=2,
        budget=60,
        scenes=6,
    )

    def trained(folder: Path, cut: bool) -> dict[str, torch.Tensor]:
        model = build_llava(TOKENIZER, SIZES)
        saved = checkpoint.save

        def save_and_cut(
            path: Path, parameters: object, optimizer: object, step: int, recipe: str
        ) -> None:
            saved(path, parameters, optimizer, step, recipe)  # type: ignore[arg-type]
            if cut and step == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(module.checkpoint, "save", save_and_cut)
        monkeypatch.setattr(module, "SAVE_EVERY", 2)
        train_llava(model, PROCESSOR, recipe, folder, "recipe", lambda _line: None)
        return model.state_dict()

    torch.manual_seed(0)
    whole = trained(tmp_path / "whole", cut=False)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", cut=True)
    torch.manual_seed(0)
    resumed = trained(tmp_path / "cut", cut=False)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_recipe_is_not_taken(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    parameters = dict(layer.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values())
    checkpoint.save(tmp_path / "a.safetensors", parameters, optimizer, 7, "one")
    assert checkpoint.load(tmp_path / "a.safetensors", parameters, optimizer, "one") == 7
    assert checkpoint.load(tmp_path / "a.safetensors", parameters, optimizer, "another") == 0


def test_the_shipped_weights_are_small_and_of_the_present_recipe() -> None:
    size = sum(path.stat().st_size for path in rebuild.WEIGHTS.rglob("*.safetensors"))
    assert 1e6 < size < 12e6
    recipe = json.loads((rebuild.WEIGHTS / "recipe.json").read_text())
    assert recipe["fingerprint"] == rebuild.fingerprint("llava")
    assert recipe["llava"] == json.loads(json.dumps(asdict(rebuild.LLAVA)))
    assert (
        json.loads((rebuild.WEIGHTS / "card.json").read_text())["recipe"] == recipe["fingerprint"]
    )


def test_the_shipped_card_is_what_the_present_code_writes() -> None:
    content = json.loads((rebuild.WEIGHTS / "card.json").read_text())
    recipe = json.loads((rebuild.WEIGHTS / "recipe.json").read_text())
    size = sum(path.stat().st_size for path in rebuild.WEIGHTS.rglob("*.safetensors")) / 1e6
    skills = [
        card.Skill(name=name, value=value, lo=lo, hi=hi)
        for name, (value, lo, hi) in content["skills"].items()
    ]
    written = card.card_text(content, skills, recipe, size).splitlines()
    shipped = (rebuild.WEIGHTS / "CARD.md").read_text().splitlines()
    # card.json holds rounded numbers, so a row's last digit may differ.
    rows = [line.split("|")[1] for line in shipped if line.startswith("| ")]
    assert rows == [line.split("|")[1] for line in written if line.startswith("| ")]
    assert [line for line in shipped if not line.startswith("| ")] == [
        line for line in written if not line.startswith("| ")
    ]


def test_the_shipped_base_answers_in_its_own_words() -> None:
    from benchmarks.synthetic.suite import synthetic_item
    from harness.engine.engine import Engine
    from harness.engine.load import load_model
    from harness.models.base_cards import BASES
    from methods.interface import Decoding, Prompt

    engine = Engine(*load_model(BASES["synthetic"]))
    _, image, question, reference = synthetic_item("dev", Random(0).randrange(100))
    (done,) = engine.generate(
        [Prompt(key="a", text=question, image=image)], Decoding(max_new_tokens=96)
    )
    assert done.finished
    assert set(done.text.replace(".", " .").split()) <= set(vocabulary())
    assert len(done.text.split()) > len(reference.split()) / 3
