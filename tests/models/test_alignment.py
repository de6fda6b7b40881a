"""The same weights give the same bits wherever they lie: what is loaded lies where torch puts what
it makes.

Matrix products on the CPU choose their code by the address of what they multiply, and tensors read
from a file lie where the file's header ends. The tests move that end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.clip_scorer import ClipScorer, find_scorer, load_scorer
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.alignment import ALIGNMENT, align
from harness.models.base_cards import find_base
from harness.training import resume as checkpoint
from methods.interface import Completion, Decoding, Item, Lora, Prompt, Recipe, Tools
from tests.edited_files import without_hashes
from tests.engine.test_clip_scorer import tiny_clip
from tests.models.test_checkpoints import save, save_adapter
from tests.models.twins import CSR, TWINS
from tests.tiny_models import picture, tiny_llava
from tests.training.cases import TARGETS, saved, train

pytestmark = pytest.mark.equality

SHIFTS = (4, 8, 20)
"""Bytes behind a multiple of 64: none is a multiple of 16, which the products of MKL ask for."""

PROMPTS = [
    Prompt(key=str(number), text=text, image=picture(number))
    for number, text in enumerate(
        ("describe the picture .", "what colour is the ball ?", "is there a cup ?")
    )
]
ITEMS = [
    Item(id=str(number), image=picture(number), question="what is in the picture ?")
    for number in range(3)
]
SENTENCES = ["a red ball .", "there is a blue cup at the top left ."]


def misplaced(tensors: list[Tensor]) -> int:
    return sum(tensor.data_ptr() % ALIGNMENT != 0 for tensor in tensors)


def tensors_of(model: Any) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def shift(model: nn.Module, by: int) -> None:
    """Move every tensor into foreign memory, ``by`` bytes behind a multiple of 64."""
    for tensor in tensors_of(model):
        old = tensor.data
        room = bytearray(old.nbytes + 2 * ALIGNMENT)
        start = (by - torch.frombuffer(room, dtype=torch.uint8).data_ptr()) % ALIGNMENT
        tensor.data = torch.frombuffer(room, dtype=old.dtype, count=old.numel(), offset=start).view(
            old.shape
        )
        tensor.data.copy_(old)


def move_content(file: Path) -> None:
    """Write a safetensors file's header longer, so that its tensors begin 8 bytes behind a multiple
    of 64."""
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata() or {})
    for length in range(200):
        save_file(tensors, file, {**metadata, "filler": "x" * length})
        if int.from_bytes(file.read_bytes()[:8], "little") % ALIGNMENT == 0:
            return
    raise AssertionError(f"{file}: no header of this length")


def answers(model: Any, processor: Any) -> tuple[list[Completion], list[Any]]:
    """Texts with their log-probabilities, and those of a given answer: every bit counts."""
    engine = Engine(model, processor)
    return engine.generate(PROMPTS, Decoding(max_new_tokens=6)), engine.logps(
        PROMPTS, ["a red ball ."] * len(PROMPTS)
    )


@pytest.mark.parametrize("by", SHIFTS)
@pytest.mark.parametrize("family", TWINS)
def test_a_model_whose_tensors_lie_elsewhere_is_mended(family: str, by: int) -> None:
    expected = answers(*TWINS[family]())
    model, processor = TWINS[family]()
    shift(model, by)
    assert misplaced(tensors_of(model)) > 10
    align(model)
    assert misplaced(tensors_of(model)) == 0
    assert answers(model, processor) == expected


def test_tied_tensors_stay_tied_and_others_are_not_touched() -> None:
    one, two, apart = (
        nn.Linear(8, 8, bias=False),
        nn.Linear(8, 8, bias=False),
        nn.Linear(8, 8, bias=False),
    )
    two.weight = one.weight
    apart.weight.data = one.weight.data  # a parameter of its own, in the same memory
    model = nn.ModuleList([one, two, apart, nn.Linear(8, 8), nn.Linear(8, 8, device="meta")])
    before = [tensor.data_ptr() for tensor in tensors_of(model)]
    align(model)
    assert [tensor.data_ptr() for tensor in tensors_of(model)] == before
    room = torch.empty(65)
    room[1:].copy_(one.weight.detach().flatten())
    one.weight.data = apart.weight.data = room[1:].view(8, 8)
    value = one.weight.detach().clone()
    align(model)
    assert misplaced(tensors_of(model)) == 0
    assert one.weight is two.weight
    assert one.weight.data_ptr() == two.weight.data_ptr() == apart.weight.data_ptr()
    assert torch.equal(one.weight, value)


@pytest.mark.thorough
@pytest.mark.parametrize("family", TWINS)
def test_a_loaded_base_answers_as_the_one_in_memory(family: str, tmp_path: Path) -> None:
    save(tmp_path, family)
    expected = answers(*TWINS[family]())
    for _ in range(2):
        model, processor = load_model(find_base(str(tmp_path)))
        assert misplaced(tensors_of(model)) == 0
        assert answers(model, processor) == expected
        model, processor = load_model(find_base(str(tmp_path)), weights=tmp_path)  # a round's model
        assert misplaced(tensors_of(model)) == 0
        assert answers(model, processor) == expected
        move_content(tmp_path / "model.safetensors")


def test_a_merged_adapter_answers_as_the_one_in_memory(tmp_path: Path) -> None:
    parent = save(tmp_path / "parent", "llava-1.5")
    save_adapter(tmp_path / "adapter", parent)
    found = []
    for _ in range(2):
        model, processor = load_model(find_base(str(tmp_path / "adapter")))
        assert misplaced(tensors_of(model)) == 0
        found.append(answers(model, processor))
        move_content(tmp_path / "adapter" / "adapter_model.safetensors")
        move_content(parent / "model.safetensors")
    assert found[0] == found[1]


def test_a_loaded_scorer_scores_as_the_one_in_memory(tmp_path: Path) -> None:
    model, processor = tiny_clip()
    images = [picture(0), picture(1)]
    expected = ClipScorer(model, processor).relevance(images, SENTENCES)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for _ in range(2):
        scorer = load_scorer(find_scorer(str(tmp_path), find_base("synthetic")))
        assert misplaced(tensors_of(scorer.model)) == 0
        assert scorer.relevance(images, SENTENCES) == expected
        move_content(tmp_path / "model.safetensors")


def test_a_training_goes_on_from_a_checkpoint_wherever_its_tensors_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(lr=1e-3, epochs=2, global_batch=3, warmup=0.0, alignment_weight=0.5)
    train(tmp_path / "straight", recipe)

    class Cut(Exception):  # noqa: N818
        """Stands for a kill."""

    def progress(what: str, done: int, _total: int) -> None:
        if what == "train" and done == 2:
            raise Cut

    with pytest.raises(Cut):
        train(tmp_path / "cut", recipe, checkpoint_every=1, progress=progress)
    for file in (tmp_path / "cut" / "checkpoints").glob("step-*/*.safetensors"):
        move_content(file)
        without_hashes(file.parent)
    loaded: list[Tensor] = []
    whole = checkpoint.load

    def load(folder: Path, step: int, parameters: Any, optimizer: torch.optim.Optimizer) -> None:
        whole(folder, step, parameters, optimizer)
        loaded.extend(parameters.values())
        loaded.extend(value for state in optimizer.state.values() for value in state.values())

    monkeypatch.setattr(checkpoint, "load", load)
    train(tmp_path / "cut", recipe)
    assert loaded
    assert misplaced(loaded) == 0
    straight, resumed = saved(tmp_path / "straight"), saved(tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


class Multiplied(TorchDispatchMode):
    """Counts the matrix products and attentions, and names those with an operand in memory that
    torch did not place.

    A slice of such memory may begin anywhere, but where depends on shapes alone; so the same work
    finds the same places.
    """

    KERNELS = ("mm", "mv", "dot", "linear", "convolution", "attention")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.strange = 0, set[str]()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.name().removeprefix("aten::")
        if any(kernel in name for kernel in self.KERNELS):
            operands = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor)]
            self.count += 1
            if any(one.untyped_storage().data_ptr() % ALIGNMENT for one in operands):
                self.strange.add(name)
        return func(*args, **(kwargs or {}))


def work_answers(folder: Path) -> None:
    answers(*load_model(find_base(str(folder))))


def work_noise(folder: Path) -> None:
    def noisy(pixels: Tensor, _key: str) -> Tensor:
        return pixels + 0.1

    Engine(*load_model(find_base(str(folder)))).generate(
        PROMPTS, Decoding(max_new_tokens=6, temperature=1.0, seed=0), corrupt=noisy
    )


def work_search(folder: Path) -> None:
    engine, scorer = Engine(*load_model(find_base(str(folder)))), ClipScorer(*tiny_clip())
    list(CSR.pairs(ITEMS, Tools(vlm=engine, scorer=scorer)))


def work_training(folder: Path) -> None:
    model, _ = load_model(find_base(str(folder)))
    train(folder / "full", Recipe(lr=1e-3, epochs=1, global_batch=3, alignment_weight=0.5), model)


def work_adapters(folder: Path) -> None:
    model, _ = load_model(find_base(str(folder)))
    recipe = Recipe(lr=1e-3, epochs=1, global_batch=3, lora=Lora(r=2, alpha=4), projector_lr=1e-3)
    train(folder / "low", recipe, model, lora_targets=TARGETS)


ANSWERING, TRAINING = (work_answers, work_noise, work_search), (work_training, work_adapters)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "work"),
    [(family, work) for family in TWINS for work in ANSWERING]
    + [("llava-1.5", work) for work in TRAINING],
)
def test_every_product_reads_memory_that_torch_placed(
    family: str, work: Callable[[Path], None], tmp_path: Path
) -> None:
    save(tmp_path, family)
    with Multiplied() as seen:
        work(tmp_path)
    assert seen.count > 50
    assert not seen.strange


def test_what_lies_elsewhere_is_seen() -> None:
    model, _ = tiny_llava()
    shift(model, 4)
    with Multiplied() as seen, torch.no_grad():
        model.lm_head(torch.zeros(1, 64))
    assert seen.strange
