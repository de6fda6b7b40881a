"""Writing in a folder that means harm: links, guessed temporary names, leftovers."""

import os
import stat
from pathlib import Path

import pytest

from benchmarks import judgements
from harness.artifacts import safe_files
from harness.artifacts.results_folder import Stage, lock, write_bytes
from harness.errors import UserError
from harness.training.loggers import append_log
from harness.training.save_model import write_folder


class Part:
    """Anything with ``save_pretrained``."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "bashrc"
    path.parent.mkdir()
    path.write_text("mine\n")
    return path


def unharmed(victim: Path) -> bool:
    return victim.read_text() == "mine\n" and list(victim.parent.iterdir()) == [victim]


@pytest.mark.parametrize("name", [".table.md.tmp", "table.md"])
def test_a_file_is_never_written_through_a_link(tmp_path: Path, victim: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(victim)
    write_bytes(out / "table.md", b"table")
    assert unharmed(victim)
    assert not (out / "table.md").is_symlink()
    assert (out / "table.md").read_bytes() == b"table"


def test_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"a")
        write_folder(tmp_path / "model", Part())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a", b"a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".model.tmp", "model", f".model.{'0' * 16}.tmp"])
def test_a_model_is_never_written_through_a_link(tmp_path: Path, victim: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(victim.parent)
    write_folder(out / "model", Part())
    assert unharmed(victim)
    assert [path.name for path in (out / "model").iterdir()] == ["config.json"]


def test_nothing_is_appended_through_a_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to(victim)
    with pytest.raises(UserError, match="symbolic link"):
        append_log(tmp_path / "log.jsonl", {"step": 1})
    with (
        pytest.raises(ValueError, match="symbolic link"),
        judgements.open_writer(tmp_path / "log.jsonl", print),
    ):
        pass
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(victim.parent / "new")
    with pytest.raises(UserError, match="symbolic link"), lock(tmp_path / "out"):
        pass
    assert unharmed(victim)


@pytest.mark.parametrize("place", ["runs", "runs/sena", "questions", "figures"])
def test_a_run_does_not_begin_where_a_link_leads_out(
    tmp_path: Path, victim: Path, place: str
) -> None:
    out = tmp_path / "out"
    (out / place).parent.mkdir(parents=True)
    (out / place).symlink_to(victim.parent)
    with pytest.raises(UserError, match=f"{place} is a symbolic link that leads out"), lock(out):
        pass
    assert unharmed(victim)


def test_links_within_the_folder_and_to_it_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write_bytes(tmp_path / "disk" / "a", b"a")
    (tmp_path / "disk" / "b").symlink_to("a")
    (tmp_path / "disk" / "circle").symlink_to("circle")
    with lock(tmp_path / "out"):
        pass
    safe_files.check_links(tmp_path / "nowhere")


def test_leftovers_are_removed_and_their_links_not_followed(tmp_path: Path, victim: Path) -> None:
    out = tmp_path / "out"
    stage = Stage(out / "runs" / "sena" / "seed0" / "round1" / "pairs", {"format": 1})
    stage.open()
    write_bytes(stage.shard(0), b"{}\n")
    half, folder = safe_files.temporary(stage.shard(1)), safe_files.temporary(stage.folder)
    half.write_bytes(b"{")
    folder.mkdir()
    (folder / "inner").symlink_to(folder)
    inner = safe_files.temporary(stage.folder / "link")
    inner.symlink_to(stage.folder)
    with lock(out):
        assert stage.shard(0).read_bytes() == b"{}\n"
        left = [path for path in out.rglob("*") if safe_files.is_temporary(path)]
        assert left == []
    assert unharmed(victim)


def test_a_stage_that_is_a_link_is_cleared_without_following_it(
    tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "pairs").symlink_to(victim.parent)
    Stage(tmp_path / "pairs", {"format": 1}).clear()
    assert unharmed(victim)
