"""Turns prompts into tokens, for generation, training and benchmarks alike.

LLaVA-1.5's format (Liu et al., arXiv 2310.03744) is ``<s>{system}USER: <image>\\n{text} ASSISTANT:
{answer}</s>``. Qwen2.5-VL's format is ChatML. The system text is that of the model's own chat
template; a base card may put another one there. All is rendered as plain strings and tokenised with
``add_special_tokens=False``, so training uses the same begin and end tokens as generation. Special
tokens inside questions and model texts are replaced by spaces, so they cannot break the format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Format:
    """A family's chat format: start, system text, the header ``user``, image (if there is one), the
    question's text, the header ``answer``, ``lead``, the answer's text, end."""

    start: str
    system: str
    """Where the model's own template is missing or of another format."""
    user: str
    image: str
    answer: str
    lead: str
    end: str
    needs: tuple[str, ...] = ("eos_token", "image_token")
    """The special tokens that a processor of the family must define."""


LLAVA = Format(
    start="{bos}",
    system="",
    user="USER: ",
    image="{image}\n",
    answer=" ASSISTANT:",
    lead=" ",
    end="{eos}",
    needs=("bos_token", "eos_token", "image_token"),
)
CHATML = Format(
    start="",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    user="<|im_start|>user\n",
    image="<|vision_start|>{image}<|vision_end|>",
    answer="<|im_end|>\n<|im_start|>assistant\n",
    lead="",
    end="{eos}",
)
VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives"
    " helpful, detailed, and polite answers to the user's questions. "
)
"""The system text of LLaVA-1.5's conversation ``vicuna_v1``, with the space after it."""


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders and tokenises texts for one processor; made by :func:`renderer`."""

    format: Format
    system: str
    """The text before the first turn, with what separates them."""
    bos: str
    eos: str
    image: str
    specials: re.Pattern[str]
    """Matches every special token of the tokenizer, ignoring upper and lower case."""
    tokenizer: Any = field(repr=False, compare=False)

    def render_prompt(self, prompt_text: str, has_image: bool, prefix: str = "") -> str:
        """The prompt up to the answer, or up to the end of the answer's given ``prefix``."""
        format, prefix = self.format, self.neutralize(prefix).strip()
        start = self._fill(format.start) + self.system
        turn = self._fill(format.user + (format.image if has_image else ""))
        lead = format.lead + prefix if prefix else ""
        return start + turn + self.neutralize(prompt_text) + format.answer + lead

    def render_completion(self, answer: str, prefix: str = "") -> str:
        """The text that follows a rendered prompt (and ``prefix``): the answer without outer white
        space, then the end token."""
        lead = " " if self.neutralize(prefix).strip() else self.format.lead
        return lead + self.neutralize(answer).strip() + self._fill(self.format.end)

    def wrap_again(self, prompt_text: str, answers: Sequence[str]) -> tuple[str, list[str]]:
        """A prompt's text that is in the chat format already (without begin and image tokens), and
        its answers behind the header of the answer; see ``Recipe.double_wrapped``."""
        start = self.system + self._fill(self.format.user + self.format.image)
        header = self.format.answer.strip() + " "
        return start.replace(self.image, "") + prompt_text, [header + text for text in answers]

    def trim(self, rendered: str) -> str:
        """A rendered text without begin and end tokens and outer white space."""
        return rendered.strip().removeprefix(self.bos).removesuffix(self.eos).strip()

    def _fill(self, template: str) -> str:
        return template.format(bos=self.bos, eos=self.eos, image=self.image)

    def neutralize(self, text: str) -> str:
        """The text with each special token replaced by a space."""
        return self.specials.sub(" ", text)

    def encode(self, rendered: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered strings. An image is a single image token here."""
        if not rendered:
            return []
        return list(self.tokenizer(list(rendered), add_special_tokens=False)["input_ids"])

    def encode_pairs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of each rendered prompt and its completion, tokenised as one string.

        Raises:
            UserError: one token covers the end of a prompt and the start of its completion.
        """
        prompt_ids = self.encode(prompts)
        joined_ids = self.encode(
            [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        )
        for prompt, ids, joined in zip(prompts, prompt_ids, joined_ids, strict=True):
            if joined[: len(ids)] != ids:
                raise UserError(
                    "The tokenizer merges the end of a prompt with the start of its answer into one"
                    f" token ({prompt[-20:]!r}); use a tokenizer that splits at the space between"
                    " prompt and answer."
                )
        return [
            (ids, joined[len(ids) :]) for ids, joined in zip(prompt_ids, joined_ids, strict=True)
        ]


def renderer(processor: Any) -> Renderer:
    """The renderer of a processor.

    Raises:
        UserError: its tokenizer lacks a token that the family's format needs.
    """
    tokenizer = processor.tokenizer
    format = CHATML if "Qwen" in type(processor).__name__ else LLAVA
    images = [getattr(owner, "image_token", None) for owner in (processor, tokenizer)]
    names = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "image_token": images[0] or images[1] or "",
    }
    for name in format.needs:
        if not names[name]:
            raise UserError(
                f"The processor's tokenizer has no {name}; processors of this family must define"
                f" {', '.join(format.needs)}."
            )
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    # LLaVA's data files hold <image> in questions; for other families it would stay as text.
    special = {"<image>", *tokenizer.all_special_tokens, *added, *filter(None, names.values())}
    # Longest first, because a token may be the beginning of another.
    longest_first = sorted((text for text in special if text.strip()), key=len, reverse=True)
    chat = Renderer(
        format=format,
        system="",
        bos=names["bos_token"] or "",
        eos=names["eos_token"],
        image=names["image_token"],
        specials=re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE),
        tokenizer=tokenizer,
    )
    return replace(chat, system=_system_text(processor, chat))


def _system_text(processor: Any, chat: Renderer) -> str:
    """What the model's own template writes before the first turn; the family's where the template
    is missing or of another format, which :func:`check_template` reports."""
    if getattr(processor, "chat_template", None):
        template_text = chat.trim(
            processor.apply_chat_template(_user_turn("?", True), add_generation_prompt=True)
        )
        prompt = chat.trim(chat.render_prompt("?", True))
        if template_text.endswith(prompt):
            return template_text.removesuffix(prompt)
    return chat.format.system


def _user_turn(text: str, has_image: bool) -> list[dict[str, Any]]:
    content = [{"type": "image"}] * has_image + [{"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def check_template(processor: Any) -> None:
    """Check that the model's own chat template gives the same text as this module.

    Begin and end tokens and outer white space are ignored: some tokenizers add them.

    Raises:
        UserError: there is no template, or it gives another text.
    """
    chat, text, answer = renderer(processor), "What is there?", "A red ball."
    if not getattr(processor, "chat_template", None):
        raise UserError(
            "The processor has no chat template, so the prompts cannot be checked; save the"
            " processor with the model's own template."
        )
    for has_image in (True, False):
        turn = _user_turn(text, has_image)
        messages = [*turn, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        prompt = chat.render_prompt(text, has_image)
        for own_text, template_text in (
            (prompt, processor.apply_chat_template(turn, add_generation_prompt=True)),
            (prompt + chat.render_completion(answer), processor.apply_chat_template(messages)),
        ):
            if chat.trim(own_text) != chat.trim(template_text):
                raise UserError(
                    f"This model's chat template gives {chat.trim(template_text)!r:.200}, but"
                    f" our prompt is {chat.trim(own_text)!r:.200}; choose a base with its"
                    " family's published template (LLaVA-1.5's, or Qwen2.5-VL's)."
                )
