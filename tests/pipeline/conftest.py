"""Fixtures of the runner tests: a tiny base, a pool of images, small shards, a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.models.base_cards import BASES, BaseCard
from harness.pipeline import tasks
from tests.pipeline.toy_study import a_study, do
from tests.toy_method import save_base, save_pictures


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> BaseCard:
    return save_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def small(card: BaseCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "tiny", card)
    monkeypatch.setattr(tasks, "ITEMS_A_SHARD", 3)
    monkeypatch.setattr(tasks, "QUESTIONS_A_SHARD", 4)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pictures(tmp_path_factory.mktemp("pool"), 16))


@pytest.fixture(scope="session")
def undisturbed(card: BaseCard, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "tiny", card)
        patch.setattr(tasks, "ITEMS_A_SHARD", 3)
        patch.setattr(tasks, "QUESTIONS_A_SHARD", 4)
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        do(a_study(pool, rounds=2), out)
    return out  # nothing stays patched for the tests of other files
