"""Image-text relevance by a CLIP-like model, which CSR (Zhou et al., arXiv 2405.14622, section 3.2)
adds to the model's own reward.

The relevance of an image and a sentence is 100 times the cosine of their embeddings (Hessel et
al., arXiv 2104.08718); the method itself cuts it at zero. Any transformers model with
``get_image_features`` and ``get_text_features`` works: CLIP, SigLIP.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from harness.engine.batching import Batches
from harness.engine.prefix_cache import content_hash
from harness.errors import UserError, unknown
from harness.models import hub_snapshots
from harness.models.alignment import align, aligned
from harness.models.base_cards import BaseCard
from harness.models.checkpoints import check_files, label_of, weight_files, weights_fingerprint
from harness.models.llava import rgb
from harness.models.load_base import check_weights
from harness.models.loaded_files import WEIGHTS, loaded_files
from harness.models.own_code import without_own_code
from harness.models.processor_checks import (
    MAX_SIDE,
    check_pixels,
    check_small_files,
    check_vocabulary,
    explain_load_errors,
    largest_side,
)

MAX_EMBEDDINGS = 4096
"""Image embeddings that are kept (a few kB each); the least recently used leaves first."""


@dataclass(frozen=True, kw_only=True)
class ScorerCard:
    """One image-text model."""

    name: str
    source: str | Path
    """A hub id, or a folder where it is a Path."""
    revision: str | None
    """The hub's commit; None for a folder."""
    safetensors: bool = True
    """False: where the commit has no safetensors, its torch file is read, tensors only; no code in
    it is run."""


SCORERS: Mapping[str, ScorerCard] = {
    "synthetic-clip": ScorerCard(
        name="synthetic-clip",
        source=Path(__file__).parents[1] / "synthetic" / "weights" / "clip",
        revision=None,
    ),
    # The only torch file that is read. The hub's bot has opened pull requests with safetensors for
    # such repositories; name one as a hub id (openai/clip-vit-large-patch14-336@refs/pr/N) to use
    # it as a scorer of its own.
    "clip-vit-large-patch14-336": ScorerCard(
        name="clip-vit-large-patch14-336",
        source="openai/clip-vit-large-patch14-336",
        revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        safetensors=False,
    ),
    "siglip-so400m-patch14-384": ScorerCard(
        name="siglip-so400m-patch14-384",
        source="google/siglip-so400m-patch14-384",
        revision="9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
    ),
}


def find_scorer(name: str | None, base: BaseCard) -> ScorerCard:
    """The card of a name, a folder or a hub id (``org/name@revision``, resolved to a commit).

    None: the synthetic CLIP for a synthetic base, the published CLIP for others.

    Raises:
        UserError: there is no such scorer (the nearest name is given), or no such revision.
    """
    default = "synthetic-clip" if base.prompts == "synthetic" else "clip-vit-large-patch14-336"
    name = name or default
    if name in SCORERS:
        return SCORERS[name]
    if Path(name).is_dir():
        folder = Path(name)
        return ScorerCard(name=label_of(folder.resolve().name), source=folder, revision=None)
    if hub_snapshots.is_hub_id(name):
        return _hub_scorer(name)
    raise unknown(
        "scorer", name, [*SCORERS, "a folder", "a hub id (org/name or org/name@revision)"]
    )


def stored_scorer(card: ScorerCard) -> Path | None:
    """The folder with the scorer's weights; None where they are not on this machine."""
    folder = hub_snapshots.cached_folder(card.source, card.revision)
    files = () if folder is None else (*folder.glob("*.safetensors"), *folder.glob("*.bin"))
    return folder if any(file.exists() for file in files) else None


@cache
def _hub_scorer(name: str) -> ScorerCard:
    id, _, revision = name.partition("@")
    folder = hub_snapshots.fetch(f"The scorer {name!r}", id, revision or None, weights=False)
    # The cache names a snapshot's folder by its commit.
    return ScorerCard(name=label_of(id), source=id, revision=folder.name)


def scorer_identity(card: ScorerCard) -> Mapping[str, Any] | str:
    """The scorer in a stage's identity: the content of the files that loading reads, by name; or id
    and commit of a hub model, because a commit's content never changes.

    Loads nothing.
    """
    if isinstance(card.source, Path):
        folder = _scorer_folder(card)
        return {WEIGHTS: weights_fingerprint(folder), **loaded_files(folder)}
    return f"{card.source}@{card.revision}"


def load_scorer(card: ScorerCard, device: str = "cpu") -> ClipScorer:
    """The scorer on ``device``, in float32 because compared relevances differ little.

    Raises:
        UserError: it is missing, cannot be downloaded, or is no image-text model.
    """
    label = f"The scorer {card.name!r}"
    torch_file = not card.safetensors
    if isinstance(card.source, Path):
        source = _scorer_folder(card)
    else:
        source = hub_snapshots.fetch(label, card.source, card.revision, torch_file=torch_file)
    check_small_files(source)
    if card.safetensors or weight_files(source):
        check_files(source)
    with explain_load_errors(label, str(card.source), card.revision), without_own_code(str(source)):
        processor = AutoProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        check_weights(label, source, AutoModel, torch_file=torch_file)
        model = AutoModel.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=None if torch_file else True,
            weights_only=True,  # of a torch file, its tensors; anything else is refused
            trust_remote_code=False,
        ).to(device)
        align(model)
        scorer = ClipScorer(model, processor)
        scorer.check(str(card.source))
    return scorer


def _scorer_folder(card: ScorerCard) -> Path:
    folder = Path(card.source)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"The scorer {card.name!r} is not at {folder}; build the synthetic models with: python"
            " -m nox -s synthetic"
        )
    return folder


class ClipScorer:
    """A :class:`methods.interface.Scorer` with a CLIP-like model and its processor.

    Each image is embedded once, recognised by its content; equal sentences of a call are embedded
    once. Longer sentences than the model takes are cut at the end.

    Args:
        batch_size: sentences or images per forward pass; changes a score by rounding only.
    """

    def __init__(self, model: Any, processor: Any, *, batch_size: int = 256) -> None:
        names = ("tokenizer", "image_processor")
        components: list[Any] = [getattr(processor, name, None) for name in names]
        embeds = all(hasattr(model, f"get_{modality}_features") for modality in ("image", "text"))
        if None in components or not embeds:
            raise UserError(
                f"{type(model).__name__} with {type(processor).__name__} is no image-text scorer:"
                " it must embed images and sentences, as CLIP and SigLIP do."
            )
        self.model = model.eval()
        self.tokenizer, self.image_processor = components
        self.batches = Batches(batch_size)
        self.device: torch.device = next(model.parameters()).device
        self.max_length: int = model.config.text_config.max_position_embeddings
        # SigLIP was trained with sentences padded to one length and without a mask.
        self.fixed_length = str(model.config.model_type).startswith("siglip")
        # CLIP reads the embedding at the end token; some tokenizers do not add one.
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        add = model.config.model_type == "clip" and self.tokenizer("a")["input_ids"][-1:] != [end]
        self.begin, self.end = ([begin], [end]) if add else ([], [])
        self.embeddings: OrderedDict[str, Tensor] = OrderedDict()
        self.images_embedded = 0

    def check(self, source: str) -> None:
        """Score one small image, to find a processor or weights that are not of this model.

        Raises:
            UserError: a token has no embedding, images have another size, or the score is not
                finite.
        """
        check_vocabulary(self.tokenizer, self.model.config.text_config, source, "scorer")
        check_pixels(self.image_processor, source)
        sides = [self.image_processor.size, getattr(self.image_processor, "crop_size", None)]
        side = self.model.config.vision_config.image_size
        if max(largest_side(size) for size in sides) > MAX_SIDE * side:
            raise UserError(
                f"The image processor in {source} makes images of size {self.image_processor.size},"
                f" the scorer reads {side} x {side}; give the processor saved with this model."
            )
        score = self.relevance([new_image("RGB", (96, 64), (30, 60, 200))], ["a blue image"])[0]
        self.embeddings.clear()
        self.images_embedded = 0
        if not math.isfinite(score):
            raise UserError(
                f"The scorer in {source} gives a small image the score {score}: its weights or its"
                " processor are damaged; download or save it again."
            )

    @torch.inference_mode()
    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:
        """100 * cosine of each image with its sentence, from -100 to 100."""
        if len(images) != len(sentences):
            raise UserError(
                f"{len(images)} images and {len(sentences)} sentences; give one image for each"
                " sentence."
            )
        if not images:
            return []
        image_rows = self.embed_images(images)
        distinct = list(dict.fromkeys(sentences))
        ids = self.tokens(distinct)
        # The longest first: sentences of similar length share a batch.
        order = sorted(range(len(distinct)), key=lambda index: -len(ids[index]))
        rows = self.batches.run([ids[index] for index in order], self._text_batch, lambda _: None)
        by_sentence = {distinct[index]: row for index, row in zip(order, rows, strict=True)}
        text_rows = torch.stack([by_sentence[sentence] for sentence in sentences])
        cosines = torch.stack(image_rows) * text_rows
        return [float(value) for value in (100 * cosines.sum(-1)).tolist()]

    def tokens(self, sentences: Sequence[str]) -> list[list[int]]:
        room = self.max_length - len(self.begin) - len(self.end)
        ids = self.tokenizer(list(sentences), truncation=True, max_length=room)["input_ids"]
        return [[*self.begin, *row, *self.end] for row in ids]

    def _text_batch(self, ids: Sequence[list[int]]) -> list[Tensor]:
        """Unit embeddings of tokenised sentences."""
        pad = self.tokenizer.pad_token_id or 0
        length = self.max_length if self.fixed_length else max(map(len, ids))
        rows = [row + [pad] * (length - len(row)) for row in ids]
        inputs = {"input_ids": torch.tensor(rows, device=self.device)}
        if not self.fixed_length:
            mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
            inputs["attention_mask"] = torch.tensor(mask, device=self.device)
        output = self.model.get_text_features(**inputs)
        return list(F.normalize(output.pooler_output.float(), dim=-1))

    def embed_images(self, images: Sequence[Image]) -> list[Tensor]:
        """Unit embeddings of images; equal images are embedded once."""
        by_object = {id(image): image for image in images}
        keys = {object_id: content_hash(image) for object_id, image in by_object.items()}
        by_key = {keys[object_id]: image for object_id, image in by_object.items()}
        embedded = {key: self.embeddings[key] for key in by_key if key in self.embeddings}
        missing = [key for key in by_key if key not in embedded]
        self.images_embedded += len(missing)
        rows = self.batches.run([by_key[key] for key in missing], self._image_batch, lambda _: None)
        embedded |= zip(missing, rows, strict=True)
        for key in by_key:
            self.embeddings[key] = embedded[key]
            self.embeddings.move_to_end(key)
        while len(self.embeddings) > MAX_EMBEDDINGS:
            self.embeddings.popitem(last=False)
        return [embedded[keys[id(image)]] for image in images]

    def _image_batch(self, images: Sequence[Image]) -> list[Tensor]:
        """Unit embeddings of a batch of images."""
        inputs = self.image_processor(images=[rgb(image) for image in images], return_tensors="pt")
        # The processor's tensor lies in numpy's memory.
        pixels = aligned(inputs["pixel_values"]).to(self.device)
        output = self.model.get_image_features(pixel_values=pixels)
        return list(F.normalize(output.pooler_output.float(), dim=-1))
