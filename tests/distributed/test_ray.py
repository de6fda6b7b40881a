"""A study on a Ray cluster of two nodes, one of which dies in the middle: the same bytes as one
process."""

from __future__ import annotations

import importlib.util
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.results_folder import read_json
from harness.errors import UserError
from harness.pipeline.executors import pooled, ray_cluster
from harness.study.reference import StudyReference
from tests.distributed.studies import exact, told, write_study
from tests.running import run_study

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
        ray_cluster.cluster(StudyReference("compare"), Path("out")),
    ):
        pass
    monkeypatch.undo()
    pytest.importorskip("ray", reason="Ray is not installed")
    with (
        pytest.raises(
            UserError, match="No Ray cluster runs here; start one with: ray start --head"
        ),
        ray_cluster.cluster(StudyReference("compare"), Path("out")),
    ):
        pass


def test_a_cluster_that_loses_a_node_ends_as_one_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    study = StudyReference(str(write_study(tmp_path)))
    alone, out = tmp_path / "alone", tmp_path / "out"
    run_study(study.load(), alone)

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
        with ray_cluster.cluster(study, out) as workers:
            execute = partial(pooled.execute, workers=workers)
            run_study(study.load(), out, execute=execute)
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
