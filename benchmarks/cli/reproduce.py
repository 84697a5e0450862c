"""Compares published scores with ours, after running what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cli.arguments import RESULTS, Data, Device, Results, Suites, resolve_device
from benchmarks.cli.models import PretrainedModel, RecipeModel
from benchmarks.cli.output import EtaLogger, Output
from benchmarks.cli.run import require_results
from benchmarks.core.context import RunContext
from benchmarks.core.models import Model
from benchmarks.core.suite import DataSource, Suite, TestSet
from benchmarks.data.generators import require_cgn
from benchmarks.data.paths import cache_dir, image_cache_dir
from benchmarks.data.training import TrainingSets
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.published import (
    EXTRA_MODELS,
    OFFICIAL,
    compare_to_published,
    missing_runs,
    models_to_run,
    published,
)
from benchmarks.records.runs import read_runs
from benchmarks.records.sensitivity import write_sensitivity
from benchmarks.report.tables import published_table
from benchmarks.runner import load_test_set
from benchmarks.runner import run as run_models
from benchmarks.suites import ALL_SUITES, OFFICIAL_SUITES
from classifiers import MODELS, is_spec


def reproduce(
    suite: Suites,
    /,
    *,
    seeds: int = 10,
    quick: bool = False,
    no_run: bool = False,
    data: Data = Data(),
    device: Device = "auto",
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Run what is missing of the published models, and print both scores.

    Args:
        suite: Suites or groups of suites, such as mnists.
        seeds: How many seeds each model is fitted with: 0 to N-1.
        quick: Two seeds, for a first look.
        no_run: Only print what is there.
    """
    official = [OFFICIAL_SUITES.get(each.name, each) for each in suite]
    suites = [each for each in official if len(published(each))]
    if not suites:
        names = ", ".join(each.name for each in suite)
        raise ValueError(f"nothing published is on record for {names}; try mnists")
    if not no_run:
        sources = [data.source(each) for each in suites]
        run_missing(suites, sources, 2 if quick else seeds, resolve_device(device), results, output)
    for each in suites:
        also = [name for name in EXTRA_MODELS if name in MODELS and not each.official]
        board = leaderboard(read_runs(results, [each.name]), each, results)
        output.tables(published_table(each, compare_to_published(each, board, also)))


def run_missing(
    suites: Sequence[Suite],
    sources: Sequence[DataSource],
    n_seeds: int,
    device: torch.device,
    results: Path,
    output: Output,
) -> None:
    """Run what the rows lack for each suite, and say how long the rest will take."""
    for suite, source in zip(suites, sources, strict=True):
        if not source.name.startswith(OFFICIAL):
            raise ValueError(
                f"what was published of {suite.name} is on its official data; name their folder "
                "with `data`, or print what is there with `no_run`"
            )
    require_results(results)
    with output.progress() as progress:
        context = RunContext(device, results, cache_dir(), progress)
        tests = [
            load_test_set(*pair, progress, cache=image_cache_dir())
            for pair in zip(suites, sources, strict=True)
        ]
        todo = [(test, *job) for test in tests for job in missing_models(test, n_seeds, context)]
        worlds = {(t.suite.world, t.source) for t, model, _ in todo if draws_from_cgn(model)}
        for world, source in worlds:  # now, and not hours later at the third suite
            require_cgn(world, source, progress)
        eta = EtaLogger(sum(len(seeds) for *_, seeds in todo), progress)
        for test, model, seed in ((test, model, s) for test, model, seeds in todo for s in seeds):
            try:
                run_models([test], [model], [seed], context)
            except ValueError as error:
                if isinstance(model, RecipeModel):
                    raise
                progress.note(f"not run: {error}")  # a network that cannot be had here
            eta.step(f"{model.name} on {test.suite.name}, seed {seed}")
        write_sensitivity(results, ALL_SUITES.values())


def missing_models(
    test: TestSet, n_seeds: int, context: RunContext
) -> list[tuple[Model, list[int]]]:
    """List the models, and their seeds, that a published score is held against and rows lack."""
    where = test.suite, test.source_name, test.data_sha256
    runs, sets = read_runs(context.results), TrainingSets()
    if test.suite.official:
        named = dict.fromkeys(published(test.suite)["measured"])
        specs = [name for name in named if is_spec(name)]
        return [(PretrainedModel(s), [0]) for s in missing_runs(runs, *where, specs, 1).get(0, [])]
    by_seed = missing_runs(runs, *where, models_to_run(test.suite, MODELS), n_seeds)
    names = dict.fromkeys(name for names in by_seed.values() for name in names)
    return [
        (RecipeModel(MODELS[name], sets), [seed for seed in by_seed if name in by_seed[seed]])
        for name in names
    ]


def draws_from_cgn(model: Model) -> bool:
    """Whether a model is fitted to counterfactuals of a CGN."""
    kinds = set(model.recipe.trains_on) if isinstance(model, RecipeModel) else set()
    return bool(kinds & {"counterfactual", "abducted"})
