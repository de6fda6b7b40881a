"""Relevance equals transformers' own logits; images once; CLIP with and without a bare tokenizer,
SigLIP; problems; a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import (
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from harness.engine.clip_scorer import (
    SCORERS,
    ClipScorer,
    ScorerCard,
    find_scorer,
    load_scorer,
    scorer_identity,
)
from harness.errors import UserError
from harness.models.base_cards import BASES
from harness.study.study import Run, Study
from harness.synthetic.architecture import build_processor, build_tokenizer, clip_config
from methods.interface import Scorer
from methods.untrained import Untrained
from tests.models.hub.study import CSR
from tests.running import run_study
from tests.tiny_models import SIZES, WORDS, picture
from tests.toy_method import Words, save_base, save_pictures

IMAGES = [picture(0), picture(1), picture(0).copy(), picture(2)]
SENTENCES = ["a red ball .", "there is a blue cup at the top left .", "a house", "a red ball ."]


def tiny_clip(seed: int = 0, template: bool = False) -> tuple[Any, Any]:
    """A CLIP of random weights and its processor.

    The tokenizer is bare, as the synthetic one's, unless it has a ``template``.
    """
    tokenizer = build_tokenizer(WORDS)
    config = clip_config(tokenizer, SIZES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    if template:
        ends = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=ends
        )
    return model, CLIPProcessor(build_processor(tokenizer, SIZES).image_processor, tokenizer)


def tiny_siglip() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(WORDS)
    tokenizer.padding_side = "right"
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        text_config={**text, **sizes}, vision_config={**sizes, "image_size": 60, "patch_size": 10}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SiglipModel(config).eval()
    size = {"height": 60, "width": 60}
    return model, SiglipProcessor(SiglipImageProcessorPil(size=size), tokenizer)


@torch.no_grad()
def expected(model: Any, processor: Any, sentences: list[str], **text: Any) -> list[float]:
    """100 * cosine, a pair at a time, from transformers' logits of a whole model call."""
    found = []
    for image, sentence in zip(IMAGES, sentences, strict=True):
        given = processor(images=image.convert("RGB"), text=[sentence], return_tensors="pt", **text)
        given.pop("attention_mask", None)
        bias = getattr(model, "logit_bias", torch.zeros(1))
        found.append(
            100 * float((model(**given).logits_per_image[0, 0] - bias) / model.logit_scale.exp())
        )
    return found


def test_clip_equals_transformers_and_a_bare_tokenizer_gets_its_ends() -> None:
    model, processor = tiny_clip(template=True)
    values = expected(model, processor, SENTENCES)
    assert len({round(value, 3) for value in values}) == 4
    assert ClipScorer(model, processor).relevance(IMAGES, SENTENCES) == pytest.approx(
        values, abs=1e-4
    )
    bare = ClipScorer(*tiny_clip())
    assert bare.relevance(IMAGES, SENTENCES) == pytest.approx(values, abs=1e-4)
    assert values != pytest.approx(
        expected(*tiny_clip(), SENTENCES), abs=1e-2
    )  # without them it would be another number


def test_siglip_reads_sentences_padded_to_its_length() -> None:
    model, processor = tiny_siglip()
    values = expected(model, processor, SENTENCES, padding="max_length", max_length=16)
    assert ClipScorer(model, processor).relevance(IMAGES, SENTENCES) == pytest.approx(
        values, abs=1e-4
    )


@pytest.mark.equality
def test_batches_and_order_change_nothing_and_pictures_are_embedded_once() -> None:
    model, processor = tiny_clip()
    scorer: Scorer = ClipScorer(model, processor)
    values = scorer.relevance(IMAGES, SENTENCES)
    small = ClipScorer(model, processor, batch_size=1)
    assert small.relevance(IMAGES[::-1], SENTENCES[::-1])[::-1] == pytest.approx(values, abs=1e-4)
    assert small.images_embedded == 3  # the copy is the same image
    small.relevance(IMAGES, SENTENCES[::-1])
    assert small.images_embedded == 3
    grey = [image.convert("L") for image in IMAGES]
    assert len(small.relevance(grey, SENTENCES)) == 4
    assert scorer.relevance([], []) == []


def test_kept_embeddings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.engine.clip_scorer.MAX_EMBEDDINGS", 2)
    scorer = ClipScorer(*tiny_clip())
    values = scorer.relevance(IMAGES, SENTENCES)
    assert len(scorer.embeddings) == 2
    assert scorer.relevance(IMAGES, SENTENCES) == pytest.approx(values, abs=1e-4)
    assert scorer.images_embedded == 4  # the oldest of the three had left


def test_a_long_sentence_is_cut_at_its_end() -> None:
    scorer = ClipScorer(*tiny_clip())
    words = ["a red ball and"] * 40
    (ids,) = scorer.tokens([" ".join(words)])
    assert (len(ids), ids[0], ids[-1]) == (96, 1, 2)
    long = scorer.relevance([picture(0)], [" ".join(words)])
    assert long == pytest.approx(scorer.relevance([picture(0)], [" ".join(words[:30])]), abs=1e-4)


def saved(folder: Path, seed: int = 0) -> ScorerCard:
    model, processor = tiny_clip(seed)
    model.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return ScorerCard(name="tiny-clip", source=folder, revision=None)


def test_what_is_loaded_is_what_was_saved_and_its_identity_is_its_content(tmp_path: Path) -> None:
    card = saved(tmp_path / "one")
    values = ClipScorer(*tiny_clip()).relevance(IMAGES, SENTENCES)
    assert load_scorer(card).relevance(IMAGES, SENTENCES) == pytest.approx(values, abs=1e-4)
    copy, other = saved(tmp_path / "copy"), saved(tmp_path / "other", seed=1)
    assert scorer_identity(card) == scorer_identity(copy) != scorer_identity(other)
    assert scorer_identity(SCORERS["siglip-so400m-patch14-384"]).startswith(
        "google/siglip-so400m-patch14-384@9fdffc58"
    )


def test_each_base_has_its_scorer() -> None:
    assert (
        find_scorer(None, BASES["synthetic"]).name
        == find_scorer("", BASES["synthetic"]).name
        == "synthetic-clip"
    )
    assert find_scorer(None, BASES["llava-1.5-7b"]).name == "clip-vit-large-patch14-336"
    assert (
        find_scorer("siglip-so400m-patch14-384", BASES["synthetic"]).name
        == "siglip-so400m-patch14-384"
    )
    with pytest.raises(UserError, match="'synthetic-clap'; did you mean 'synthetic-clip'"):
        find_scorer("synthetic-clap", BASES["synthetic"])
    assert all(
        card.revision or isinstance(card.source, Path) for card in SCORERS.values()
    )  # hub models are pinned


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    nowhere = ScorerCard(name="tiny-clip", source=tmp_path / "nowhere", revision=None)
    for asked in (scorer_identity, load_scorer):
        with pytest.raises(
            UserError,
            match=r"scorer 'tiny-clip' is not at .*nowhere; build the synthetic models",
        ):
            asked(nowhere)
    card = saved(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no \*\.safetensors weights"):
        load_scorer(card)
    base = save_base(tmp_path / "llava")
    with pytest.raises(UserError, match="is no image-text scorer"):
        load_scorer(replace(nowhere, source=base.source))
    with pytest.raises(UserError, match="1 images and 2 sentences"):
        ClipScorer(*tiny_clip()).relevance([picture(0)], ["a", "b"])


class Evil:
    """What a pickle can do: call a function when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_torch_file_is_read_as_tensors_and_nothing_else_of_it_is_run(tmp_path: Path) -> None:
    card = saved(tmp_path)
    expected = load_scorer(card).relevance(IMAGES, SENTENCES)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_clip()[0].state_dict(), tmp_path / "pytorch_model.bin")
    published = replace(card, safetensors=False)  # CLIP-336's repository has a torch file alone
    assert load_scorer(published).relevance(IMAGES, SENTENCES) == pytest.approx(expected, abs=1e-5)
    mark = tmp_path / "ran"
    torch.save({"text_projection.weight": Evil(mark)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="could not be loaded from"):
        load_scorer(published)
    assert not mark.exists()


def test_a_run_scores_with_the_bases_scorer_and_refuses_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "llava"))
    monkeypatch.setitem(SCORERS, "synthetic-clip", saved(tmp_path / "clip"))
    pictures = save_pictures(tmp_path / "pictures", 4)
    lines = [
        {"image": path.name, "question": "describe the picture ."}
        for path in sorted(pictures.iterdir())
    ]
    (pictures / "pool.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = Run(label="csr", base="tiny", method=CSR, pool=str(pictures / "pool.jsonl"), images=4)
    study = Study(
        name="scored",
        question="Does it run?",
        runs=(Run(label="untrained", base="tiny", method=Untrained()), run),
        benchmarks=(Words(pictures=1),),
    )
    run_study(study, tmp_path / "out")
    folder = tmp_path / "out" / "runs" / "csr" / "seed0" / "round1" / "pairs"
    assert json.loads((folder / "identity.json").read_text())["scorer"] == scorer_identity(
        SCORERS["synthetic-clip"]
    )
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert pairs
    assert any(value > 0 for pair in pairs for value in pair["trace"]["tree"]["relevance"])
    monkeypatch.setitem(SCORERS, "synthetic-clip", saved(tmp_path / "other", seed=1))
    with pytest.raises(UserError, match=r"scorer\.\*\.safetensors: "):
        run_study(study, tmp_path / "out")
