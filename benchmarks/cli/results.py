"""Commands on results that are there: compare, check, rescore, reproduce, report."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from benchmarks.cli.models import (
    BundledModel,
    PretrainedModel,
    RecipeModel,
)
from benchmarks.cli.progress import EtaLogger, progress_bars
from benchmarks.cli.resolve import (
    known_suites,
    resolve_device,
    resolve_suites,
    source_for,
    suites_with_rows,
)
from benchmarks.cli.run import require_results, show_what_follows
from benchmarks.cli.terminal import console, say
from benchmarks.core.context import Progress, RunContext
from benchmarks.core.models import Model
from benchmarks.core.suite import EMBEDDED, Suite, TestSet
from benchmarks.data.paths import (
    cache_dir,
    check_place,
    image_cache_dir,
    user_weights_dir,
)
from benchmarks.data.training import (
    TrainingSets,
    require_cgn,
)
from benchmarks.records.check import check, check_weights, summary
from benchmarks.records.compare import compare, format_run_commands
from benchmarks.records.history import check_history, check_regression, results_at_revision
from benchmarks.records.leaderboard import (
    ENOUGH_SEEDS,
    leaderboard,
    with_few_seeds,
    write_leaderboards,
)
from benchmarks.records.predictions import Run, load_runs
from benchmarks.records.published import (
    EXTRA_MODELS,
    OFFICIAL,
    compare_to_published,
    missing_runs,
    models_to_run,
    published,
)
from benchmarks.records.rescore import missing_rows
from benchmarks.records.runs import append, exclusive, read_runs
from benchmarks.records.sensitivity import write_sensitivity
from benchmarks.report.tables import (
    differences_table,
    primary_scores_table,
    published_table,
)
from benchmarks.runner import (
    load_test_set,
    predict,
    run_metadata,
)
from benchmarks.runner import run as run_models
from benchmarks.suites import OFFICIAL_SUITES, SUITES
from benchmarks.suites.protocols import check_protocols, record_fingerprint
from cgn.counterfactuals.sampling import (
    find_weights,
    sheet,
)
from cgn.io.writing import write_text
from cgn.models.cgn import CGN
from classifiers import MODELS, is_spec
from classifiers.checkpoints import (
    is_shipped,
)


def compare_models(options: argparse.Namespace) -> None:
    """Compare two models on every suite on which both have predictions, and print what differs."""
    first, second = options.models
    found = []
    for suite in resolve_suites(options.suite):
        with exclusive(options.results):
            runs = load_runs(options.results, suite, options.source, options.models)
        if all(runs):
            scores = [score for score in suite.scores if score.supports_bootstrap]
            found += [(suite, score, compare(score, runs[0], runs[1])) for score in scores]
    if not found:
        raise ValueError(
            f"{options.results} holds no {options.source} predictions of both {first} and {second} "
            f"on one suite; make them with {format_run_commands(options.models)}"
        )
    console().print(differences_table(first, second, found))


def check_results(options: argparse.Namespace) -> int:
    """Find rows that do not hold; 1 if there are any."""
    results: Path = options.results
    with exclusive(results):
        runs, suites = read_runs(results), suites_with_rows(results)
    if runs.empty:
        raise ValueError(f"{results} holds no rows to check; name a folder with --results")
    with progress_bars() as bars, exclusive(results):
        problems = found_problems(suites, options, bars)
    for problem in problems:
        say(problem)
    for few in filter(None, (with_few_seeds(runs, suite) for suite in suites)):
        say(f"of fewer than {ENOUGH_SEEDS} seeds, which is no problem yet: {', '.join(few)}")
    if options.summary:
        table = primary_scores_table(runs, SUITES.values(), "embedded")
        write_text(options.summary, summary(problems, table.to_markdown()))
    say(f"problems: {len(problems)}" if problems else "all rows hold")
    return int(bool(problems))


def found_problems(
    suites: Sequence[Suite], options: argparse.Namespace, bars: Progress
) -> list[str]:
    """Hold results against each other, the test images, the shipped weights and the past."""
    results: Path = options.results
    exams = [
        load_test_set(suite, EMBEDDED, bars, cache=image_cache_dir())
        for suite in suites
        if suite.embedded
    ]
    hashes = {exam.suite.name: exam.data_sha256 for exam in exams}
    versions = [suite.with_protocol(name) for suite in suites for name in suite.protocol_names]
    if options.pin and (added := record_fingerprint(versions, hashes)):
        say(f"written down: {', '.join(added)}")
    with bars.task("rows and predictions") as update:
        problems = check(results, known_suites(), hashes, update)
    problems += check_protocols(versions, hashes)
    try:
        problems += check_weights(
            results, reevaluated(exams, RunContext(torch.device("cpu"), results, cache_dir(), bars))
        )
    except ValueError as error:  # weights that have rows are gone, or fit no network any more
        problems.append(str(error))
    if options.against is not None:
        with (
            results_at_revision(results, options.against) as before,
            bars.task("history") as update,
        ):
            problems += check_history(before, results)
            problems += check_regression(before, results, known_suites(), update)
    return problems


def reevaluated(tests: Sequence[TestSet], context: RunContext) -> list[tuple[Run, pd.DataFrame]]:
    """Evaluate bundled classifiers again on the test sets that they have rows of."""
    runs = read_runs(context.results)
    runs = runs[runs["model"].map(is_shipped) & ~runs["model"].str.contains("/", regex=False)]
    again = []
    for test in tests:
        ours = (runs["suite"] == test.suite.name) & (runs["protocol"] == test.suite.protocol)
        for spec in dict.fromkeys(runs[ours & (runs["source"] == test.source.name)]["model"]):
            fitted = BundledModel(spec).load(test.suite)
            tables, _ = predict(test, fitted, spec, context)
            again.append((run_metadata(test, fitted, spec), tables[""]))
    return again


def rescore(options: argparse.Namespace) -> None:
    """Add the scores that rows lack, from stored predictions, and rewrite the leaderboards."""
    results: Path = options.results
    suites = resolve_suites(options.suite) if options.suite else suites_with_rows(results)
    require_results(results)
    with exclusive(results):
        with progress_bars() as bars, bars.task("scores") as update:
            rows = missing_rows(results, {suite.name: suite for suite in suites}, update)
        added = append(rows, results)
        write_leaderboards(results, suites)
        write_sensitivity(results, known_suites().values())
    show_what_follows(results, {suite.name for suite in suites})
    say(f"rows added: {added}")


def reproduce(options: argparse.Namespace) -> None:
    """Make the rows that are held against published scores, if they lack, and print both."""
    official = [OFFICIAL_SUITES.get(suite.name, suite) for suite in resolve_suites(options.suite)]
    suites = [suite for suite in official if len(published(suite))]
    if not suites:
        raise ValueError(f"nothing published is on record for {options.suite}; try mnists")
    if not options.no_run:
        run_missing(suites, options)
    for suite in suites:
        also = [name for name in EXTRA_MODELS if name in MODELS and not suite.official]
        board = leaderboard(read_runs(options.results), suite)
        console().print(published_table(suite, compare_to_published(suite, board, also)))


def run_missing(suites: Sequence[Suite], options: argparse.Namespace) -> None:
    """Fit and score what the rows lack for each suite, and say how long the rest will take."""
    sources = [source_for(suite, options) for suite in suites]
    for suite, source in zip(suites, sources, strict=True):
        if not source.name.startswith(OFFICIAL):
            raise ValueError(
                f"what was published of {suite.name} is on its official data; name their folder "
                "with --data, or print what is there with --no-run"
            )
    require_results(options.results)
    with progress_bars() as bars:
        device = resolve_device(options.device)
        context = RunContext(device, options.results, cache_dir(), bars)
        tests = [
            load_test_set(*pair, bars, cache=image_cache_dir())
            for pair in zip(suites, sources, strict=True)
        ]
        todo = [(test, *job) for test in tests for job in missing_models(test, options, context)]
        worlds = {(t.suite.world, t.source) for t, model, _ in todo if draws_from_cgn(model)}
        for world, source in worlds:  # now, and not hours later at the third suite
            require_cgn(world, source, bars)
        eta = EtaLogger(sum(len(seeds) for *_, seeds in todo), bars)
        for test, model, seed in ((test, model, s) for test, model, seeds in todo for s in seeds):
            try:
                run_models([test], [model], [seed], context)
            except ValueError as error:
                if isinstance(model, RecipeModel):
                    raise
                bars.note(f"not run: {error}")  # a network that cannot be had here
            eta.step(f"{model.name} on {test.suite.name}, seed {seed}")
        write_sensitivity(options.results, known_suites().values())


def missing_models(
    test: TestSet, options: argparse.Namespace, context: RunContext
) -> list[tuple[Model, list[int]]]:
    """List the models, and their seeds, that a published score is held against and rows lack."""
    where = test.suite, test.source_name, test.data_sha256
    runs, sets = read_runs(context.results), TrainingSets()
    if test.suite.official:
        named = dict.fromkeys(published(test.suite)["measured"])
        specs = [name for name in named if is_spec(name)]
        return [(PretrainedModel(s), [0]) for s in missing_runs(runs, *where, specs, 1).get(0, [])]
    by_seed = missing_runs(runs, *where, models_to_run(test.suite, MODELS), options.seeds)
    names = dict.fromkeys(name for names in by_seed.values() for name in names)
    return [
        (RecipeModel(MODELS[name], sets), [seed for seed in by_seed if name in by_seed[seed]])
        for name in names
    ]


def draws_from_cgn(model: Model) -> bool:
    """Whether a model is fitted to counterfactuals of a CGN."""
    kinds = set(model.recipe.trains_on) if isinstance(model, RecipeModel) else set()
    return bool(kinds & {"counterfactual", "abducted"})


def report(options: argparse.Namespace) -> None:
    """Write all results as one HTML page."""
    suites = suites_with_rows(options.results)
    out: Path = options.out or options.results / "report.html"
    if not suites:
        raise ValueError(f"{options.results} holds no rows to report; run a model first")
    check_place(out, "--out")
    with progress_bars() as bars, tempfile.TemporaryDirectory() as folder:
        images = {
            suite.name: load_test_set(suite, EMBEDDED, bars, cache=image_cache_dir()).variants
            if suite.embedded
            else {}
            for suite in suites
        }
        sheets = {}
        drawn = [each for each in suites if each.embedded]
        for world in dict.fromkeys(suite.world.name for suite in drawn):
            cgn, _ = CGN.load(find_weights(world, "", user_weights_dir(), "embedded").path)
            picture = Path(folder) / f"{world}.png"
            sheet(cgn, picture)
            sheets[world] = picture.read_bytes()
    # Half a second to import, and only the report needs it.
    from benchmarks.report.figures import correlation_sweep, correlation_sweep_rows
    from benchmarks.report.page import write_report

    write_report(out, options.results, suites, images, sheets)
    say(f"wrote {out}")
    runs = read_runs(options.results)
    models = dict.fromkeys(
        name for suite in suites for name in correlation_sweep_rows(runs, suite)["plain"]
    )
    if models:
        for page, drawn in correlation_sweep(runs, suites, list(models))._asdict().items():
            figure = out.with_name(f"correlation-{page}.svg")
            write_text(figure, drawn)
            say(f"wrote {figure}")
