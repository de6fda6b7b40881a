"""Train the world's LLaVA on turns about images: language model and projector, the CLIP's vision
tower frozen.

As in LLaVA-1.5's own recipe the tower does not move, so its features are computed once an image.
Several turns share one image prefix in a row: a turn sees the prefix and itself (4-D mask,
positions restarting after the prefix), which is what a turn sees at generation. Loss: cross entropy
on the answers, long ones weighed down, so that captions do not drown one-word answers; and the two
losses of grounding.py, which are for learning to look."""

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
from harness.synthetic.grounding import IGNORE, MOST_MISTAKES, Grounding, Looking
from harness.synthetic.train_clip import cosine, normalise, paint
from harness.synthetic.turns import Mix, Turn, turns

WIDTHS = 32
SAVE_EVERY = 250
LOOK_LAYER = 3
COUNT_LAYER = 4


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training on one mix. The rate follows a cosine of ``horizon`` steps from ``lr``,
    left after ``steps``.

    An answer of n words weighs n ** (1 - ``length_power``): at 1 every turn weighs the same,
    however long."""

    steps: int
    horizon: int
    lr: float
    warmup: int
    length_power: float
    look_weight: float
    mix: Mix


@dataclass(frozen=True, kw_only=True)
class LlavaRecipe:
    """What the LLaVA is trained with; part of the card's fingerprint. ``budget`` is words of turns
    an image and step."""

    phases: tuple[Phase, ...]
    batch: int = 32
    budget: int = 180
    weight_decay: float = 0.05
    scenes: int = 40_000
    ground_weight: float = 0.5
    ground_steps: int = 1800

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step and the step within it."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError(
            f"The recipe has {self.steps} steps; step {step + self.steps} lies behind its end."
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A packed batch: ids, positions, answer weights, places of prompt words about an image and
    mistakes read so far (-100 elsewhere) ``(B, T)``, and who sees whom ``(B, 1, T, T)``."""

    ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    asked: torch.Tensor
    mistakes: torch.Tensor
    mask: torch.Tensor


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
        """A turn's ids behind the prefix, and where its answer starts."""
        asked = [*(self._words[word] for word in turn.prompt.split()), *self._assistant]
        return [*asked, *(self._words[word] for word in turn.answer.split()), self._end], len(asked)

    def pack(self, pictures: list[list[Turn]], length_power: float) -> Rows:
        """One row an image: its prefix, then its turns side by side, each with the positions it
        has at generation."""
        rows: list[tuple[list[int], list[int], list[float], list[int], list[int]]] = []
        for made in pictures:
            prefix = self._blind_prefix if made[0].blind else self.prefix
            ids, positions = list(prefix), list(range(len(prefix)))
            weights, segments, mistakes = (
                [0.0] * len(prefix),
                [0] * len(prefix),
                [IGNORE] * len(prefix),
            )
            for number, one in enumerate(made, start=1):
                words, start = self.turn(one)
                ids += words
                positions += range(len(prefix), len(prefix) + len(words))
                answer = len(words) - start
                weights += [0.0] * start + [answer**-length_power] * answer
                segments += [number] * len(words)
                mistakes += self._mistakes(one, words, start)
            rows.append((ids, positions, weights, segments, mistakes))
        # Few different widths: each new one costs the CPU's matrix library a cached kernel,
        # gigabytes over a training.
        width = -(-max(len(ids) for ids, *_ in rows) // WIDTHS) * WIDTHS

        def padded(part: int, filler: float) -> torch.Tensor:
            return torch.tensor(
                [list(row[part]) + [filler] * (width - len(row[part])) for row in rows]
            )

        segment = padded(3, -1).long()  # (B, T)
        order = torch.arange(width)
        same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
        mask = (same & (order[:, None] >= order[None, :]))[:, None]
        weight = padded(2, 0.0).float()
        seeing = torch.tensor([not made[0].blind for made in pictures])
        asked = (segment > 0) & (weight == 0) & seeing[:, None]
        return Rows(
            ids=padded(0, self._pad).long(),
            positions=padded(1, 0).long(),
            weights=weight,
            asked=asked,
            mistakes=padded(4, IGNORE).long(),
            mask=mask,
        )

    def _mistakes(self, turn: Turn, words: list[int], start: int) -> list[int]:
        """Where a judgement has read its first account (the word "second") and its second (the
        prompt's end): their mistakes."""
        found = [IGNORE] * len(words)
        if turn.mistakes is not None:
            second = start - 1 - words[:start][::-1].index(self._words["second"])
            found[second], found[start - 1] = (min(count, MOST_MISTAKES) for count in turn.mistakes)
        return found


@torch.no_grad()
def tower_features(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    indices: range,
    batch: int = 256,
) -> torch.Tensor:
    """What the projector reads of each training image, ``(N, patches, vision width)`` in bf16."""
    made = []
    for start in range(indices.start, indices.stop, batch):
        scenes = [scene("train", index) for index in range(start, min(start + batch, indices.stop))]
        seen = model.model.vision_tower(
            normalise(paint(scenes), processor.image_processor), output_hidden_states=True
        )
        made.append(seen.hidden_states[model.config.vision_feature_layer][:, 1:].to(torch.bfloat16))
    return torch.cat(made)


def train_llava(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    recipe: LlavaRecipe,
    folder: Path,
    fingerprint: str,
    say: Callable[[str], None],
) -> None:
    """Train ``model`` in place, resuming from ``folder``."""
    inner = model.model
    inner.vision_tower.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        looking = Looking(processor, inner.config.text_config.hidden_size)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters |= {f"looking.{name}": p for name, p in looking.named_parameters()}
    decay = recipe.weight_decay
    optimizer = torch.optim.AdamW(
        parameters.values(), betas=(0.9, 0.98), weight_decay=decay, fused=True
    )
    path = folder / "llava.safetensors"
    start = checkpoint.load(path, parameters, optimizer, fingerprint)
    packer = Packer(processor, inner.config.image_seq_length)
    say(f"llava: reading {recipe.scenes} training images")
    features = tower_features(model, processor, range(recipe.scenes))
    grounding = Grounding(processor)
    began, shown = time.monotonic(), 0
    language_model = inner.language_model
    language_model.set_attn_implementation(
        "eager"
    )  # on a CPU faster than sdpa's backward for short rows
    # Fused element-wise work halves a step; it needs a C++ compiler, and is left out where there is
    # none.
    through = torch.compile(_through, dynamic=True) if shutil.which("g++") else _through
    model.train()
    for step in range(start, recipe.steps):
        phase, within = recipe.at(step)
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * cosine(within, phase.horizon, phase.warmup)
        rng = Random(f"llava {step}")
        indices = [rng.randrange(recipe.scenes) for _ in range(recipe.batch)]
        pictures = [turns(index, step, recipe.budget, phase.mix) for index in indices]
        shown += sum(map(len, pictures))
        rows = packer.pack(pictures, phase.length_power)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            projected = inner.multi_modal_projector(features[indices])  # (B, P, D)
            middle, late, hidden = through(
                language_model, _embedded(model, rows, projected), rows.mask, rows.positions
            )
            scored = rows.weights[:, 1:] > 0
            logits = F.linear(hidden[:, :-1][scored], model.lm_head.weight)
        each = F.cross_entropy(logits.float(), rows.ids[:, 1:][scored], reduction="none")
        weight = rows.weights[:, 1:][scored]
        told = (each * weight).sum() / weight.sum()
        share = max(0.0, 1 - step / recipe.ground_steps)
        true = [scene("train", index) for index in indices]
        ground = grounding.loss(model, projected, true) if share > 0 else torch.zeros(())
        loss = told + recipe.ground_weight * share * ground
        found = ""
        if phase.look_weight:
            look, right = looking.loss(middle, rows.ids, rows.asked, true)
            count, counted = looking.count_loss(late, rows.mistakes)
            cell = looking.cell_loss(middle, rows.ids, rows.asked, true)
            loss = loss + phase.look_weight * (look + cell + count)
            right.append(counted)
            found = " found " + " ".join(f"{share:.2f}" for share in right)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            pace = (time.monotonic() - began) / (step + 1 - start)
            say(
                f"llava {step + 1}/{recipe.steps} loss {told.item():.3f} ground"
                f" {ground.item():.3f}{found} turns a second"
                f" {shown / (time.monotonic() - began):.0f} time left"
                f" {pace * (recipe.steps - step - 1):.0f} s"
            )
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == recipe.steps:
            checkpoint.save(path, parameters, optimizer, step + 1, fingerprint)
    language_model.set_attn_implementation("sdpa")
    model.eval()


def _embedded(
    model: LlavaForConditionalGeneration, rows: Rows, projected: torch.Tensor
) -> torch.Tensor:
    """Input embeddings ``(B, T, D)`` of packed rows; image places hold the projected features,
    blind rows have none."""
    embedded: torch.Tensor = model.model.language_model.embed_tokens(rows.ids)
    image = rows.ids == model.config.image_token_id  # (B, T)
    return embedded.masked_scatter(image[..., None], projected[image.any(dim=1)].to(embedded.dtype))


def _through(
    language_model: LlamaModel, embedded: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states ``(B, T, D)`` behind decoder layers LOOK_LAYER and COUNT_LAYER and behind the
    last one (normalised)."""
    hidden = middle = late = embedded
    rotary = language_model.rotary_emb(hidden, positions)
    seen = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill_(
        ~mask, torch.finfo(hidden.dtype).min
    )
    for number, decoder in enumerate(language_model.layers, start=1):
        hidden = decoder(
            hidden, attention_mask=seen, position_ids=positions, position_embeddings=rotary
        )
        middle = hidden if number == LOOK_LAYER else middle
        late = hidden if number == COUNT_LAYER else late
    last: torch.Tensor = language_model.norm(hidden)
    return middle, late, last
