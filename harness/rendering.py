"""The one prompt renderer: generation, training and benchmarks turn a prompt into tokens here and nowhere else.

The format is LLaVA-1.5's (Liu et al., arXiv 2310.03744): ``<s>USER: <image>\\n{text} ASSISTANT: {answer}</s>``, a plain string
tokenised with ``add_special_tokens=False``, so that training sees the very beginning and end tokens that generation sees.
Questions and model texts are untrusted: what they hold of special tokens is replaced by a space before it is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders and tokenises for one processor; make it with :func:`renderer`. ``specials`` matches every special token."""

    bos: str
    eos: str
    image: str
    specials: re.Pattern[str]
    tokenizer: Any = field(repr=False, compare=False)

    def render_prompt(self, prompt_text: str, has_image: bool, prefix: str = "") -> str:
        """The prompt up to the point where the answer starts, or goes on behind ``prefix``."""
        picture = f"{self.image}\n" if has_image else ""
        prefix = self.neutral(prefix).strip()
        return f"{self.bos}USER: {picture}{self.neutral(prompt_text)} ASSISTANT:" + (f" {prefix}" if prefix else "")

    def render_completion(self, answer: str) -> str:
        """What follows a rendered prompt: the answer (outer white space removed) and the end token."""
        return f" {self.neutral(answer).strip()}{self.eos}"

    def neutral(self, text: str) -> str:
        """Text that cannot become a special token: each one, in any case, is a space instead."""
        return self.specials.sub(" ", text)

    def encode(self, rendered: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered strings; a picture is its one image token, not yet widened to its patches."""
        return list(self.tokenizer(list(rendered), add_special_tokens=False)["input_ids"]) if rendered else []

    def encode_pairs(self, prompts: Sequence[str], completions: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Ids of rendered prompts and of the completions behind them, tokenised together and cut at the prompt's end."""
        alone = self.encode(prompts)
        both = self.encode([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])
        for prompt, ids, whole in zip(prompts, alone, both, strict=True):
            if whole[: len(ids)] != ids:
                raise Problem(
                    f"The tokenizer joins the end of a prompt with the start of its answer ({prompt[-20:]!r}); "
                    "prompt and answer must be apart: use a tokenizer that splits at the space between them."
                )
        return [(ids, whole[len(ids) :]) for ids, whole in zip(alone, both, strict=True)]


def renderer(processor: Any) -> Renderer:
    """The renderer of a processor, with the beginning, end and image tokens its tokenizer names."""
    tokenizer = processor.tokenizer
    names = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "image_token": image_token(processor)}
    for name, token in names.items():
        if not token:
            raise Problem(f"The processor's tokenizer has no {name}; a LLaVA-1.5 processor names all of {', '.join(names)}.")
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    # The longest first, so that a token which begins another does not leave the other's tail behind.
    strings = sorted({*tokenizer.all_special_tokens, *added, *names.values()}, key=len, reverse=True)
    return Renderer(
        bos=names["bos_token"],
        eos=names["eos_token"],
        image=names["image_token"],
        specials=re.compile("|".join(re.escape(text) for text in strings if text.strip()), re.IGNORECASE),
        tokenizer=tokenizer,
    )


def image_token(processor: Any) -> str:
    return getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None) or ""


def check_template(processor: Any) -> None:
    """Raise Problem unless the family's own chat template renders as we do.

    The beginning and end tokens and outer white space are left out of the comparison: some families' tokenizers add them.
    """
    ours, text, answer = renderer(processor), "What is there?", "A red ball."
    if not getattr(processor, "chat_template", None):
        raise Problem("The processor has no chat template to check our prompts against; save it with the model's own template.")

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
                raise Problem(
                    f"This model's chat template renders {bare(theirs)!r} where our prompts read {bare(mine)!r}; "
                    "only LLaVA-1.5's prompt format is supported: choose a base of that family."
                )
