"""A study on a Ray cluster of two nodes, one of which dies in the middle: the same bytes as one
process."""

from __future__ import annotations

import argparse
import importlib.util
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.results_folder import Stage, read_json
from harness.cli import launch
from harness.cli import main as cli
from harness.errors import UserError
from harness.pipeline import on_ray, runner
from harness.pipeline.progress import Display
from harness.pipeline.steps import Step
from tests.distributed.studies import exact, told, write_study

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own


def test_without_ray_or_a_cluster_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ray" else found(name, *rest),
    )
    with (
        pytest.raises(UserError, match="Ray, which is not installed: pip install ray"),
        on_ray.cluster(),
    ):
        pass
    monkeypatch.undo()
    pytest.importorskip("ray", reason="Ray is not installed")
    with (
        pytest.raises(
            UserError, match="No Ray cluster runs here; start one with: ray start --head"
        ),
        on_ray.cluster(),
    ):
        pass


def test_a_stage_is_counted_in_shards_of_its_own_size(tmp_path: Path) -> None:
    def step(kind: str, items: float | None) -> Step:
        stage = Stage(tmp_path, {})
        return Step(
            title=kind,
            kind=kind,
            name="a",
            base=None,
            items=items,
            stage=stage,
            work=lambda _progress: None,
        )

    assert [on_ray.shards(step("pairs", items)) for items in (None, 64, 65)] == [1, 1, 2]
    assert [on_ray.shards(step("answer", items)) for items in (256, 9000)] == [1, 36]


def test_a_cluster_that_loses_a_node_ends_as_one_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    study = write_study(tmp_path)
    alone, out = tmp_path / "alone", tmp_path / "out"
    arguments = ["run", str(study), "--on", "ray", "--log-to", "none"]
    given = cli.parser().parse_args(arguments)
    runner.run(cli.load(given), alone, Display(io.StringIO()))

    monkeypatch.setenv("SLOW", "1.5")  # so that the node dies in the middle of a stage
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "SLOW": "1.5"}},
    )
    shards = out / "runs" / "toy" / "seed0" / "round1" / "pairs" / "shards"
    seen: list[int] = []

    def kill() -> None:
        while not (there := list(shards.glob("*.jsonl"))):
            time.sleep(0.05)
        seen.append(len(there))
        cluster.remove_node(nodes[1], allow_graceful=False)

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    try:
        assert launch.run(cli.load(given), out, argparse.Namespace(**vars(given)), arguments)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert seen
    assert seen[0] < 4  # the stage was not done when the node went
    assert exact(out) == exact(alone)
    assert told(out) == told(alone)
    for path in sorted(alone.rglob("*")):
        if (
            path.name in ("pairs.jsonl", "answers.jsonl", "grades.parquet")
            or path.suffix == ".safetensors"
        ):
            assert (out / path.relative_to(alone)).read_bytes() == path.read_bytes(), path
    assert read_json(out / "runs/toy/seed0/round2/train/record.json")["training"]["processes"] == 1
