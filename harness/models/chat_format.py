"""The one prompt renderer: generation, training and benchmarks turn a prompt into tokens here and
nowhere else.

LLaVA-1.5's format (Liu et al., arXiv 2310.03744) is ``<s>USER: <image>\\n{text} ASSISTANT:
{answer}</s>``; Qwen2.5-VL's is ChatML with its default system line. Either is a plain string
tokenised with ``add_special_tokens=False``, so that training sees the very beginning and end tokens
that generation sees. Questions and model texts are untrusted: what they hold of special tokens is
replaced by a space before it is rendered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Format:
    """A family's chat format: ``start`` (image) text ``answer`` ``lead`` answer ``end``.
    ``needs`` are the tokens that a processor of the family must name."""

    start: str
    picture: str
    answer: str
    lead: str
    end: str
    needs: tuple[str, ...] = ("eos_token", "image_token")


LLAVA = Format(
    start="{bos}USER: ",
    picture="{image}\n",
    answer=" ASSISTANT:",
    lead=" ",
    end="{eos}",
    needs=("bos_token", "eos_token", "image_token"),
)
CHATML = Format(
    start="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    picture="<|vision_start|>{image}<|vision_end|>",
    answer="<|im_end|>\n<|im_start|>assistant\n",
    lead="",
    end="{eos}",
)


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders and tokenises for one processor; make it with :func:`renderer`. ``specials`` matches
    every special token."""

    format: Format
    bos: str
    eos: str
    image: str
    specials: re.Pattern[str]
    tokenizer: Any = field(repr=False, compare=False)

    def render_prompt(self, prompt_text: str, has_image: bool, prefix: str = "") -> str:
        """The prompt up to the point where the answer starts, or goes on behind ``prefix``."""
        format, prefix = self.format, self.neutral(prefix).strip()
        asked = format.start + (format.picture if has_image else "")
        return (
            self.fill(asked)
            + self.neutral(prompt_text)
            + format.answer
            + (format.lead + prefix if prefix else "")
        )

    def render_completion(self, answer: str, prefix: str = "") -> str:
        """What follows a rendered prompt (and its ``prefix``): the answer (outer white space
        removed) and the end token."""
        lead = " " if self.neutral(prefix).strip() else self.format.lead
        return lead + self.neutral(answer).strip() + self.fill(self.format.end)

    def fill(self, part: str) -> str:
        return part.format(bos=self.bos, eos=self.eos, image=self.image)

    def neutral(self, text: str) -> str:
        """Text that cannot become a special token: each one, in any case, is a space instead."""
        return self.specials.sub(" ", text)

    def encode(self, rendered: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered strings; an image is its one image token, not yet widened to its
        patches."""
        return (
            list(self.tokenizer(list(rendered), add_special_tokens=False)["input_ids"])
            if rendered
            else []
        )

    def encode_pairs(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        """Ids of rendered prompts and of the completions behind them, tokenised together and cut at
        the prompt's end."""
        alone = self.encode(prompts)
        both = self.encode(
            [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        )
        for prompt, ids, whole in zip(prompts, alone, both, strict=True):
            if whole[: len(ids)] != ids:
                raise UserError(
                    "The tokenizer joins the end of a prompt with the start of its answer"
                    f" ({prompt[-20:]!r}); prompt and answer must be apart: use a tokenizer that"
                    " splits at the space between them."
                )
        return [(ids, whole[len(ids) :]) for ids, whole in zip(alone, both, strict=True)]


def renderer(processor: Any) -> Renderer:
    """The renderer of a processor, with the beginning, end and image tokens its tokenizer names."""
    tokenizer = processor.tokenizer
    format = CHATML if "Qwen" in type(processor).__name__ else LLAVA
    names = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "image_token": image_token(processor),
    }
    for name in format.needs:
        if not names[name]:
            raise UserError(
                f"The processor's tokenizer has no {name}; this family's processors name"
                f" {', '.join(format.needs)}."
            )
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    # The longest first, so that a token which begins another does not leave the other's tail
    # behind.
    known = {*tokenizer.all_special_tokens, *added, *(token for token in names.values() if token)}
    strings = sorted(known, key=len, reverse=True)
    return Renderer(
        format=format,
        bos=names["bos_token"] or "",
        eos=names["eos_token"],
        image=names["image_token"],
        specials=re.compile(
            "|".join(re.escape(text) for text in strings if text.strip()), re.IGNORECASE
        ),
        tokenizer=tokenizer,
    )


def image_token(processor: Any) -> str:
    return (
        getattr(processor, "image_token", None)
        or getattr(processor.tokenizer, "image_token", None)
        or ""
    )


def check_template(processor: Any) -> None:
    """Raise UserError unless the family's own chat template renders as we do.

    The beginning and end tokens and outer white space are left out of the comparison: some
    families' tokenizers add them."""
    ours, text, answer = renderer(processor), "What is there?", "A red ball."
    if not getattr(processor, "chat_template", None):
        raise UserError(
            "The processor has no chat template to check our prompts against; save it with the"
            " model's own template."
        )

    def bare(rendered: str) -> str:
        return rendered.strip().removeprefix(ours.bos).removesuffix(ours.eos).strip()

    for has_image in (True, False):
        content = [{"type": "image"}] * has_image + [{"type": "text", "text": text}]
        asked = [{"role": "user", "content": content}]
        answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        prompt = ours.render_prompt(text, has_image)
        for mine, theirs in (
            (prompt, processor.apply_chat_template(asked, add_generation_prompt=True)),
            (prompt + ours.render_completion(answer), processor.apply_chat_template(answered)),
        ):
            if bare(mine) != bare(theirs):
                raise UserError(
                    f"This model's chat template renders {bare(theirs)!r} where our prompts read"
                    f" {bare(mine)!r}; choose a base with its family's published template"
                    " (LLaVA-1.5's, or Qwen2.5-VL's)."
                )
