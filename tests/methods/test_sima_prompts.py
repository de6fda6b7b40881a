"""SIMA's prompt sets: the wording that the synthetic model was trained on, sets from files, and
filling templates."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.synthetic.words import vocabulary
from harness.synthetic.architecture import build_tokenizer
from methods.sima.critic import read_verdict
from methods.sima.prompts import REAL, SYNTHETIC, SimaPrompts

TASK = "question : what ? truth : a red ball . first : a cup . second : a ball ."


def written(folder: Path, **changes: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps({**asdict(REAL), **changes}))
    return path


def test_the_synthetic_model_is_asked_in_the_words_it_was_trained_on() -> None:
    rendered = [
        SYNTHETIC.render(
            "what ?", "a red ball .", "a cup .", "a ball .", criteria=criteria, examples=examples
        )
        for criteria in (False, True)
        for examples in (False, True)
    ]
    examples = (
        "example : truth : a red ball . first : a red ball . second : a red ball and a blue box ."
        " verdict : [[1]] . example : truth : a green tree . first : a brown tree . second : a"
        " green tree . verdict : [[2]] . "
    )
    criteria = " compare things , colours and places with the truth ."
    ends = " which is better ?"
    assert rendered == [
        TASK + ends,
        examples + TASK + ends,
        TASK + criteria + ends,
        examples + TASK + criteria + ends,
    ]


def test_the_synthetic_model_knows_every_word_it_is_sent() -> None:
    tokenizer = build_tokenizer(vocabulary())
    answer = "there is a red ball at the top left ."
    for reference in (answer, None):
        text = SYNTHETIC.render("describe the image in detail .", reference, answer, answer)
        assert "<unk>" not in tokenizer.tokenize(text), text
    for verdict in ("[[1]]", "[[2]]"):
        (token,) = tokenizer.encode(verdict, add_special_tokens=False)
        assert read_verdict(tokenizer.decode([token]))


def test_without_a_reference_the_task_holds_none() -> None:
    text = SYNTHETIC.render("what ?", None, "a cup .", "a ball .", examples=False)
    assert (
        text
        == "question : what ? first : a cup . second : a ball . "
        + f"{SYNTHETIC.criteria_alone} {SYNTHETIC.verdict}"
    )
    real = REAL.render("What?", None, "A cup.", "A ball.", examples=False)
    assert "Ground truth:" not in real
    assert real.count("\n\n") == 2


@pytest.mark.parametrize("prompts", [SYNTHETIC, REAL])
def test_the_examples_end_in_one_verdict_of_each_kind(prompts: SimaPrompts) -> None:
    verdicts = [part[:3] for part in prompts.examples.split("[[")[1:]]
    assert verdicts == ["1]]", "2]]"]
    assert read_verdict(prompts.examples) == 2


def test_the_real_examples_have_the_verdict_lead() -> None:
    assert REAL.examples.count(f"{REAL.verdict_lead} [[") == 2
    assert REAL.verdict_lead in REAL.verdict


def test_a_file_gives_back_the_set(tmp_path: Path) -> None:
    assert SimaPrompts.from_file(written(tmp_path)) == REAL


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": "x"}, ["unknown field 'extra'", "verdict_lead"]),
        (
            {"critic": "{question} {first} {second}"},
            ["critic lacks {reference}", "write {reference}"],
        ),
        (
            {"critic_alone": "{question} {reference} {first} {second}"},
            ["critic_alone holds {reference}", "take"],
        ),
        ({"verdict": "{first} or {second} ?"}, ["verdict holds {first}", "no placeholder"]),
        ({"criteria": " "}, ["criteria", "a text"]),
        ({"joint": ""}, ["joint", "a text"]),
        ({"examples": ["a"]}, ["examples", "a text"]),
        ({"verdict_lead": None}, ["verdict_lead", "a text"]),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(
    tmp_path: Path, changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        SimaPrompts.from_file(written(tmp_path, **changes))
    assert all(word in str(error.value) for word in ["prompts.json", *words]), error.value
    assert "\n" not in str(error.value)


def test_a_missing_field_a_missing_file_and_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    with pytest.raises(ValueError, match="cannot be read"):
        SimaPrompts.from_file(path)
    for content, words in (
        ("{", "not JSON: .* in line 1"),
        ("[]", "no JSON object"),
        ('{"name": "a"}', "lacks the field 'examples'"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=words):
            SimaPrompts.from_file(path)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        SimaPrompts.from_file(path)


def test_the_request_first_order_is_the_released_codes() -> None:
    text = SYNTHETIC.render("q ?", "t .", "a .", "b .", request_first=True)
    parts = [
        SYNTHETIC.verdict,
        SYNTHETIC.criteria,
        SYNTHETIC.examples,
        "question : q ? truth : t . first : a . second : b .",
        SYNTHETIC.verdict,
    ]
    assert text == " ".join(parts)


def test_braces_in_a_models_text_stay_text() -> None:
    text = SYNTHETIC.render(
        "{first}", "{second} {0}", "{question}", "{", criteria=False, examples=False
    )
    assert (
        text
        == "question : {first} truth : {second} {0} first : {question} second : { which is better ?"
    )
