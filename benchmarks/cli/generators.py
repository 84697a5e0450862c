"""Measures generators of counterfactuals, and holds them against copy and paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.arguments import (
    RESULTS,
    Device,
    Results,
    TrainingData,
    find_one,
    resolve_device,
    split_names,
)
from benchmarks.cli.models import RecipeModel
from benchmarks.cli.output import Output
from benchmarks.cli.quality import N_MEASURED, Evaluation, generator_quality, load_evaluation
from benchmarks.cli.run import require_results
from benchmarks.core.context import RunContext
from benchmarks.core.environment import environment
from benchmarks.core.suite import DataSource, Suite, TestSet, TrainingDomain
from benchmarks.data.generators import GENERATED_SETS, GENERATORS
from benchmarks.data.paths import cache_dir, image_cache_dir
from benchmarks.data.training import TrainingSets
from benchmarks.data.user_generators import load_user_generator
from benchmarks.generator_track import PROTOCOL, TrackRow, append_track, read_track
from benchmarks.report.generators import track_tables
from benchmarks.runner import load_test_set
from benchmarks.runner import run as run_models
from benchmarks.suites import ALL_SUITES
from classifiers import MODELS
from classifiers.recipes import Recipe

RIVALS = ("paste", "paste:true-masks", "cgn", "cgn-end-to-end", "cgn-released", "gan")
KINDS = {generator: kind for kind, generator in GENERATED_SETS.items()}  # of training sets


def measure_generators(
    *,
    world: Annotated[str, Parameter(metavar="NAME")],
    generator: Annotated[str | None, Parameter(metavar="NAME[,NAME]")] = None,
    seeds: int = 3,
    data: TrainingData = TrainingData(),
    device: Device = "auto",
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Measure generators of a world's images, fit a classifier to each, and compare with paste.

    Args:
        world: The training domain, as wildlife-mnist or openmoji-9.
        generator: Generators: paste, paste:true-masks, cgn, cgn-abduct, cgn-end-to-end,
            cgn-released, gan, or your own as path/to/file.py:NAME; without it all of these that
            there are weights of.
        seeds: How many seeds: 0 to N-1, each with a generator and a classifier of its own.
    """
    suites = suites_of(world)
    domain, source = suites[0].world, data.source(suites[0])
    suites = [suite for suite in suites if suite.embedded or source.folder is not None]
    require_results(results)
    with output.progress() as progress:
        context = RunContext(resolve_device(device), results, cache_dir(), progress)
        sets = TrainingSets()
        names = split_names(generator) if generator else available(domain, source, sets, context)
        for name in names:  # what there is not is refused before any work
            if name not in GENERATORS:
                load_user_generator(name, GENERATORS)
        biased = sets.generation(domain, source, 0, context).biased
        evaluation = load_evaluation(domain, source, biased, context.device, progress)
        tests = [
            load_test_set(suite, source, progress, cache=image_cache_dir()) for suite in suites
        ]
        track = Track(domain, source, sets, evaluation, tests, context)
        for name in names:
            rows = [row for seed in range(seeds) for row in track.measure(name, seed)]
            append_track(rows, results)
            trained = {row.generator_seed for row in rows}
            if len(trained) < seeds and trained != {""}:
                progress.note(f"{name}: {len(trained)} of {seeds} seeds have weights of their own")
    kept = read_track(results)
    here = (kept["world"] == domain.name) & (kept["source"] == source.name)
    output.tables(*track_tables(kept[here]))


def suites_of(world: str) -> list[Suite]:
    """Return the suites that score classifiers of a world's classes.

    Raises:
        ValueError: If there is no such world, or its factors are never independent.
    """
    own = [suite for suite in ALL_SUITES.values() if not suite.official]
    domain = find_one(world, {suite.world.name: suite.world for suite in own}, "world")
    if domain.masks_are_predicted:
        raise ValueError(
            f"generators are measured with true images of independent factors, which {world} does "
            "not have"
        )
    # Attribution asks what moves a classifier, not how good it is.
    return [s for s in own if s.world.name == domain.name and s.reference_variant is None]


def available(
    world: TrainingDomain, source: DataSource, sets: TrainingSets, context: RunContext
) -> list[str]:
    """Name the rivals that there are weights of for a world, and note the others."""
    names = []
    for name in RIVALS:
        try:
            sets.generation(world, source, 0, context).generator_seed(name)
        except ValueError as error:
            context.progress.note(f"{name} is left out: {error}")
        else:
            names.append(name)
    return names


def recipe_of(generator: str) -> Recipe:
    """Return the recipe that is fitted to a generator's images.

    Example:
        >>> recipe_of("paste").trains_on, recipe_of("my/vae.py:VAE").name
        (('pasted',), 'vae.py:VAE')
    """
    if generator in MODELS:
        return MODELS[generator]
    name = display_name(generator)
    about = f"one network trained on images of {name} and nothing else"
    own = replace(MODELS["cgn"], name=name, about=about, source="", selected_on="")
    return replace(own, trains_on=(generator,))


def display_name(generator: str) -> str:
    """Name a generator in results: a user's by its file, without the folder."""
    return generator if generator in GENERATORS else Path(generator).name


@dataclass(frozen=True)
class Track:
    """A world in which generators are measured.

    Attributes:
        world: The training domain.
        source: Where its images come from.
        sets: Training sets and generators.
        evaluation: What counterfactuals are held against.
        tests: Test sets of classifiers.
        context: Where it runs.
    """

    world: TrainingDomain
    source: DataSource
    sets: TrainingSets
    evaluation: Evaluation
    tests: Sequence[TestSet]
    context: RunContext

    def measure(self, name: str, seed: int) -> list[TrackRow]:
        """Measure a generator with one seed, and a classifier that is fitted to its images."""
        kind, entry = KINDS.get(name, name), GENERATORS.get(name)
        drawn, seeds = self.sets.load(self.world, self.source, {kind}, seed, self.context)
        generator = self.sets.generation(self.world, self.source, seed, self.context)
        with self.context.progress.task(f"{self.world.name}: quality of {name}, seed {seed}"):
            scores = generator_quality(
                generator.generator(name),
                drawn[kind],
                self.evaluation,
                n_classes=len(self.world.classes),
                uses_true_masks=entry is not None and entry.uses_true_masks,
                seed=seed,
                device=self.context.device,
            )
        common = {
            "world": self.world.name,
            "source": self.source.name,
            "generator": display_name(name),
            "seed": seed,
            "generator_seed": str(seeds.get(kind, "")),
            **environment(self.context.device),
        }
        own = self._quality_rows(scores, common, drawn["biased"].sha256())
        return own + self._accuracy_rows(name, seed, common)

    def _quality_rows(
        self, scores: Mapping[str, float], common: Mapping[str, object], data_sha256: str
    ) -> list[TrackRow]:
        """Make the rows of what was measured on the images."""
        n_truth = len(self.evaluation.truth)
        numbers = {"coverage": n_truth, "diversity": n_truth}
        sampled = ("_effectiveness", "_leakage", "mask_area", "mask_area_sd")
        rows = []
        for measure, value in scores.items():
            plain = measure.removeprefix("abducted_")
            n = N_MEASURED if plain.endswith(sampled) else len(self.evaluation.images)
            rows.append(
                TrackRow(
                    **common,  # type: ignore[arg-type]
                    protocol=PROTOCOL,
                    data_sha256=data_sha256,
                    measure=measure,
                    value=value,
                    n=numbers.get(plain, n),
                )
            )
        return rows

    def _accuracy_rows(self, name: str, seed: int, common: Mapping[str, object]) -> list[TrackRow]:
        """Fit a classifier, score it as every model, and take its primary scores over."""
        model = RecipeModel(recipe_of(name), self.sets)
        primary = {test.suite.name: test.suite.primary for test in self.tests}
        return [
            TrackRow(
                **common,  # type: ignore[arg-type]
                protocol=row.protocol,
                data_sha256=row.data_sha256,
                measure=f"{row.suite} {row.variant}_{row.metric}",
                value=row.value,
                n=row.n,
            )
            for row in run_models(self.tests, [model], [seed], self.context)
            if "/" not in row.model and f"{row.variant}_{row.metric}" == primary[row.suite]
        ]
