"""Image-text relevance by a CLIP-like model: what CSR (arXiv 2405.14622, section 3.2) calibrates
the model's own reward with.

R_I of an image and a sentence is 100 times the cosine of their embeddings (Hessel et al., arXiv
2104.08718); the cut at zero is the method's. Any model of transformers with ``get_image_features``
and ``get_text_features`` can be one: CLIP, SigLIP."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError  # what a torch file that holds more than tensors is refused with
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from harness.engine.batching import Batches
from harness.engine.prefix_cache import content_hash
from harness.errors import UserError, unknown
from harness.models import hub_snapshots as hub
from harness.models.base_cards import BaseCard, weights_fingerprint
from harness.models.checkpoints import align, aligned, is_hub_id, plain

KEPT = 4096
"""Images whose embeddings are kept, the least recently used leaving first; an embedding is a few
kilobytes."""


@dataclass(frozen=True, kw_only=True)
class ScorerCard:
    """One image-text model.

    ``source`` is a hub id, or a folder when it is a Path; ``revision`` pins the hub's commit.
    ``safetensors`` False marks a model whose publisher offers a torch file alone: where the commit
    has no safetensors, that file is read as tensors only, and none of its content is run."""

    name: str
    source: str | Path
    revision: str | None
    safetensors: bool = True


SCORERS: Mapping[str, ScorerCard] = {
    "synthetic-clip": ScorerCard(
        name="synthetic-clip",
        source=Path(__file__).parents[1] / "synthetic" / "weights" / "clip",
        revision=None,
    ),
    # The one torch file that is read. The hub's bot has opened pull requests with safetensors of
    # such repositories; one of them (openai/clip-vit-large-patch14-336@refs/pr/N) can be named as
    # any hub id can, and is another scorer with its own commit.
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
    """The card of that name, of a folder, or of a hub id (``org/name@revision``, pinned to its
    commit); None: the one that goes with the base, the world's own CLIP or the published one.

    Raises:
        UserError: there is no such scorer (with the nearest name), or the hub has not that
            revision.
    """
    name = name or (
        "synthetic-clip" if base.prompts == "synthetic" else "clip-vit-large-patch14-336"
    )
    if name in SCORERS:
        return SCORERS[name]
    if Path(name).is_dir():
        return ScorerCard(name=plain(Path(name).resolve().name), source=Path(name), revision=None)
    if is_hub_id(name):
        return _hub_card(name)
    raise unknown(
        "scorer", name, [*SCORERS, "a folder", "a hub id (org/name or org/name@revision)"]
    )


@cache
def _hub_card(name: str) -> ScorerCard:
    id, _, revision = name.partition("@")
    folder = hub.fetch(f"The scorer {name!r}", id, revision or None, weights=False)
    return ScorerCard(
        name=plain(id), source=id, revision=folder.name
    )  # the cache's folder is named by its commit


def scorer_identity(card: ScorerCard) -> str:
    """What the scorer is, for a stage's identity: its weights' content, or the pinned commit of a
    hub model. Loads nothing."""
    return (
        _fingerprint(_folder(card))
        if isinstance(card.source, Path)
        else f"{card.source}@{card.revision}"
    )


_fingerprint = cache(weights_fingerprint)


def load_scorer(card: ScorerCard, device: str = "cpu") -> ClipScorer:
    """The scorer, in float32 on ``device``: relevances are compared, and lie close together.

    Raises:
        UserError: it is not there, cannot be downloaded, or is no image-text model.
    """
    if isinstance(card.source, Path):
        source = _folder(card)
    else:
        source = hub.fetch(
            f"The scorer {card.name!r}", card.source, card.revision, torch_file=not card.safetensors
        )
    weights = {
        "dtype": torch.float32,
        "use_safetensors": True if card.safetensors else None,
        "output_loading_info": True,
    }
    weights["weights_only"] = (
        True  # of a torch file, its tensors: anything else in it is refused, not run
    )
    try:
        processor = AutoProcessor.from_pretrained(source, backend="pil")
        model, loading = AutoModel.from_pretrained(source, **weights)
    except UnpicklingError as error:
        raise UserError(
            f"The scorer {card.name!r} could not be loaded from {card.source}: its torch file holds"
            " more than tensors and was not run; give a scorer with safetensors."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The scorer {card.name!r} could not be loaded from {card.source}:"
            f" {str(error).splitlines()[0]}"
        ) from error
    absent = sorted(loading["missing_keys"]) + sorted(
        str(key) for key in loading["mismatched_keys"]
    )
    if absent:
        raise UserError(
            f"The weights of the scorer {card.name!r} do not fit: {len(absent)} absent, such as"
            f" {absent[0]}."
        )
    model = model.to(device)
    align(model)
    return ClipScorer(model, processor)


def _folder(card: ScorerCard) -> Path:
    folder = Path(card.source)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"The scorer {card.name!r} is not at {folder}; build the world's models with: python -m"
            " nox -s synthetic"
        )
    return folder


class ClipScorer:
    """A :class:`methods.interface.Scorer` over a CLIP-like model and its processor.

    ``batch_size`` counts sentences or images and changes no score beyond rounding. Images are
    embedded once, known by their content; equal sentences of a call once. Sentences longer than the
    model reads are cut at their end."""

    def __init__(self, model: Any, processor: Any, *, batch_size: int = 256) -> None:
        parts: list[Any] = [
            getattr(processor, name, None) for name in ("tokenizer", "image_processor")
        ]
        if None in parts or not all(
            hasattr(model, f"get_{kind}_features") for kind in ("image", "text")
        ):
            raise UserError(
                f"{type(model).__name__} with {type(processor).__name__} is no image-text scorer:"
                " it must embed images and sentences, as CLIP and SigLIP do."
            )
        self.model = model.eval()
        self.tokenizer, self.image_processor = parts
        self.batches = Batches(batch_size)
        self.device: torch.device = next(model.parameters()).device
        self.longest: int = model.config.text_config.max_position_embeddings
        # SigLIP was trained on, and is to be read with, sentences padded to one length.
        self.even = str(model.config.model_type).startswith("siglip")
        # A bare tokenizer adds no begin and end token, and CLIP's embedding is read at the end
        # token.
        ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        self.bare = model.config.model_type == "clip" and self.tokenizer("a")["input_ids"][-1:] != [
            ends[1]
        ]
        self.begin, self.end = ([ends[0]], [ends[1]]) if self.bare else ([], [])
        self.kept: OrderedDict[str, Tensor] = OrderedDict()
        self.pictures_seen = 0

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
        seen = self.pictures(images)
        distinct = list(dict.fromkeys(sentences))
        ids = self.tokens(distinct)
        order = sorted(
            range(len(distinct)), key=lambda at: -len(ids[at])
        )  # the longest first; neighbours pad each other little
        read = self.batches.run([ids[at] for at in order], self.embed_text, lambda _: None)
        said = {distinct[at]: value for at, value in zip(order, read, strict=True)}
        cosines = torch.stack(seen) * torch.stack([said[sentence] for sentence in sentences])
        return [float(value) for value in (100 * cosines.sum(-1)).tolist()]

    def tokens(self, sentences: Sequence[str]) -> list[list[int]]:
        room = self.longest - len(self.begin) - len(self.end)
        ids = self.tokenizer(list(sentences), truncation=True, max_length=room)["input_ids"]
        return [[*self.begin, *each, *self.end] for each in ids]

    def embed_text(self, ids: Sequence[list[int]]) -> list[Tensor]:
        """Unit embeddings of tokenised sentences."""
        pad = self.tokenizer.pad_token_id or 0
        width = self.longest if self.even else max(map(len, ids))
        rows = torch.tensor(
            [each + [pad] * (width - len(each)) for each in ids], device=self.device
        )
        mask = torch.tensor(
            [[1] * len(each) + [0] * (width - len(each)) for each in ids], device=self.device
        )
        output = self.model.get_text_features(
            input_ids=rows, **({} if self.even else {"attention_mask": mask})
        )
        return list(F.normalize(output.pooler_output.float(), dim=-1))

    def pictures(self, images: Sequence[Image]) -> list[Tensor]:
        """Unit embeddings of images, each embedded once."""
        by_object = {id(image): image for image in images}
        names = {number: content_hash(image) for number, image in by_object.items()}
        wanted = {names[number]: image for number, image in by_object.items()}
        absent = [name for name in wanted if name not in self.kept]
        self.pictures_seen += len(absent)
        fresh = dict(
            zip(
                absent,
                self.batches.run(
                    [wanted[name] for name in absent], self.embed_images, lambda _: None
                ),
                strict=True,
            )
        )
        found = {name: fresh[name] if name in fresh else self.kept[name] for name in wanted}
        for name, value in found.items():
            self.kept[name] = value
            self.kept.move_to_end(name)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return [found[names[id(image)]] for image in images]

    def embed_images(self, images: Sequence[Image]) -> list[Tensor]:
        colour = [image if image.mode == "RGB" else image.convert("RGB") for image in images]
        # The processor's tensor lies in numpy's memory.
        pixels = aligned(
            self.image_processor(images=colour, return_tensors="pt")["pixel_values"]
        ).to(self.device)
        output = self.model.get_image_features(pixel_values=pixels)
        return list(F.normalize(output.pooler_output.float(), dim=-1))
