"""A stranger's results folder that means harm: nothing outside it is read or written, nothing is
asked of the network, no terminal is driven."""

import hashlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from harness.artifacts.results_folder import read_json, read_jsonl, write_json, write_jsonl
from harness.cli.main import main
from harness.errors import UserError, plain
from harness.reporting.page import images
from harness.reporting.results import load_results
from tests.reporting.page_study import page_study
from tests.tiny_models import picture

COMMANDS = ("table", "figures", "page", "pack", "compare")


def command(name: str, out: Path) -> list[str]:
    if name == "compare":
        return ["compare", str(out), str(out)]
    if name == "pack":
        return ["pack", str(out), "--out", str(out.parent / "packed")]
    return [name, "--out", str(out)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    page_study(root / "study", root / "pool")
    return root


@pytest.fixture
def root(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``study``, a stranger's results, and ``home``, the user's own files."""
    shutil.copytree(clean / "study", tmp_path / "study")
    picture(5).save(_folder(tmp_path / "home") / "secret.png")
    (tmp_path / "home" / "README.md").write_text("mine\n\n## Results\nmine\n")
    write_jsonl(tmp_path / "home" / "answers.jsonl", [{"id": "c0", "answer": "secret words"}])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def change(root: Path, edit: Callable[[Any], None]) -> None:
    study = read_json(root / "study" / "study.json")
    edit(study)
    write_json(root / "study" / "study.json", study)


def names_a_label(study: Any) -> None:
    study["runs"][1]["label"] = "../../../home"


def names_an_absolute_label(study: Any) -> None:
    study["runs"][1]["label"] = "/etc"


def names_a_benchmark(study: Any) -> None:
    study["benchmarks"][0]["name"] = "../../home/x"


def names_a_seed(study: Any) -> None:
    study["runs"][1]["seed"] = "0/../../../home"


def drives_the_terminal(study: Any) -> None:
    study["runs"][1]["label"] = "sena\x1b]0;taken\x07"


EDITS = (
    *(names_a_label, names_an_absolute_label, names_a_benchmark, names_a_seed),
    drives_the_terminal,
)


@pytest.mark.parametrize("edit", EDITS)
def test_names_are_checked_when_they_are_read(
    edit: Callable[[Any], None], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root, edit)
    before = files(root)
    for name in COMMANDS:
        assert main(command(name, root / "study")) == 2, name
        said = "".join(capsys.readouterr())
        assert said.count("\n") == 1
        assert "\x1b" not in said
    assert files(root) == before


@pytest.mark.thorough
def test_image_names_are_checked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "study" / "questions").glob("*/questions.jsonl"):
        hostile = {"images": ["../../../../home/secret.png"]}
        write_jsonl(path, [{**row, **hostile} for row in read_jsonl(path)])
    for name in ("page", "figures"):
        assert main(command(name, root / "study")) == 2
        assert "is no image's file name" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.parametrize("spec", ["POOL", "hub:stranger/set@main:image", "llava:a.json:/"])
def test_the_page_opens_no_pool_and_no_base_of_a_stranger(
    spec: str, root: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = str(clean / "pool") if spec == "POOL" else spec

    def edit(study: Any) -> None:
        study["runs"] = [{**run, "pool": pool, "base": "stranger/x"} for run in study["runs"]]

    change(root, edit)
    opened: list[str] = []
    whole = images.open_pool

    def find(base: str) -> None:
        opened.append(base)
        raise UserError("no base here")

    monkeypatch.setattr(images, "find_base", find)
    monkeypatch.setattr(images, "open_pool", lambda spec: opened.append(spec) or whole(spec))
    assert main(command("page", root / "study")) == 0
    assert opened == []
    assert "is not opened" in (root / "study" / "page.html").read_text()
    if spec == "POOL":
        assert main([*command("page", root / "study"), "--own"]) == 0
        assert opened[0] == pool
        assert "is not opened" not in (root / "study" / "page.html").read_text()


@pytest.mark.parametrize("place", ["study.json", "figures", "runs/sena", "page.html"])
def test_links_out_of_the_folder_are_refused(
    place: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "study" / place
    aside = root / "home" / path.name
    if path.exists():
        path.rename(aside)
    else:
        aside.mkdir()
    path.symlink_to(aside)
    before = files(root)
    for name in COMMANDS:
        assert main(command(name, root / "study")) == 2, name
        assert "is a symbolic link that leads out" in capsys.readouterr().err
    assert files(root) == before


@pytest.mark.parametrize("edit", EDITS)
def test_verify_writes_and_asks_nothing(
    edit: Callable[[Any], None], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(root, edit)
    before = files(root)
    main(["verify", str(root / "study")])
    assert "\x1b" not in "".join(capsys.readouterr())
    (root / "study" / "figures").symlink_to(root / "home")
    assert main(["verify", str(root / "study")]) == 1
    assert "is a symbolic link that leads out" in capsys.readouterr().out
    (root / "study" / "figures").unlink()
    assert files(root) == before


def test_a_guessed_temporary_name_is_not_written_through(root: Path) -> None:
    before = files(root / "home")
    for name in ("table.md", "page.html", "leaks.csv"):
        for guess in (f".{name}.tmp", name):
            (root / "study" / guess).unlink(missing_ok=True)
            (root / "study" / guess).symlink_to(root / "home" / "README.md")
    for name in COMMANDS:
        main(command(name, root / "study"))
    assert files(root / "home") == before


@pytest.mark.thorough
def test_metrics_of_any_name_make_files_within_the_folder(root: Path) -> None:
    def edit(study: Any) -> None:
        study["benchmarks"][0]["metrics"][0]["name"] = "../../../home/a\x1b"

    change(root, edit)
    before = files(root / "home")
    for name in COMMANDS:
        assert main(command(name, root / "study")) == 0, name
    assert files(root / "home") == before
    assert load_results(root / "study").rows


def test_what_a_terminal_obeys_is_replaced() -> None:
    assert plain("a\x1b[2J\u202eb\ud800\r\n\tc\u2028") == "a\ufffd[2J\ufffdb\ufffd\ufffd\n\tc\ufffd"
    assert plain("été 你 🙂 a\u00a0b") == "été 你 🙂 a\u00a0b"
