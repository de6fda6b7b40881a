"""The command line: one sentence and exit 2 for a mistake, 130 for Ctrl-C, a table at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from harness.cli import main as cli
from harness.cli import results_commands
from harness.models.base_cards import BASES
from harness.pipeline import runner
from tests.reporting.records import write_study
from tests.toy_method import save_base, save_pictures

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
from harness.study.study import Run, Study, vary
from methods.untrained import Untrained
from tests.toy_method import Toy, Words

def study(*, pool="synthetic", seeds=1):
    untrained = Run(label="untrained", base="tiny", method=Untrained())
    toy = Run(label="toy", base="tiny", method=Toy(), pool=pool, images=6)
    runs = (untrained, *vary(toy, "seed", range(seeds)))
    words = (Words(pictures=6),)
    return Study(name="own", question="Does it run?", runs=runs, benchmarks=words)
"""


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(results_commands, "RESULTS", tmp_path / "results")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A user's own study file and the pool for it."""
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "tiny"))
    path = tmp_path / "own.py"
    path.write_text(STUDY)
    return [str(path), "--pool", str(save_pictures(tmp_path / "pool", 8))]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence on stderr of a command that must end with 2."""
    assert cli.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.thorough
def test_plan_run_table_and_figures_of_a_users_own_study(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *own]) == 0
    assert "0 of 7 stages are done" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert cli.main(["run", *own]) == 0
    first = capsys.readouterr().out
    assert "[7/7] toy, seed 0, round 1: grade words: done" in first
    out = tmp_path / "results" / "own"
    ending = first.split("\n\n", 1)[1]  # one screen
    assert ending.count("\n") < 24
    for path in (out / "table.md", out / "figures", out / "page.html"):
        assert str(path.relative_to(tmp_path)) in ending
        assert path.exists()
    assert "words" in ending
    assert (out / "table.csv").exists()
    assert cli.main(["run", *own]) == 0
    again = capsys.readouterr().out
    assert "All 7 stages are done; nothing left to do." in again
    assert "[" not in again.split("\n\n", 1)[0]
    assert again.split("\n\n", 1)[1] == ending
    assert cli.main(["table", "own"]) == 0
    assert len(capsys.readouterr().out) > len(ending)
    assert cli.main(["figures", "--out", str(out)]) == 0
    assert all(Path(line).exists() for line in capsys.readouterr().out.splitlines())


def test_mistakes_are_one_sentence(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no study 'comparr'; did you mean 'compare'?" in refused(capsys, "plan", "comparr")
    assert "There is no study file nowhere.py" in refused(capsys, "run", "nowhere.py")
    assert "no option of the study" in refused(capsys, "plan", *own, "--limit", "3")
    assert "There is no pool" in refused(capsys, "plan", *own[:2], str(tmp_path / "nowhere"))
    assert "no results folder 'compare'" in refused(capsys, "table", "compare")
    assert "There are no results in" in refused(capsys, "table", "--out", str(tmp_path / "nothing"))
    assert "Give either" in refused(capsys, "figures")
    (tmp_path / "empty.py").write_text("")
    assert "defines no study()" in refused(capsys, "plan", str(tmp_path / "empty.py"))
    (tmp_path / "odd.py").write_text("def study():\n    return 3\n")
    (tmp_path / "wrong.py").write_text(
        "from methods.interface import Recipe\ndef study():\n    return Recipe(lr=-1)\n"
    )
    said = refused(capsys, "plan", str(tmp_path / "wrong.py"))
    assert "wrong.py, line 3: Recipe.lr is -1; it must be a number above 0" in said
    assert "returned a int" in refused(capsys, "plan", str(tmp_path / "odd.py"))


@pytest.mark.thorough
def test_unknown_names_of_the_comparison_name_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "no row 'senna'; did you mean 'sena'?" in refused(
        capsys, "plan", "compare", "--only", "senna"
    )
    assert "no base 'syntetic'; did you mean 'synthetic'?" in refused(
        capsys, "plan", "compare", "--base", "syntetic"
    )
    said = refused(capsys, "plan", "compare", "--benchmarks", "synthetic_poppe")
    assert "no benchmark 'synthetic_poppe'; did you mean 'synthetic_pope'?" in said
    assert "--limit is 0; it must be at least 1" in refused(
        capsys, "plan", "compare", "--limit", "0"
    )
    assert "did you mean 'synthetic_chair' or" in refused(
        capsys, "plan", "compare", "--benchmarks", "chair"
    )
    assert (
        cli.main(["plan", "compare", "--base", "llava-1.5-7b", "--benchmarks", "pope,chair"]) == 2
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "pope needs" in said
    assert "did you mean 'coco_chair' or 'coco_chair_64' or 'synthetic_chair'" in said
    said = refused(
        capsys, "plan", "compare", "--benchmarks", "synthetic_pope", "--local-data", f"mme={ROOT}"
    )
    assert "--local-data mme is read by mme, and only synthetic_pope is asked for" in said
    said = refused(capsys, "plan", "tune", "--row", "a=b")
    assert "no option of the study tune '--row'" in said
    assert "--rows" not in said


def test_a_list_is_spaces_commas_or_the_option_again(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "plan",
        "compare",
        "--benchmarks",
        "a,b",
        "c",
        "--only",
        "sena",
        "--only",
        "sima, csr",
        "--benchmarks",
        "d",
    ]
    given = cli.parser().parse_args(
        [*command, "--local-data", "x=p/q,y=r", "z=s,t", "--row", "one=org/name,two=./a"]
    )
    assert given.benchmarks == ["a", "b", "c", "d"]
    assert given.only == ["sena", "sima", "csr"]
    assert given.local_data == ["x=p/q", "y=r", "z=s,t"]
    assert given.rows == ["one=org/name", "two=./a"]
    assert cli.parser().parse_args(["doctor"]).local_data == []
    assert "--benchmarks is given no name" in refused(
        capsys, "plan", "compare", "--benchmarks", ","
    )


def test_what_a_pool_cannot_serve_is_said_and_a_real_base_on_the_world_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(save_pictures(tmp_path / "pool", 4))
    assert (
        cli.main(
            ["plan", "compare", "--pool", folder, "--limit", "2", "--benchmarks", "synthetic_pope"]
        )
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out, because the pool" in said
    assert "csr needs question; sima needs question and reference" in said
    assert "What it costs" not in said
    assert cli.main(["plan", "compare", "--base", "llava-1.5-7b", "--limit", "2"]) == 0
    said = capsys.readouterr().out
    assert "The pool is synthetic" in said
    assert "The benchmarks are synthetic" in said
    assert "GPU-minutes" in said
    assert "GiB are free on the disk" in said
    if not torch.cuda.is_available():
        assert "this machine has no GPU" in " ".join(said.split())


def test_the_shipped_studies_are_what_they_say() -> None:
    from harness.study import compare, smoke

    full = compare.study()
    assert (full.name, full.split, full.limit) == ("compare", "test", None)
    assert [run.label for run in full.runs][:2] == ["untrained", "sena"]
    assert any(metric.primary for benchmark in full.benchmarks for metric in benchmark.metrics)
    some = compare.study(seeds=3, rounds=2, limit=10, only=["sena"], benchmarks=["synthetic_pope"])
    assert some.name == "compare-limit10"
    assert [(run.label, run.seed, run.images, run.last) for run in some.runs] == [
        ("untrained", 0, 10, 0), ("sena", 0, 10, 2), ("sena", 1, 10, 2), ("sena", 2, 10, 2),
    ]  # fmt: skip
    assert len({question.cluster for question in some.benchmarks[0].questions()}) == 10
    assert compare.study(base="llava-1.5-7b").name == "compare-llava-1.5-7b"
    small = smoke.study()
    assert (small.name, small.split, small.limit) == ("smoke", "dev", smoke.IMAGES)


def test_ctrl_c_is_one_sentence(
    own: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupt)
    assert cli.main(["run", *own]) == 130
    assert "everything finished is kept" in capsys.readouterr().err


def test_another_folder_has_its_own_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is no results folder 'compare'" in refused(capsys, "table", "compare")


def test_help_says_what_limit_limits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "at most N test images, and at most N pool images per round" in " ".join(
        done.stdout.split()
    )


LOADED = """
import sys
from harness.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted({name.split(".")[0] for name in sys.modules}))
"""
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "matplotlib", "pandas", "scipy"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["run", "--help"], set()),
        (["table", "--out", "STUDY"], {"pandas", "scipy"}),
        (["plan", "compare", "--limit", "10"], {"torch", "transformers", "pandas", "scipy"}),
    ],
    ids=["help", "run-help", "table", "plan"],
)
def test_a_command_imports_only_what_it_needs(
    arguments: list[str],
    needed: set[str],
    tmp_path: Path,
) -> None:
    if "STUDY" in arguments:
        write_study(tmp_path / "study", seeds=(0,), images=20)
    given = [str(tmp_path / "study") if one == "STUDY" else one for one in arguments]
    command = [sys.executable, "-c", LOADED, *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, *loaded = done.stdout.splitlines()[-1].split()
    assert head == "loaded:"
    assert HEAVY & set(loaded) <= needed


def test_everything_that_a_command_lacks_is_listed_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SELFSIGHT_JUDGE", raising=False)
    command = ["run", "compare", "--base", "llava-1.5-7b", "--pool", str(tmp_path / "nowhere")]
    command += ["--row", "theirs=/nowhere", "--benchmarks", "pope,mmhal", "--jobs", "0"]
    assert cli.main(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    for lacking in (
        "There is no pool",
        "row theirs: There is no folder",
        "pope needs",
        "mmhal needs",
        "No judge is set",
        "--jobs is 0",
        "Base 'llava-1.5-7b' is not in the local cache",
        "row csr: Scorer 'clip-vit-large-patch14-336' is not in the local cache",
    ):
        assert lacking in said
    assert not (tmp_path / "results").exists()
    assert cli.main(["doctor", *command]) == 2
    assert " ".join(capsys.readouterr().err.split()) == said
    assert cli.main(["doctor", "run", "compare", "--limit", "2"]) == 0
    assert capsys.readouterr().out.startswith("Nothing is lacking for: run compare --limit 2")
    assert "no command that doctor checks 'rum'; did you mean 'run'" in refused(
        capsys, "doctor", "rum", "compare"
    )


def test_a_mistyped_option_or_command_gets_the_nearest_and_none_is_abbreviated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "--sede: did you mean --seeds?" in refused(capsys, "plan", "compare", "--sede", "3")
    assert "--seed: did you mean --seeds?" in refused(capsys, "run", "compare", "--seed=3")
    assert "--o: " in refused(capsys, "plan", "compare", "--o", "ray")
    assert "no command 'rn'; did you mean 'run'" in refused(capsys, "rn", "compare")
    assert "no value of --on 'rai'; did you mean 'ray'" in refused(
        capsys, "plan", "compare", "--on", "rai"
    )
    assert "no place for 'extra'" in refused(capsys, "plan", "compare", "extra")
    assert "Argument --seeds: invalid int value" in refused(
        capsys, "plan", "compare", "--seeds", "x"
    )


def test_plan_takes_every_option_of_run() -> None:
    def options(command: str) -> set[str]:
        given = vars(cli.parser().parse_args([command, "compare"]))
        return set(given) - {"command"}

    assert options("plan") == options("run") | {"stages"}


@pytest.mark.parametrize("command", [["doctor"], ["plan", "compare"]])
def test_a_python_without_the_packages_is_one_sentence(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness", *command],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "lacks the package" in done.stderr
    assert "`python -m pip install .`" in done.stderr
    assert "Traceback" not in done.stderr
