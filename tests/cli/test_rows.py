"""Ready-made rows from the command line: local models, adapters and other families beside the base,
and a sentence for each that is not what it seems."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pandas as pd
import pytest
import torch

from harness.cli import main as cli
from harness.models.base_cards import BASES
from tests.models.test_checkpoints import save, save_adapter
from tests.models.twins import TWINS
from tests.tiny_models import tiny_llava
from tests.toy_method import card_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a model trained elsewhere, an adapter, a model of the other family."""
    root = tmp_path_factory.mktemp("models")
    save(root / "base", "llava-1.5")
    save(root / "qwen", "qwen2.5-vl")
    other, processor = tiny_llava(seed=1)
    other.save_pretrained(root / "other")
    processor.save_pretrained(root / "other")
    save_adapter(root / "adapter", root / "base")
    return root


@pytest.fixture
def run(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """A run of the untrained tiny base with these rows: exit code, what was printed, what went to
    stderr."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(BASES, "tiny", card_of(models / "base"))

    def call(*rows: str, command: str = "run", base: str = "tiny") -> tuple[int, str, str]:
        fixed = [
            "--base",
            base,
            "--only",
            "untrained",
            "--benchmarks",
            "synthetic_pope",
            "--limit",
            "2",
            "--out",
            str(tmp_path / "out"),
        ]
        # The tiny base is known to this process alone.
        fixed += ["--jobs", "1"] if command == "run" else []
        capsys.readouterr()
        code = cli.main(
            [command, "compare", *fixed, *(part for row in rows for part in ("--row", row))]
        )
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


Call = Callable[..., tuple[int, str, str]]


def refused(run: Call, row: str) -> str:
    """The one sentence of a row that must be refused, before anything is answered."""
    code, out, err = run(row)
    assert code == 2
    assert len(out.splitlines()) <= 1  # that the study is loaded
    said = [line for line in err.splitlines() if not line.startswith(("Loading", "Writing"))]
    assert len(said) == 1
    assert "Traceback" not in err
    return said[0]


@pytest.mark.thorough
def test_rows_of_every_kind_stand_in_the_table(run: Call, models: Path, tmp_path: Path) -> None:
    rows = {
        "other": "other",
        "other again": "other",
        "qwen": "qwen",
        "itself": "base",
        "theirs + LoRA": "adapter",
    }
    code, *_ = run(*(f"{label}={models / name}" for label, name in rows.items()))
    assert code == 0
    cells = pd.read_csv(tmp_path / "out" / "table.csv")
    assert list(dict.fromkeys(cells["label"])) == ["untrained", *rows]
    # With one training and two questions; whether they are told apart is not this test's matter.
    about_training = {"this training differs", "this training: no clear change"}
    assert set(cells["verdict"]) <= {"baseline", "not tested", "cannot be told", *about_training}

    def column(label: str) -> list[object]:
        return (
            cells.loc[cells["label"] == label, "value"]
            .astype(object)
            .where(lambda one: one.notna(), None)
            .tolist()
        )

    def answers(label: str) -> list[str]:
        path = (
            tmp_path
            / "out"
            / "runs"
            / label
            / "seed0"
            / "round0"
            / "answers"
            / "synthetic_pope"
            / "answers.jsonl"
        )
        return [json.loads(line)["answer"] for line in path.read_text().splitlines()]

    # The same weights twice: asked once, the same numbers, the same fingerprint beside both.
    assert column("other") == column("other again")
    assert answers("itself") == answers("untrained") != answers("other")
    assert answers("theirs + LoRA") != answers("untrained")
    table = (tmp_path / "out" / "table.md").read_text()
    known = _fingerprints(table)
    assert known["other"] == known["other again"] != known["qwen"]
    assert known["itself"] == known["untrained"] != known["theirs + LoRA"]
    assert f"theirs + LoRA: {models / 'adapter'}, fingerprint" in table.replace("\\", "")
    record = (
        tmp_path
        / "out"
        / "runs"
        / "other again"
        / "seed0"
        / "round0"
        / "answers"
        / "synthetic_pope"
        / "record.json"
    )
    assert "reused_from" in json.loads(record.read_text())
    # Another family is another model, and the table says so.
    assert (
        "qwen is qwen2.5-vl, untrained llava-1.5; all get the same questions, each in its own chat"
        " template" in table
    )


def _fingerprints(table: str) -> dict[str, str]:
    line = next(
        line for line in table.splitlines() if line.startswith("- Checkpoints, by fingerprint: ")
    )
    pairs = line.removeprefix("- Checkpoints, by fingerprint: ").rstrip(".").split("; ")
    return dict(pair.rsplit(" ", 1) for pair in pairs)


@pytest.mark.slow
def test_a_qwen_may_be_the_base_and_a_llava_the_row(
    run: Call, models: Path, tmp_path: Path
) -> None:
    assert run(f"llava={models / 'other'}", base=str(models / "qwen"))[0] == 0
    assert "llava is llava-1.5, untrained qwen2.5-vl" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.thorough
def test_what_is_not_what_it_seems_is_one_sentence_before_any_work(
    run: Call, models: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    tiny_llava()[0].save_pretrained(half, max_shard_size="100KB")
    next(iter(sorted(half.glob("model-*.safetensors")))).unlink()
    assert "is half there: 1 of" in refused(run, f"half={half}")

    original = tmp_path / "original"
    original.mkdir()
    (original / "config.json").write_text(
        '{"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}'
    )
    assert "original repository's format" in refused(run, f"a={original}")

    torch_only = shutil.copytree(models / "base", tmp_path / "bin")
    (torch_only / "model.safetensors").unlink()
    (torch_only / "pytorch_model.bin").write_bytes(b"x")
    assert "pytorch_model.bin is a torch file, which is not read: convert it" in refused(
        run, f"a={torch_only}"
    )

    adapter_bin = shutil.copytree(models / "adapter", tmp_path / "adapter-bin")
    (adapter_bin / "adapter_model.safetensors").rename(adapter_bin / "adapter_model.bin")
    assert "save the adapter as safetensors (a .bin is not read)" in refused(
        run, f"a={adapter_bin}"
    )

    save_adapter(tmp_path / "others", Path("someone/other-7b"))
    assert "is of the base 'someone/other-7b', which is none of" in refused(
        run, f"a={tmp_path / 'others'}"
    )
    save_adapter(tmp_path / "wide", models / "qwen")
    assert "is of a base of another size" in refused(run, f"a={tmp_path / 'wide'}")
    save_adapter(tmp_path / "self", tmp_path / "self")
    assert "is its own base" in refused(run, f"a={tmp_path / 'self'}")

    broken = shutil.copytree(models / "base", tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps({**config, "text_config": {**config["text_config"], "num_hidden_layers": "x"}})
    )
    assert "describes no model that can be built" in refused(run, f"a={broken}")

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no config.json" in refused(run, f"a={empty}")
    assert "There is no folder" in refused(run, f"a={tmp_path / 'nowhere'}")
    assert not (tmp_path / "out").exists()


def test_labels_are_folders_names_and_stand_once(run: Call, models: Path) -> None:
    other = models / "other"
    for label in ("../up", "theirs (LoRA)", "a/b", "<b>", "a|b", ".hidden", "x" * 121):
        assert "becomes a folder's name" in refused(run, f"{label}={other}")
    assert "must be LABEL=CHECKPOINT" in refused(run, f"={other}")
    assert "untrained" in refused(run, f"untrained={models / 'base'}")
    code, _, err = run(f"a={other}", f"a={models / 'base'}")
    assert (code, err.count("\n")) == (2, 1)
    assert "The study 'compare-tiny-limit2' holds the run 'a, seed 0' twice" in err


def test_a_row_of_damaged_numbers_is_said(run: Call, tmp_path: Path) -> None:
    model, processor = TWINS["llava-1.5"]()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    processor.save_pretrained(tmp_path / "nan")
    code, _, err = run(f"nan={tmp_path / 'nan'}")
    assert (
        code,
        "not finite (nan) in transformers' own forward pass: its weights are damaged" in err,
    ) == (2, True), err
    # What was answered before it stays.
    done = (
        tmp_path
        / "out"
        / "runs"
        / "untrained"
        / "seed0"
        / "round0"
        / "answers"
        / "synthetic_pope"
        / "DONE"
    )
    assert done.exists()
