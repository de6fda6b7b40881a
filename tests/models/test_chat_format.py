"""The renderer: the format to the letter, special tokens of untrusted text, and agreement with the
family's template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.errors import UserError
from harness.models.chat_format import VICUNA_V1, Renderer, check_template, renderer
from tests.models.twins import QWEN_TEMPLATE, tiny_qwen
from tests.tiny_models import picture, tiny_llava

# LLaVA-1.5's published template: no beginning token (its tokenizer adds one) and a trailing space
# after each turn.
PUBLISHED = (
    "{% for message in messages %}{{ message['role'].upper() + ': '}}{% for part in"
    " message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{%"
    " for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + '"
    " '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def test_format_to_the_letter() -> None:
    words = renderer(tiny_llava()[1])
    assert (
        words.render_prompt("what is there ?", True)
        == "<s>USER: <image>\nwhat is there ? ASSISTANT:"
    )
    assert words.render_prompt("what is there ?", False) == "<s>USER: what is there ? ASSISTANT:"
    assert (
        words.render_prompt("describe", True, " a red ball ")
        == "<s>USER: <image>\ndescribe ASSISTANT: a red ball"
    )
    assert words.render_completion("a red ball . ") == " a red ball .</s>"


@pytest.mark.parametrize(
    "attack",
    ["<image>", "</s>", "<s>", "<pad>", "<unk>", "<IMAGE>", "<im<image>age>", "</s</s>>", "<<s>s>"],
)
def test_untrusted_text_makes_no_special_token(attack: str) -> None:
    _, processor = tiny_llava()
    words, tokenizer = renderer(processor), processor.tokenizer
    special = {
        tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<pad>", "<image>")
    }
    prompt = words.render_prompt(f"what {attack} is there {attack}", True, f"a {attack} ball")
    [(asked, answered)] = words.encode_pairs(
        [prompt], [words.render_completion(f"a {attack} ball {attack}")]
    )
    assert [token for token in asked if token in special] == [
        tokenizer.bos_token_id,
        processor.image_token_id,
    ]
    assert [token for token in answered if token in special] == [tokenizer.eos_token_id]


def test_tokens_equal_the_processors_own() -> None:
    model, processor = tiny_llava()
    prompt = renderer(processor).render_prompt("is there a ball ?", True)
    [ids] = renderer(processor).encode([prompt])
    theirs = processor(images=picture(0), text=prompt, add_special_tokens=False)["input_ids"][0]
    place = ids.index(processor.image_token_id)
    assert ids[:place] + [processor.image_token_id] * model.config.image_seq_length + ids[
        place + 1 :
    ] == list(theirs)


def test_pairs_are_cut_where_the_answer_starts() -> None:
    _, processor = tiny_llava()
    words = renderer(processor)
    [(asked, answered)] = words.encode_pairs(
        [words.render_prompt("what", True)], [words.render_completion("a ball .")]
    )
    assert processor.tokenizer.convert_ids_to_tokens(asked)[-2:] == ["assistant", ":"]
    assert processor.tokenizer.convert_ids_to_tokens(answered) == ["a", "ball", ".", "</s>"]


def vicuna_v1(question: str, answer: str | None) -> str:
    """The original's text of one turn, written independently: system and turns are closed by a
    space, the answer by the end token."""
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    text = " ".join([system, "USER: <image>\n" + question, "ASSISTANT:"])
    return text if answer is None else text + " " + answer + "</s>"


def vicuna() -> tuple[Any, Renderer]:
    _, processor = tiny_llava()
    processor.chat_template = VICUNA_V1 + PUBLISHED
    return processor, renderer(processor)


def test_vicuna_v1_to_the_letter() -> None:
    processor, words = vicuna()
    prompt = words.render_prompt("What is there?", True)
    assert prompt == "<s>" + vicuna_v1("What is there?", None)
    assert prompt + words.render_completion("A ball.") == "<s>" + vicuna_v1(
        "What is there?", "A ball."
    )
    assert words.render_prompt("Why?", False) == f"<s>{VICUNA_V1}USER: Why? ASSISTANT:"
    check_template(processor)


@pytest.mark.parametrize(
    ("make", "template"), [(tiny_llava, PUBLISHED), (tiny_qwen, QWEN_TEMPLATE)]
)
def test_a_templates_own_system_text_is_taken_over(
    make: Callable[[], tuple[Any, Any]], template: str
) -> None:
    _, processor = make()
    plain = renderer(processor).render_prompt("what?", True)
    processor.chat_template = "Be brief.\n" + template
    words = renderer(processor)
    assert words.trim(words.render_prompt("what?", True)) == "Be brief.\n" + words.trim(plain)
    check_template(processor)


def test_the_formats_characters_are_those_that_csrs_search_counts() -> None:
    # The released code counts 184: it decodes the begin token with a space behind it.
    assert len(vicuna()[1].render_prompt("", True)) == 183


def test_double_wrapped_pairs_to_the_letter() -> None:
    _, words = vicuna()
    system = VICUNA_V1.strip()
    prompt, [answer] = words.wrap_again("What is there?", ["A ball."])
    assert words.render_prompt(prompt, True) + words.render_completion(answer) == (
        f"<s>{system} USER: <image>\n{system} USER: \nWhat is there? ASSISTANT:"
        " ASSISTANT: A ball.</s>"
    )


@pytest.mark.parametrize("template", [None, PUBLISHED])
def test_template_agrees(template: str | None) -> None:
    _, processor = tiny_llava()
    processor.chat_template = template or processor.chat_template
    check_template(processor)


@pytest.mark.parametrize(
    ("old", "new"), [("USER: ", "Human: "), ("<image>\n", "<image>"), (" ASSISTANT: ", " ### ")]
)
def test_template_mismatch_is_named(old: str, new: str) -> None:
    _, processor = tiny_llava()
    assert old in processor.chat_template
    processor.chat_template = processor.chat_template.replace(old, new)
    with pytest.raises(UserError, match=r"chat template gives '.*', but our prompt is '.*'"):
        check_template(processor)


def test_missing_template_and_tokens_are_problems() -> None:
    _, processor = tiny_llava()
    processor.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        check_template(processor)
    processor.tokenizer.bos_token = None
    with pytest.raises(UserError, match="no bos_token"):
        renderer(processor)
