"""SENA's prompt sets: required placeholders, sets from files, and filling templates."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.synthetic.words import vocabulary
from harness.synthetic.architecture import build_tokenizer
from methods.prompt_sets import fill
from methods.sena.prompts import REAL, SYNTHETIC, SenaPrompts, with_request
from methods.text import after_lead


def written(folder: Path, **changes: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps({**asdict(REAL), **changes}))
    return path


def test_a_file_gives_back_the_set(tmp_path: Path) -> None:
    assert SenaPrompts.from_file(written(tmp_path)) == REAL


def test_the_two_sets_hold_eleven_descriptions_and_ask_for_their_lead() -> None:
    for prompts in (REAL, SYNTHETIC):
        assert len(set(prompts.describe)) == 11
    assert REAL.enhance_lead in REAL.enhance
    assert REAL.enhance_lead in REAL.enhance_plain


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": "x"}, ["unknown field 'extra'", "describe"]),
        ({"check": "no place for it"}, ["check lacks {question}", "write {question}"]),
        ({"enhance": "{prompt} {answer}"}, ["enhance lacks {description}"]),
        (
            {"enhance_plain": "{description} {prompt} {answer}"},
            ["enhance_plain holds {description}", "take"],
        ),
        ({"ask": "{question}"}, ["ask holds {question}", "no placeholder"]),
        ({"brief": ""}, ["brief", "a text"]),
        ({"word": ["a"]}, ["word", "a text"]),
        ({"ask": 3}, ["ask", "a text"]),
        ({"describe": "describe it"}, ["describe", "a tuple"]),
        ({"describe": []}, ["describe", "not empty"]),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(
    tmp_path: Path, changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        SenaPrompts.from_file(written(tmp_path, **changes))
    assert all(word in str(error.value) for word in ["prompts.json", *words]), error.value
    assert "\n" not in str(error.value)


def test_a_missing_field_a_missing_file_and_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    with pytest.raises(ValueError, match="cannot be read"):
        SenaPrompts.from_file(path)
    path.write_text('{\n "name": "mine",\n "ask" "x"\n}')
    with pytest.raises(ValueError, match=r"not JSON: .* in line 3"):
        SenaPrompts.from_file(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        SenaPrompts.from_file(path)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        SenaPrompts.from_file(path)
    path.write_text(
        json.dumps({name: value for name, value in asdict(REAL).items() if name != "word"})
    )
    with pytest.raises(ValueError, match="lacks the field 'word'"):
        SenaPrompts.from_file(path)


def test_braces_in_a_models_text_stay_text() -> None:
    template = "{description} | {prompt} | {answer}"
    assert (
        fill(template, description="{answer}", prompt="{0} {prompt} %s", answer="{")
        == "{answer} | {0} {prompt} %s | {"
    )


def test_the_synthetic_model_knows_every_word_it_is_sent() -> None:
    tokenizer = build_tokenizer(vocabulary())
    question = "what colour is the ball?"
    answer = "a red ball and a blue cup."
    sent = [
        SYNTHETIC.ask,
        fill(SYNTHETIC.check, question=question),
        fill(SYNTHETIC.enhance_plain, prompt=with_request(question, SYNTHETIC.word), answer=answer),
        SYNTHETIC.enhance_lead,
        *SYNTHETIC.check_leads,
    ]
    for describe in SYNTHETIC.describe:
        prompt = with_request(describe, SYNTHETIC.brief)
        sent += [prompt, fill(SYNTHETIC.enhance, description=answer, prompt=prompt, answer=answer)]
    for text in sent:
        assert "<unk>" not in tokenizer.tokenize(text), text


def test_the_leads_are_found_in_what_the_synthetic_model_writes() -> None:
    tokenizer = build_tokenizer(vocabulary())
    for lead in (SYNTHETIC.enhance_lead, *SYNTHETIC.check_leads):
        written = tokenizer.decode(tokenizer.encode(f"{lead} where is the ball?"))
        assert after_lead(written, lead) == "where is the ball?"
