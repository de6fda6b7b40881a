"""A study's stages as steps, and what they share: the model in memory, the results folder, the
opened pools and their draws.

A model is loaded when a stage needs one and kept until another checkpoint is asked for; stages that
are done load nothing."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.interface import Benchmark
from harness.artifacts.results_folder import Results, Stage, read_jsonl
from harness.data.open_pool import open_pool
from harness.data.pool import Drawn, Pool
from harness.engine.clip_scorer import (
    ClipScorer,
    ScorerCard,
    find_scorer,
    load_scorer,
    scorer_identity,
)
from harness.engine.load import load_model
from harness.models.base_cards import find_base, parent_of
from harness.pipeline import matched_baselines, stage_identity, stages
from harness.pipeline.stage_identity import Checkpoint
from harness.pipeline.stages import Progress
from harness.pipeline.steps import Later, Step
from harness.study.study import Run, Study
from harness.training.placement import AS_FITS, Placement
from harness.training.ranks import team
from methods.controls import Control


@dataclass
class Models:
    """The one model in memory; another is loaded in its place, never beside it."""

    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    _held: Checkpoint | None = None
    _loaded: tuple[Any, Any] | None = None
    _engine: Any = None
    _scorer: tuple[ScorerCard, ClipScorer] | None = None

    def load(self, at: Checkpoint) -> tuple[Any, Any]:
        """The model and its processor."""
        if self._loaded is None or self._held != at:
            self.forget()
            self._loaded = load_model(at.card, device=self.device, weights=at.weights)
            self._held = at
        return self._loaded

    def engine(self, at: Checkpoint) -> Any:
        """The engine on that model."""
        from harness.engine.engine import Engine

        model, processor = self.load(at)
        if self._engine is None:
            self._engine = Engine(model, processor)
        return self._engine

    def trainee(self, at: Checkpoint) -> tuple[Any, Any]:
        """The model and its processor without the engine: the keys and values that it keeps, and
        the weights that it holds on to while they are spread, would take the training's memory."""
        loaded = self.load(at)
        self._engine = None
        self._give_back()
        return loaded

    def scorer(self, card: ScorerCard) -> ClipScorer:
        """The image-text model: a small one, kept beside the model until another is asked for."""
        if self._scorer is None or self._scorer[0] != card:
            self._scorer = (card, load_scorer(card, self.device))
        return self._scorer[1]

    def forget(self) -> None:
        """Let go of the model: after training it is no longer what its checkpoint says."""
        self._held = self._loaded = self._engine = None
        self._give_back()

    def _give_back(self) -> None:
        if self.device != "cpu":
            gc.collect()
            torch.cuda.empty_cache()


@dataclass
class Workshop:
    """A study's steps and what they share: the folder, the model, the opened pools and their
    draws."""

    study: Study
    results: Results
    models: Models = field(default_factory=Models)
    placement: Placement = AS_FITS
    _pools: dict[str, Pool] = field(default_factory=dict)
    _drawn: dict[tuple[str, int, int, int], Drawn] = field(default_factory=dict)
    _answers: dict[tuple[str, str, int], Stage] = field(
        default_factory=dict
    )  # of each run's last round

    def exports(self) -> list[Step]:
        """The first steps: they need no model, and the answers' identities depend on what they
        write."""
        return [self._export(benchmark) for benchmark in self.study.benchmarks]

    def runs(self) -> list[Step]:
        """Every step after the exports, run by run, so that a checkpoint is loaded once and used
        until it is done with; then what is computed from their answers without a model."""
        self._answers.clear()
        steps = [step for run in self.study.runs for step in self._run(run)]
        return steps + matched_baselines.steps(self.study, self.results, self._answers)

    def _export(self, benchmark: Benchmark) -> Step:
        identity = stage_identity.export_identity(benchmark, self.study.split, self.study.limit)
        stage = Stage(self.results.questions(benchmark.name), identity)

        def work(progress: Progress) -> None:
            stages.export(stage, benchmark, progress=progress)

        title = f"export {benchmark.name}"
        return Step(
            title=title,
            kind="export",
            name=benchmark.name,
            base=None,
            items=None,
            stage=stage,
            work=work,
        )

    def _run(self, run: Run) -> list[Step]:
        at = stage_identity.untrained(find_base(run.base))
        if not run.last:
            return self._evaluation(run, 0, at)
        found: list[Step] = []
        for round in range(1, run.last + 1):
            steps, at = self._round(run, round, at)
            found += steps + self._evaluation(run, round, at)
        return found

    def _round(self, run: Run, round: int, at: Checkpoint) -> tuple[list[Step], Checkpoint]:
        """A round's pairs and training, and the checkpoint that they lead to."""
        method, recipe, pool = run.method, run.method.recipe, self._pool(run.pool)
        assert recipe is not None  # a run without a recipe has no rounds
        pool.check(method.needs, method.name)
        # A method may name its scorer; else the base's own is taken.
        card = find_scorer(method.scorer, at.card) if "scorer" in method.needs else None
        drawn = self._draw(run, round)
        where = (run.label, run.seed, round)
        scored_by = None if card is None else scorer_identity(card)
        identity = stage_identity.pairs_identity(at, method, drawn, run.seed, round, scored_by)
        pairs = Stage(self.results.pairs(*where), identity)
        optimizer = self.placement.optimizer
        train = Stage(
            self.results.train(*where),
            stage_identity.train_identity(at, pairs.identity, recipe, run.steps, optimizer),
        )

        def make(progress: Progress) -> None:
            if isinstance(
                method, Control
            ):  # its inner method's pairs, where they are there already
                inner = stage_identity.pairs_identity(
                    at, method.inner, drawn, run.seed, round, scored_by
                )
                if (twin := self.results.finished_stage(inner)) is not None:
                    team().once(lambda: pairs.reuse_shards(twin))
            vlm: Any = Later(lambda: self.models.engine(at))
            scorer: Any = None if card is None else Later(lambda: self.models.scorer(card))
            stages.make_pairs(
                pairs,
                vlm=vlm,
                method=method,
                pool=pool,
                drawn=drawn,
                seed=run.seed,
                scorer=scorer,
                progress=progress,
            )

        def learn(progress: Progress) -> None:
            model, processor = self.models.trainee(at)
            try:
                stages.train(
                    train,
                    model=model,
                    processor=processor,
                    method=method.name,
                    lora_targets=at.card.lora_targets,
                    recipe=recipe,
                    pairs=pairs.folder,
                    pool=pool,
                    seed=run.seed,
                    steps=run.steps,
                    parent=(
                        parent_of(at.card, at.weights, train.folder / "adapter")
                        if recipe.lora
                        else None
                    ),
                    placement=self.placement,
                    progress=progress,
                )
            finally:
                self.models.forget()

        title, images = _title(run, round), len(drawn.ids)
        base = at.card.name
        visits = images * recipe.epochs if run.steps is None else run.steps * recipe.global_batch
        steps = [
            Step(
                title=f"{title}: pairs",
                kind="pairs",
                name=method.name,
                base=base,
                items=images,
                stage=pairs,
                work=make,
                inputs=at.inputs,
            ),
            Step(
                title=f"{title}: train",
                kind="train",
                name=method.name,
                base=base,
                items=visits,
                stage=train,
                work=learn,
                inputs=(pairs.folder,),
            ),
        ]
        return steps, stage_identity.trained(train, at.card)

    def _evaluation(self, run: Run, round: int, at: Checkpoint) -> list[Step]:
        return [
            step
            for benchmark in self.study.benchmarks
            for step in self._benchmark(run, round, at, benchmark)
        ]

    def _benchmark(self, run: Run, round: int, at: Checkpoint, benchmark: Benchmark) -> list[Step]:
        name, questions = benchmark.name, self.results.questions(benchmark.name)
        where = (run.label, run.seed, round, name)
        answers = Stage(
            self.results.answers(*where), stage_identity.answers_identity(at, name, questions)
        )
        grades = Stage(
            self.results.grades(*where), stage_identity.grade_identity(answers.identity, benchmark)
        )
        path = questions / "questions.jsonl"
        items = len(read_jsonl(path)) if path.exists() else None

        def reply(progress: Progress) -> None:
            vlm: Any = Later(lambda: self.models.engine(at))
            stages.answer(answers, vlm=vlm, questions=questions, progress=progress)

        def mark(_progress: Progress) -> None:
            stages.grade(grades, benchmark=benchmark, answers=answers.folder)

        title, base = _title(run, round), at.card.name
        steps = [
            Step(
                title=f"{title}: answer {name}",
                kind="answer",
                name=name,
                base=base,
                items=items,
                stage=answers,
                work=reply,
                inputs=at.inputs,
            ),
            Step(
                title=f"{title}: grade {name}",
                kind="grade",
                name=name,
                base=base,
                items=items,
                stage=grades,
                work=mark,
                inputs=(answers.folder,),
            ),
        ]
        if round != run.last:
            return steps
        self._answers[run.label, name, run.seed] = answers
        steps += matched_baselines.caps_steps(self.results, run, answers, benchmark, title)
        if run.label == self.study.baseline and any(
            benchmark in one.benchmarks for one in matched_baselines.planned(self.study)
        ):
            vlm: Any = Later(lambda: self.models.engine(at))
            steps += matched_baselines.choices_steps(
                self.results, run, answers, benchmark, title, lambda: vlm, at.inputs
            )
        return steps

    def _pool(self, spec: str) -> Pool:
        if spec not in self._pools:
            self._pools[spec] = open_pool(spec)
        return self._pools[spec]

    def _draw(self, run: Run, round: int) -> Drawn:
        """A round's images, decoded and hashed once for all runs that share them."""
        key = (run.pool, run.images, run.seed, round)
        if key not in self._drawn:
            self._drawn[key] = self._pool(run.pool).draw(run.images, run.seed, round)
        return self._drawn[key]

    def left_out(self) -> list[str]:
        """A sentence for each draw with images that cannot be read: known before any model is
        loaded."""
        found = {
            (key[0], drawn.skipped): len(drawn.ids) + len(drawn.skipped)
            for key, drawn in self._drawn.items()
        }
        return [
            f"{len(skipped)} of {count} images drawn from {pool} cannot be read and are left out,"
            f" such as {skipped[0][0]}: {skipped[0][1]}."
            for (pool, skipped), count in found.items()
            if skipped
        ]


def _title(run: Run, round: int) -> str:
    return f"{run.label}, seed {run.seed}, round {round}" if round else run.label
