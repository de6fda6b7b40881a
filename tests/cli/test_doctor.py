"""The doctor says what is ready and what is lacking, touches nothing, and asks no network unless it
is told to."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.catalogue import BENCHMARKS
from harness.cli import doctor, doctor_report
from harness.cli import main as cli
from harness.cli.doctor import examine, known_methods
from harness.cli.doctor_report import Check
from harness.models.base_cards import BASES
from tests.benchmarks.test_mmhal import save_data
from tests.toy_method import save_base

ROOT = Path(__file__).resolve().parents[2]


class Called(Exception):  # noqa: N818
    """Somebody asked the network."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At the root, with an empty cache and environment, and a network that tells when it is
    asked."""

    def connect(*_arguments: object) -> None:
        raise Called

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in (
        "SELFSIGHT_JUDGE",
        "SELFSIGHT_LMMS_EVAL_PYTHON",
        "SELFSIGHT_VLMEVALKIT_PYTHON",
        "OPENAI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def look(folders: dict[str, Path] | None = None, **options: Any) -> list[Check]:
    return examine(BENCHMARKS, known_methods(), folders or {}, **options)


def of(lines: Sequence[Check], group: str, name: str) -> Check:
    [found] = [line for line in lines if (line.group, line.name) == (group, name)]
    return found


def test_a_base_of_ones_own_is_looked_at_and_a_gpu_that_torch_cannot_use_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(tmp_path / "mine")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lines = look(bases=[str(tmp_path / "mine"), str(tmp_path / "nowhere")])
    assert of(lines, "bases", "mine").ready
    assert "system text: none; example: '<s>USER: <image>\\n" in of(lines, "input", "mine").says
    lacking = of(lines, "bases", str(tmp_path / "nowhere"))
    assert not lacking.ready
    assert "There is no folder" in lacking.says
    assert "torch can use no GPU" in of(lines, "machine", "gpu").says
    assert "llava:" in of(lines, "methods", "sima").says


def test_a_papers_input_is_shown_before_the_download() -> None:
    says = of(look(bases=["llava-1.5-7b"]), "input", "llava-1.5-7b").says
    assert says.startswith(
        "bfloat16 on a GPU, float32 on the CPU; images padded to a square with the processor's mean"
        " colour; system"
    )
    assert "user's questions. USER: <image>\\nWhat is there? ASSISTANT:" in says
    hub = of(look(bases=["llava-1.5-7b-hf"]), "input", "llava-1.5-7b-hf").says
    assert "cut to the centre; the prompt's format is shown when its files are here" in hub


def test_what_comes_with_the_repository_is_ready_and_what_does_not_says_how() -> None:
    lines = look()
    for group, name in (
        ("bases", "synthetic"),
        ("scorers", "synthetic-clip"),
        ("benchmarks", "synthetic_pope"),
        ("machine", "packages"),
    ):
        assert of(lines, group, name).ready
        assert not of(lines, group, name).mend
    pope = of(lines, "benchmarks", "pope")
    assert not pope.ready
    assert "--local-data coco=FOLDER" in pope.mend
    assert (
        of(lines, "methods", "sima").says
        == "needs image, question, reference; pools that have it: synthetic, a .jsonl manifest,"
        " llava:, hub:"
    )
    assert of(lines, "methods", "csr").says.startswith(
        "needs image, question, and an image-text scorer"
    )
    assert all(line.says for line in lines)
    assert all(line.mend or "cannot be run here" in line.says for line in lines if not line.ready)
    for group, names in (
        ("benchmarks", BENCHMARKS),
        ("bases", BASES),
        ("methods", known_methods()),
    ):
        assert [line.name for line in lines if line.group == group] == list(names)
    shown = doctor_report.as_text(lines).splitlines()
    assert len(shown) == len(lines) + len({line.group for line in lines}) + 1  # a line each
    assert (
        shown[-1]
        == f"{sum(line.ready for line in lines)} ready, {sum(not line.ready for line in lines)}"
        " lacking."
    )


@pytest.mark.thorough
def test_json_and_text_say_the_same_and_the_exit_is_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(ROOT)  # others may write meanwhile
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert cli.main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Check(**row) for row in rows] == look()
    assert cli.main(["doctor"]) == 0
    assert f"lacking  {'pope':<26}" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_base_is_looked_at_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = save_base(tmp_path / "tiny")
    monkeypatch.setitem(BASES, "tiny", card)
    assert of(look(), "bases", "tiny").ready
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    line = of(look(), "bases", "tiny")
    assert not line.ready
    assert "cut or damaged" in line.says


def test_a_hub_model_is_found_in_the_cache(tmp_path: Path) -> None:
    name, card = next((name, card) for name, card in BASES.items() if isinstance(card.source, str))
    line = of(look(), "bases", name)
    assert "not downloaded" in line.says
    assert f"hf download {card.source} --revision {card.revision}" in line.mend
    folder = (
        tmp_path
        / "cache"
        / f"models--{str(card.source).replace('/', '--')}"
        / "snapshots"
        / str(card.revision)
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "holds no *.safetensors" in of(look(), "bases", name).says


@pytest.mark.thorough
def test_the_judge_s_key_is_there_or_not_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"mmhal": save_data(tmp_path / "data")}
    assert of(look(data), "judge", "SELFSIGHT_JUDGE").says == "no settings are named"
    assert of(look(data), "benchmarks", "mmhal").says == "can be answered; grading needs a judge"
    path = tmp_path / "judge.json"
    monkeypatch.setenv("SELFSIGHT_JUDGE", str(path))
    assert "cannot be read" in of(look(), "judge", "SELFSIGHT_JUDGE").says
    path.write_text(
        json.dumps({"base_url": "https://x/v1", "model": "m", "key_variable": "MY_KEY"})
    )
    line = of(look(data), "judge", "SELFSIGHT_JUDGE")
    assert (line.ready, line.mend) == (False, "set MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-secret-secret")
    lines = look(data)
    assert (
        of(lines, "judge", "SELFSIGHT_JUDGE").says
        == "m, 0 judgements recorded, key present in MY_KEY"
    )
    assert of(lines, "benchmarks", "mmhal").ready
    assert "sk-secret" not in doctor_report.as_text(lines) + doctor_report.as_json(lines)


@pytest.mark.thorough
def test_a_toolkit_is_asked_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["no-such-package>=1", "numpy<1"]\n'
    )
    lines = look()
    assert of(lines, "toolkits", "lmms_eval").says == "no environment of its own"
    packages = of(lines, "machine", "packages").says
    assert packages.startswith("no-such-package is not installed, numpy is ")
    monkeypatch.setenv("SELFSIGHT_LMMS_EVAL_PYTHON", str(tmp_path / "nowhere"))
    assert "which is not there" in of(look(), "toolkits", "lmms_eval").says
    monkeypatch.setenv("SELFSIGHT_LMMS_EVAL_PYTHON", sys.executable)
    monkeypatch.setitem(
        doctor.TOOLKITS,
        "lmms_eval",
        ("SELFSIGHT_LMMS_EVAL_PYTHON", "toolkit_lmms_eval", "no-such-kit"),
    )
    assert of(look(), "toolkits", "lmms_eval").says == f"{sys.executable} has no no-such-kit"
    monkeypatch.setitem(
        doctor.TOOLKITS, "lmms_eval", ("SELFSIGHT_LMMS_EVAL_PYTHON", "toolkit_lmms_eval", "pytest")
    )
    assert of(look(), "toolkits", "lmms_eval").says.startswith(f"version {pytest.__version__}")


def test_only_online_asks_the_network_and_no_network_is_a_line() -> None:
    lines = look(online=True)
    hub = [line for line in lines if line.group == "hub"]
    assert len(hub) >= 4
    assert not any(line.ready for line in hub)
    assert all(line.mend == "check the network, or give a folder as --base" for line in hub)
    assert not any(line.group == "hub" for line in look())


def test_what_cannot_be_looked_at_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_bases: Sequence[str]) -> None:
        raise RuntimeError("half an installation\nand more")

    monkeypatch.setattr(doctor, "_bases", broken)
    line = of(look(), "bases", "bases")
    assert line.says == "could not be looked at: RuntimeError: half an installation"


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "trl", "peft", "accelerate"):
    sys.modules[name] = None
from harness.cli.main import main
sys.exit(main(["doctor"]))
"""


@pytest.mark.slow
def test_it_runs_where_torch_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "bases could not be looked at: ModuleNotFoundError" in said
    assert "ready synthetic_pope 1000 images" in said
