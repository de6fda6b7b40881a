"""Trains the synthetic LLaVA on turns about images: language model and projector, with the CLIP's
vision tower frozen.

The tower is frozen as in LLaVA-1.5's own recipe, so its features are computed once an image.
Several turns share one image prefix in a row. A turn attends to the prefix and itself (4-D mask,
positions restart after the prefix), as at generation. The loss is the cross entropy of the answers,
where words of long answers weigh less, so that captions do not dominate one-word answers; plus the
two losses of grounding.py."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from transformers import LlamaModel, LlavaForConditionalGeneration, LlavaProcessor

from benchmarks.synthetic.scene import scene
from harness.synthetic import checkpoint
from harness.synthetic.grounding import IGNORE, MOST_MISTAKES, ContentHeads, Grounding
from harness.synthetic.train_clip import cosine, normalise, paint
from harness.synthetic.turns import Mix, Turn, turns

WIDTH_MULTIPLE = 32
"""Rows are padded to a multiple of so many tokens."""
SAVE_EVERY = 250
LOOK_LAYER = 3
"""The decoder layer whose output the heads for things and places read."""
COUNT_LAYER = 4
"""The decoder layer whose output the head for mistakes reads."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training with one mix of turns."""

    steps: int
    horizon: int
    """Length in steps of the learning rate's cosine; the phase ends after ``steps``."""
    lr: float
    """Peak learning rate of AdamW."""
    warmup: int
    """Steps of linear warm-up."""
    length_power: float
    """An answer of n words weighs n ** (1 - ``length_power``); at 1 all turns weigh the same."""
    look_weight: float
    """Weight of the losses of :class:`ContentHeads`."""
    mix: Mix


@dataclass(frozen=True, kw_only=True)
class LlavaRecipe:
    """The settings of the LLaVA's training; part of the card's fingerprint."""

    phases: tuple[Phase, ...]
    batch: int = 32
    """Images a step."""
    budget: int = 180
    """Words of turns an image and step."""
    weight_decay: float = 0.05
    scenes: int = 40_000
    """Number of training scenes."""
    ground_weight: float = 0.5
    """Weight of the loss of :class:`Grounding` at the first step."""
    ground_steps: int = 1800
    """Steps over which that weight falls linearly to 0."""

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step and the step within it."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError(
            f"The recipe has {self.steps} steps; step {step + self.steps} is after its end."
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A packed batch."""

    ids: torch.Tensor
    """``(B, T)``, as all but ``mask``."""
    positions: torch.Tensor
    weights: torch.Tensor
    """Weight of each answer token in the loss; 0 elsewhere."""
    prompt_mask: torch.Tensor
    """True at prompt words of turns with an image."""
    mistakes: torch.Tensor
    """The mistakes of the account that ends here; -100 elsewhere."""
    mask: torch.Tensor
    """True where a token attends to another, ``(B, 1, T, T)``."""


class Packer:
    """Turns into packed rows of ids, in the chat format of harness/models/chat_format.py (a test
    holds the two equal)."""

    def __init__(self, processor: LlavaProcessor, patches: int):
        tokenizer = processor.tokenizer
        self._words: dict[str, int] = tokenizer.get_vocab()
        self._pad: int = tokenizer.pad_token_id
        user = [tokenizer.bos_token_id, self._words["user"], self._words[":"]]
        self.prefix = [*user, *[self._words["<image>"]] * patches]
        self._blind_prefix = user
        self._assistant = [self._words["assistant"], self._words[":"]]
        self._end: int = tokenizer.eos_token_id

    def turn(self, turn: Turn) -> tuple[list[int], int]:
        """A turn's ids after the prefix, and where its answer starts."""
        prompt = [*(self._words[word] for word in turn.prompt.split()), *self._assistant]
        answer = [*(self._words[word] for word in turn.answer.split()), self._end]
        return prompt + answer, len(prompt)

    def pack(self, images: list[list[Turn]], length_power: float) -> Rows:
        """One row an image: its prefix, then its turns, each with the positions that it has at
        generation."""
        rows: list[tuple[list[int], list[int], list[float], list[int], list[int]]] = []
        for image in images:
            prefix = self._blind_prefix if image[0].blind else self.prefix
            prefix_len = len(prefix)
            ids, positions = list(prefix), list(range(prefix_len))
            weights, segments = [0.0] * prefix_len, [0] * prefix_len
            mistakes = [IGNORE] * prefix_len
            for turn_index, turn in enumerate(image, start=1):
                words, start = self.turn(turn)
                answer_len = len(words) - start
                ids += words
                positions += range(prefix_len, prefix_len + len(words))
                weights += [0.0] * start + [answer_len**-length_power] * answer_len
                segments += [turn_index] * len(words)
                mistakes += self._mistakes(turn, words, start)
            rows.append((ids, positions, weights, segments, mistakes))
        # Few different widths: the CPU's matrix library caches a kernel for each, which would add
        # up to gigabytes.
        width = -(-max(len(ids) for ids, *_ in rows) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE

        def pad_column(column: int, filler: float) -> torch.Tensor:
            return torch.tensor(
                [list(row[column]) + [filler] * (width - len(row[column])) for row in rows]
            )

        segment = pad_column(3, -1).long()  # (B, T)
        order = torch.arange(width)
        same_segment = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
        mask = (same_segment & (order[:, None] >= order[None, :]))[:, None]
        weight = pad_column(2, 0.0).float()
        with_image = torch.tensor([not image[0].blind for image in images])
        prompt_mask = (segment > 0) & (weight == 0) & with_image[:, None]
        return Rows(
            ids=pad_column(0, self._pad).long(),
            positions=pad_column(1, 0).long(),
            weights=weight,
            prompt_mask=prompt_mask,
            mistakes=pad_column(4, IGNORE).long(),
            mask=mask,
        )

    def _mistakes(self, turn: Turn, words: list[int], start: int) -> list[int]:
        """Labels for the head for mistakes: in a judgement, the first account's at the word
        "second" and the second's at the prompt's end."""
        labels = [IGNORE] * len(words)
        if turn.mistakes is not None:
            second_index = start - 1 - words[:start][::-1].index(self._words["second"])
            first_count, second_count = (min(count, MOST_MISTAKES) for count in turn.mistakes)
            labels[second_index], labels[start - 1] = first_count, second_count
        return labels


@torch.no_grad()
def tower_features(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    indices: range,
    batch: int = 256,
) -> torch.Tensor:
    """The projector's input for each training image, ``(N, patches, vision width)`` in bf16."""
    features = []
    for start in range(indices.start, indices.stop, batch):
        scenes = [scene("train", index) for index in range(start, min(start + batch, indices.stop))]
        vision = model.model.vision_tower(
            normalise(paint(scenes), processor.image_processor), output_hidden_states=True
        )
        layer = vision.hidden_states[model.config.vision_feature_layer]
        features.append(layer[:, 1:].to(torch.bfloat16))
    return torch.cat(features)


def train_llava(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    recipe: LlavaRecipe,
    folder: Path,
    fingerprint: str,
    say: Callable[[str], None],
) -> None:
    """Train ``model`` in place, continuing from ``folder``."""
    inner_model = model.model
    inner_model.vision_tower.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        heads = ContentHeads(processor, inner_model.config.text_config.hidden_size)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters |= {f"looking.{name}": p for name, p in heads.named_parameters()}
    optimizer = torch.optim.AdamW(
        parameters.values(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    path = folder / "llava.safetensors"
    start = checkpoint.load(path, parameters, optimizer, fingerprint)
    packer, grounding = Packer(processor, inner_model.config.image_seq_length), Grounding(processor)
    say(f"llava: reading {recipe.scenes} training images")
    features = tower_features(model, processor, range(recipe.scenes))
    start_time, turn_count = time.monotonic(), 0
    # On a CPU eager attention is faster than sdpa's backward for short rows.
    inner_model.language_model.set_attn_implementation("eager")
    # Fused element-wise work halves the time of a step. It needs a C++ compiler.
    run_layers = torch.compile(_run_layers, dynamic=True) if shutil.which("g++") else _run_layers
    model.train()
    for step in range(start, recipe.steps):
        phase, phase_step = recipe.phase_at(step)
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * cosine(phase_step, phase.horizon, phase.warmup)
        rng = Random(f"llava {step}")
        indices = [rng.randrange(recipe.scenes) for _ in range(recipe.batch)]
        images = [turns(index, step, recipe.budget, phase.mix) for index in indices]
        turn_count += sum(map(len, images))
        rows = packer.pack(images, phase.length_power)
        scenes = [scene("train", index) for index in indices]
        projected, middle, late, answer_loss = _forward(model, run_layers, rows, features[indices])
        share = max(0.0, 1 - step / recipe.ground_steps)
        ground = grounding.loss(model, projected, scenes) if share > 0 else torch.zeros(())
        loss = answer_loss + recipe.ground_weight * share * ground
        accuracy_text = ""
        if phase.look_weight:
            look_loss, accuracies = heads.total(
                middle, late, rows.ids, rows.prompt_mask, rows.mistakes, scenes
            )
            loss = loss + phase.look_weight * look_loss
            accuracy_text = " found " + " ".join(f"{share:.2f}" for share in accuracies)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        is_last_step = step + 1 == recipe.steps
        if (step + 1) % 50 == 0 or is_last_step:
            seconds = time.monotonic() - start_time
            remaining = seconds / (step + 1 - start) * (recipe.steps - step - 1)
            say(
                f"llava {step + 1}/{recipe.steps} loss {answer_loss.item():.3f} ground"
                f" {ground.item():.3f}{accuracy_text} turns a second {turn_count / seconds:.0f}"
                f" time left {remaining:.0f} s"
            )
        if (step + 1) % SAVE_EVERY == 0 or is_last_step:
            checkpoint.save(path, parameters, optimizer, step + 1, fingerprint)
    inner_model.language_model.set_attn_implementation("sdpa")
    model.eval()


def _forward(
    model: LlavaForConditionalGeneration,
    run_layers: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    rows: Rows,
    features: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Projected patches ``(B, P, D)``, hidden states of the two layers that :class:`ContentHeads`
    reads ``(B, T, D)``, and the loss of the answers."""
    inner_model = model.model
    scored = rows.weights[:, 1:] > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = inner_model.multi_modal_projector(features)
        middle, late, hidden = run_layers(
            inner_model.language_model, _embed(model, rows, projected), rows.mask, rows.positions
        )
        logits = F.linear(hidden[:, :-1][scored], model.lm_head.weight)
    answers = F.cross_entropy(logits.float(), rows.ids[:, 1:][scored], reduction="none")
    weight = rows.weights[:, 1:][scored]
    return projected, middle, late, (answers * weight).sum() / weight.sum()


def _embed(
    model: LlavaForConditionalGeneration, rows: Rows, projected: torch.Tensor
) -> torch.Tensor:
    """Input embeddings ``(B, T, D)`` of packed rows, with the projected features at image tokens;
    blind rows have none."""
    embedded: torch.Tensor = model.model.language_model.embed_tokens(rows.ids)
    image = rows.ids == model.config.image_token_id  # (B, T)
    return embedded.masked_scatter(image[..., None], projected[image.any(dim=1)].to(embedded.dtype))


def _run_layers(
    language_model: LlamaModel, embedded: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states ``(B, T, D)`` after decoder layers LOOK_LAYER and COUNT_LAYER, and after the
    last one (normalised)."""
    hidden = middle = late = embedded
    rotary = language_model.rotary_emb(hidden, positions)
    lowest = torch.finfo(hidden.dtype).min
    bias = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill_(~mask, lowest)
    for layer, decoder in enumerate(language_model.layers, start=1):
        hidden = decoder(
            hidden, attention_mask=bias, position_ids=positions, position_embeddings=rotary
        )
        middle = hidden if layer == LOOK_LAYER else middle
        late = hidden if layer == COUNT_LAYER else late
    last: torch.Tensor = language_model.norm(hidden)
    return middle, late, last
