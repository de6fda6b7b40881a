"""The training that is chosen where the user asks for none: by memory, once a results folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.artifacts.results_folder import write_json
from harness.cli import main as cli
from harness.pipeline import choose_training
from harness.study.reference import StudyReference
from harness.training.memory import GIB
from harness.training.placement import Placement

SEVEN = {"base": "llava-1.5-7b"}


def choose(memory: int | None, name: str = "compare", **options: object) -> tuple[object, str]:
    reference = StudyReference(name, {**SEVEN, **options})
    result, reason = choose_training.by_memory(reference, Placement(), memory)
    extra = {key: value for key, value in result.options.items() if key not in reference.options}
    return extra, reason


def test_a_real_base_trains_in_full_where_that_fits_and_with_lora_elsewhere() -> None:
    assert choose(int(141 * GIB))[0] == {"full": True}
    option, reason = choose(int(80 * GIB))
    assert option == {"lora": True}
    assert "because full training needs about 104 GiB on one GPU, which has 80" in reason
    assert choose(int(80 * GIB), "paper", profile="equal")[0] == {"lora": True}
    assert choose(int(80 * GIB), "ablate")[0] == {"lora": True}


@pytest.mark.parametrize(
    "options",
    [
        {"lora": True},
        {"full": True},
        {"profile": "published"},
        {"base": "synthetic"},
        {"base": "no/such/base"},
    ],
)
def test_nothing_is_chosen_where_the_options_say_it(options: dict[str, object]) -> None:
    assert choose(int(24 * GIB), **options) == ({}, "")
    assert choose(int(24 * GIB), "paper") == ({}, "")  # its profile is published
    assert choose(int(24 * GIB), "tune") == ({}, "")
    assert choose(int(24 * GIB), "ablate", only=["recipe"]) == ({}, "")


def test_without_a_gpu_the_study_stays_and_a_large_base_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choose_training, "gpu_memory", lambda: None)
    option, reason = choose(None)
    assert option == {}
    assert "No GPU is seen here" in reason


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("begun_with_lora", [False, True])
def test_results_that_were_begun_keep_their_training_on_another_machine(
    tmp_path: Path, begun_with_lora: bool, named: bool
) -> None:
    first, second = int(80 * GIB), int(141 * GIB)
    if not begun_with_lora:
        first, second = second, first
    options = {**SEVEN, "limit": 2, "seeds": 1, "released": True}

    def begin(memory: int) -> tuple[StudyReference, str]:
        reference, _ = choose_training.by_memory(
            StudyReference("compare", options), Placement(), memory
        )
        out = tmp_path / "mine" if named else None
        resumed, sentence = choose_training.from_results(reference, reference.load(), out, tmp_path)
        folder = out or tmp_path / resumed.load().name
        folder.mkdir(exist_ok=True)
        write_json(folder / "study.json", resumed.load().as_json())
        return resumed, sentence

    reference, sentence = begin(first)
    assert (bool(reference.options.get("lora")), sentence) == (begun_with_lora, "")
    again, sentence = begin(second)
    assert again.options == reference.options
    assert "was begun" in sentence
    assert begin(first)[1] == ""
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.thorough
def test_a_comparison_with_lora_runs_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--only", "sena", "--seeds", "1", "--limit", "4", "--benchmarks", "synthetic_pope"]
    out = tmp_path / "out"
    assert cli.main(["run", "compare", "--lora", *fixed, "--jobs", "1", "--out", str(out)]) == 0
    assert "Trained with LoRA (r 16" in capsys.readouterr().out
    train = out / "runs" / "sena" / "seed0" / "round1" / "train"
    assert json.loads((train / "identity.json").read_text())["recipe"]["lora"]["r"] == 16
    assert (train / "adapter" / "adapter_model.safetensors").exists()
    table = (out / "table.md").read_text()
    assert "LoRA r 16" in table.partition("##")[2]  # the summary's caption
    assert "Trained with LoRA (r 16" in table.replace("\\", "")
    assert cli.main(["run", "compare", "--full", *fixed, "--jobs", "1", "--out", str(out)]) == 2
    assert "recipe" in capsys.readouterr().err
