"""The command line: fits classifiers, scores them on suites, keeps results, trains CGNs.

The only file that prints, and the only one that sees `cgn`, `classifiers` and `benchmarks`
together. What the commands do is not here: each line below hands over to the library.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from datetime import timedelta
from io import TextIOWrapper
from itertools import groupby
from pathlib import Path
from typing import TextIO

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from benchmarks.cli.arguments import command_line
from benchmarks.cli.errors import explained
from benchmarks.cli.progress import Clock, Progress, bar, progress_bars
from benchmarks.cli.resolve import (
    known_suites,
    model_names,
    official_variant,
    require_embedded,
    require_fitting,
    require_place_of,
    require_pretrained,
    resolve_config,
    resolve_device,
    resolve_names,
    resolve_one,
    resolve_source,
    resolve_suites,
    suites_with_rows,
    training_preset,
)
from benchmarks.cli.terminal import PlainConsole
from benchmarks.core.distributed import init_distributed
from benchmarks.core.environment import environment
from benchmarks.core.evaluate import probabilities
from benchmarks.core.sanity_checks import suspicions
from benchmarks.core.suite import EMBEDDED, DataSource, Suite, TrainingDomain, format_model_id
from benchmarks.data.download import DATA_SETS, fetch, verify
from benchmarks.data.paths import (
    cache_dir,
    check_place,
    data_folder,
    image_cache_dir,
    user_weights_dir,
)
from benchmarks.data.training import (
    add_generated_sets,
    base_sets,
    counterfactuals_of,
    own_masks,
    real_images,
    require_cgn,
    trained_cgn,
)
from benchmarks.records.check import (
    check,
    check_history,
    check_regression,
    check_weights,
    results_at_revision,
    summary,
)
from benchmarks.records.compare import compare, format_run_commands
from benchmarks.records.effective_robustness import effective_robustness
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
from benchmarks.records.runs import Row, append, exclusive, read_runs
from benchmarks.records.sensitivity import sensitivity, write_sensitivity
from benchmarks.report.readme import markdown, readme_blocks, rewritten
from benchmarks.report.tables import (
    data_table,
    differences_table,
    published_table,
    robustness_table,
    scores_table,
    sensitivity_table,
)
from benchmarks.runner import (
    FittedModel,
    RunContext,
    TestSet,
    caption,
    evaluate_and_record,
    load_test_set,
    predict,
    run_metadata,
)
from benchmarks.suites import NATURAL, OFFICIAL_SUITES, SUITES
from benchmarks.suites.backgrounds_challenge import CHALLENGE
from benchmarks.suites.official import N_OUTPUTS, places_of
from benchmarks.suites.protocols import check_protocols, record_fingerprint
from benchmarks.throughput import (
    append_speeds,
    measure_all,
    read_speeds,
    slower,
    speeds_markdown,
    speeds_table,
)
from benchmarks.worlds.rendered import training_cached
from cgn.counterfactuals.abduction import real_image_counterfactuals, segment_by_colour_cached
from cgn.counterfactuals.pictures import draw_picture, sheets
from cgn.counterfactuals.sampling import (
    SHIPPED,
    find_weights,
    sample,
    sheet,
)
from cgn.data.image_files import ImageFiles, Preprocessing, image_folder
from cgn.data.image_set import ImageSet
from cgn.data.shards import SetConfig, generate
from cgn.device.distributed import dist_info, own_device, team
from cgn.io.locks import locked
from cgn.io.text import printable
from cgn.io.writing import write_text
from cgn.models.cgn import CGN
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.cgn import ImageNetCGN
from cgn.models.imagenet.pretrained import from_biggan, load_biggan, load_imagenet_cgn, load_u2net
from cgn.quality.effectiveness import abduction_quality, accuracy, coverage_and_diversity, quality
from cgn.quality.fidelity import InceptionProbabilities, distances, fidelity, segmenter
from cgn.quality.verification import verifier_training_set
from cgn.training.imagenet import ImageNetTraining, train_imagenet
from cgn.training.imagenet_config import IMAGENET_PRESETS, ImageNetTrainConfig, without
from cgn.training.imagenet_plan import Plan, plan
from cgn.training.log import LossLog, combine_callbacks
from cgn.training.loop import seeded
from cgn.training.small import TrainConfig, train
from classifiers import MODELS
from classifiers.ensemble import EnsembleConfig, embed_in_label_space, save_ensemble
from classifiers.fit import fit, fit_cached
from classifiers.networks.backbones import Backbone
from classifiers.networks.small import InvariantEnsemble, as_ensemble, outputs
from classifiers.pretrained import Pretrained, is_spec, load
from classifiers.recipes import CHECK, FACTOR_CLASSIFIER, Recipe
from classifiers.shipped import FOLDER as CLASSIFIERS
from classifiers.shipped import (
    PREFIX,
    is_shipped,
    load_shipped,
    save_classifier,
    shipped_path,
)

HELD_OUT = 10  # each so-many-th image is set apart to measure counterfactuals, for sets are sorted
N_LESSONS = 45_000  # images that the check of counterfactuals is fitted to


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: As on the command line; None takes those of this process.

    Returns:
        The exit code: 0, 1 if results do not hold, 2 for bad input and too much work for the
        memory, 3 for a fault of this program, 130 if interrupted, 141 if nobody reads on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # which may know fewer characters than names have
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0].startswith("--") and given[0] != "--help":
        given = ["run", *given]
    options = None
    try:
        options = command_line(EnsembleConfig).parse_args(given or ["--help"])
        options.given = given
        code = COMMANDS[options.command](options) or 0
        sys.stdout.flush()
        return code
    except SystemExit:  # after the help
        raise
    except KeyboardInterrupt:
        say(f"interrupted; {after_interruption(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:  # those of Rust are no Exception
        line, code = explained(error, given, options)
        say(f"bench.py: {line}", file=sys.stderr)
        return code


def after_interruption(options: argparse.Namespace | None) -> str:
    """Tell what running a command again does; only what keeps finished work promises to go on."""
    if options is not None and options.command in GOES_ON:
        return "run the same command again to resume"
    return "nothing of it is kept: run the same command again to start anew"


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line, in which nothing is an order to the terminal."""
    print(printable(line), file=file)


def run(options: argparse.Namespace) -> None:
    """Score models on suites, keep the results, show them; several processes share the images."""
    with init_distributed():
        names_run, exams = run_all(options)
        if dist_info().is_main_process:
            for exam in exams:
                show_result(exam, names_run, options.results)
            show_what_follows(options.results, {exam.suite.name for exam in exams})


def run_all(options: argparse.Namespace) -> tuple[list[str], list[TestSet]]:
    """Score models on suites and keep the results; the models' names, and the suites."""
    suites = resolve_suites(options.suite)
    if options.textures and "wildlife-mnist" not in {suite.world.name for suite in suites}:
        raise ValueError("--textures is for wildlife-mnist, which is not among the suites")
    device = resolve_device(options.device)
    sources = [resolve_source(suite, options) for suite in suites]
    suites = [official_variant(*pair) for pair in zip(suites, sources, strict=True)]
    # On ImageNet's own images a name that is no recipe's is meant for a pretrained network.
    foreign = any(suite.decision_rule is not None for suite in suites)
    asked = model_names(options.model, lambda n: n in MODELS or is_spec(n) or is_shipped(n))
    shipped = [name for name in asked if is_shipped(name)]
    named = [name for name in asked if name not in shipped]
    specs = [n for n in named if is_spec(n) or (foreign and n not in MODELS and n != "all")]
    names = ",".join(name for name in named if name not in specs)
    recipes = resolve_names(names, MODELS, "model", {"all": list(MODELS)}) if names else []
    ours = [*(recipe.name for recipe in recipes), *shipped]
    require_fitting(ours, specs, suites)
    require_pretrained(options, ours)
    require_embedded(shipped, sources)
    protocols = [options.protocol or suite.protocol for suite in suites]
    shown = [suite.with_protocol(name) for suite, name in zip(suites, protocols, strict=True)]
    require_results(options.results)
    with progress_bars() as bars:
        place = RunContext(device, options.results, bars, options.precision)
        # All test images are read before any work starts, so that bad data costs no time.
        exams = [load_test_set(*pair, bars) for pair in zip(suites, sources, strict=True)]
        exams = [replace(e, protocol=s.protocol) for e, s in zip(exams, shown, strict=True)]
        require_masks(recipes, exams)
        specs = [name for spec in specs for name in run_pretrained(spec, exams, place)]
        for spec in shipped:
            run_shipped(spec, exams, place)
        worlds = dict.fromkeys((exam.suite.world, exam.source) for exam in exams)
        for world, source in worlds if recipes else ():
            of_world = [e for e in exams if (e.suite.world, e.source) == (world, source)]
            run_world(world, source, of_world, recipes, range(options.seeds), place)
    fitted_here = [format_model_id(recipe.name, options.correlation) for recipe in recipes]
    return [*specs, *shipped, *fitted_here], exams


def require_results(results: Path) -> None:
    """Find out before the work that rows cannot be added."""
    check_place(results / "throughput.csv", "--results")
    read_runs(results)


@contextmanager
def alone_at(out: Path) -> Iterator[None]:
    """Let no other process make the same file, or go on from the same checkpoint, in the block.

    It is waited for, but for those of `torchrun`, who would wait in vain for one another.
    """
    is_main_process, size = dist_info().is_main_process, dist_info().size
    with (
        locked(out.with_suffix(".checkpoint"), wait=size == 1) if is_main_process else nullcontext()
    ):
        yield


def run_pretrained(spec: str, exams: Sequence[TestSet], place: RunContext) -> list[str]:
    """Let a pretrained network take all exams; its names in the results."""
    with bar(place.bars, f"{spec}: weights"), dist_info().main_process_first():
        network = load(spec)
    if network.note and dist_info().is_main_process:
        place.bars.console.print(printable(network.note), markup=False, highlight=False)
    asked = {exam.suite.name: of_suite(network, exam.suite) for exam in exams}
    names = []
    for exam in exams:
        if exam.suite == CHALLENGE and not dist_info().is_main_process:
            continue  # each object's search builds on those before
        seen, shown = shown_to(asked[exam.suite.name], exam)
        name = printable(shown.spec)
        evaluate_and_record(
            seen, FittedModel(name, shown.module, network.weights_sha256, 0, ""), outputs, place
        )
        if (
            spec.startswith("file:") and dist_info().is_main_process
        ):  # nobody has looked at these weights before
            decision_rule = exam.suite.decision_rule or probabilities
            for sentence in suspicions(shown.module, seen.variants, decision_rule, place.device):
                place.bars.console.print(f"warning: {printable(sentence)}", markup=False)
        names.append(place.named(name))
    return names


def run_shipped(
    spec: str, exams: Sequence[TestSet], place: RunContext, folder: Path = CLASSIFIERS
) -> list[Row]:
    """Let the classifiers that come with the package take the exams of their worlds."""
    fits = {exam.suite.world.name: shipped_fit(spec, exam.suite, folder) for exam in exams}
    return [
        row
        for e in exams
        for row in evaluate_and_record(e, fits[e.suite.world.name], outputs, place)
    ]


def shipped_fit(spec: str, suite: Suite, folder: Path = CLASSIFIERS) -> FittedModel:
    """Read the classifier that comes with the package for the world of a suite."""
    module, weights_sha256, about = load_shipped(spec, suite.world.name, folder)
    return FittedModel(
        spec, module, weights_sha256, int(about["seed"]), str(about["generator_seed"])
    )


def of_suite(network: Pretrained, suite: Suite) -> Pretrained:
    """Let a network that knows a suite's classes by name answer as those that know all outputs.

    Raises:
        ValueError: If it knows others.
    """
    places = places_of(suite)
    if odd := [name for name in network.classes if name not in places]:
        raise ValueError(
            f"{network.spec} knows classes that {suite.name} does not, such as {odd[0]}; name the "
            "folders that it is fitted to as ImageNet's wnids or, for in9, as 00_dog to 08_fish"
        )
    if not network.classes:
        return network
    outputs_of_classes = [places[name] for name in network.classes]
    return replace(
        network, module=embed_in_label_space(network.module, outputs_of_classes, N_OUTPUTS)
    )


def shown_to(network: Pretrained, exam: TestSet) -> tuple[TestSet, Pretrained]:
    """Prepare images as the protocol or, if it leaves that to it, the network asks for."""
    view = exam.shown.view
    own = network.preprocessing if exam.suite.own_preprocessing else None
    preprocessing = view.preprocessing if view and view.preprocessing else own
    if view and view.normalisation:
        network = network.normalised_by(*view.normalisation)
    if preprocessing is not None:
        prepared = {
            name: images.prepared(preprocessing) if isinstance(images, ImageFiles) else images
            for name, images in exam.variants.items()
        }
        exam = replace(exam, variants=prepared)
    first = next(iter(exam.variants.values()), None)
    if isinstance(first, ImageFiles):
        network = network.for_images_of(first.size_px)
    return exam, network


def require_masks(recipes: Sequence[Recipe], exams: Sequence[TestSet]) -> None:
    """Refuse a recipe that sees masks on a suite that does not know them all."""
    for recipe in (each for each in recipes if each.input_kind == "masks"):
        for exam in exams:
            if missing_runs := [name for name, v in exam.variants.items() if v.masks is None]:
                raise ValueError(
                    f"{recipe.name} sees true object masks, which {exam.suite.name} does not have "
                    f"for {', '.join(missing_runs)}; leave out either"
                )


def seen_by(recipe: Recipe, sets: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
    """Show a recipe the images, or their true masks in place of them."""
    if recipe.input_kind == "images":
        return dict(sets)
    return {name: images.as_masks() for name, images in sets.items()}


def run_world(
    world: TrainingDomain,
    source: DataSource,
    exams: Sequence[TestSet],
    recipes: Sequence[Recipe],
    seeds: Iterable[int],
    place: RunContext,
) -> None:
    """Fit each recipe with each seed once, and let it take all exams of this world."""
    kinds = {kind for recipe in recipes for kind in recipe.trains_on}
    fixed = base_sets(world, source, kinds, place)
    for seed in seeds:
        sets, generators = add_generated_sets(fixed, world, source, kinds, seed, place)
        for recipe in recipes:
            fit = fitted(recipe, sets, len(world.classes), seed, generators, place)
            for exam in exams:
                seen = replace(exam, variants=seen_by(recipe, exam.variants))
                evaluate_and_record(seen, fit, outputs, place)


def fitted(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    n_classes: int,
    seed: int,
    generators: Mapping[str, int],
    place: RunContext,
) -> FittedModel:
    """Fit a recipe, or take it from the cache; `generators` has the seeds of those that drew."""
    with bar(place.bars, f"{recipe.name}: fit, seed {seed}") as update:
        module, weights_sha256 = fit_cached(
            recipe,
            seen_by(recipe, {kind: sets[kind] for kind in recipe.trains_on if kind in sets}),
            n_classes=n_classes,
            seed=seed,
            device=place.device,
            cache=cache_dir() / "classifiers",
            progress=update,
        )
    drew = {str(generators[kind]) for kind in recipe.trains_on if kind in generators}
    return FittedModel(recipe.name, module, weights_sha256, seed, " ".join(sorted(drew)))


def console() -> Console:
    """Make the console for tables; wide where nobody's terminal is the limit."""
    return PlainConsole() if sys.stdout.isatty() else PlainConsole(width=160)


def show_result(exam: TestSet, names: Sequence[str], results: Path) -> None:
    """Print the models just run as they stand in the leaderboard, a column a model."""
    board = leaderboard(read_runs(results), exam.shown)
    same = (board["source"] == exam.source_name) & (board["data_sha256"] == exam.data_sha256)
    ours = board[same & board["model"].str.split("/").str[0].isin(names)]
    console().print(scores_table(exam.shown, ours, caption(exam)))


def show_what_follows(results: Path, names: Collection[str]) -> None:
    """Print what rows say together: how far protocols move a model, and effective robustness."""
    runs = read_runs(results)
    suites = [suite for suite in known_suites().values() if suite.name in names]
    for suite in (each for each in suites if each.protocols):
        if len(table := sensitivity(runs, [suite])):
            console().print(sensitivity_table(suite, table))
    if len(table := effective_robustness(runs, known_suites(), names)):
        console().print(robustness_table(table))


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


def official_data(options: argparse.Namespace) -> int:
    """Fetch or check official data, or list it; 1 if something is off."""
    root: Path = options.folder or data_folder()
    chosen_sets = [
        one for n in options.names for one in resolve_names(n, DATA_SETS, "data set", {})
    ]
    there = {name: root / name for name in DATA_SETS if (root / name).is_dir()}
    if not options.verify:
        with progress_bars() as bars:
            for data in chosen_sets:
                with bar(bars, f"{data.name}: bytes") as update:
                    folder = fetch(data, root, offline=options.offline, progress=update)
                say(f"{data.name} is whole, in {folder}")
        if not chosen_sets:
            console().print(data_table(DATA_SETS.values(), there, root))
        return 0
    wanted = [data.name for data in chosen_sets] or list(there)
    problems = [line for name in wanted for line in verify(DATA_SETS[name], root / name)]
    for problem in problems:
        say(problem)
    say(f"problems: {len(problems)}" if problems else f"whole: {', '.join(wanted) or 'nothing'}")
    return int(bool(problems))


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
        table = markdown(results, list(SUITES.values()))
        write_text(options.summary, summary(problems, table))
    say(f"problems: {len(problems)}" if problems else "all rows hold")
    return int(bool(problems))


def found_problems(
    suites: Sequence[Suite], options: argparse.Namespace, bars: Progress
) -> list[str]:
    """Hold results against each other, the test images, the shipped weights and the past."""
    results: Path = options.results
    exams = [load_test_set(suite, EMBEDDED, bars) for suite in suites if suite.embedded]
    hashes = {exam.suite.name: exam.data_sha256 for exam in exams}
    versions = [suite.with_protocol(name) for suite in suites for name in suite.protocol_names]
    if options.pin and (added := record_fingerprint(versions, hashes)):
        say(f"written down: {', '.join(added)}")
    with bar(bars, "rows and predictions") as update:
        problems = check(results, known_suites(), hashes, update)
    problems += check_protocols(versions, hashes)
    try:
        problems += check_weights(
            results, reevaluated(exams, RunContext(torch.device("cpu"), results, bars))
        )
    except ValueError as error:  # weights that have rows are gone, or fit no network any more
        problems.append(str(error))
    if options.against is not None:
        with (
            results_at_revision(results, options.against) as before,
            bar(bars, "history") as update,
        ):
            problems += check_history(before, results)
            problems += check_regression(before, results, known_suites(), update)
    return problems


def reevaluated(exams: Sequence[TestSet], place: RunContext) -> list[tuple[Run, pd.DataFrame]]:
    """Let shipped classifiers take again the exams that they have rows of."""
    runs = read_runs(place.results)
    runs = runs[runs["model"].map(is_shipped) & ~runs["model"].str.contains("/", regex=False)]
    found = []
    for exam in exams:
        ours = (runs["suite"] == exam.suite.name) & (runs["protocol"] == exam.suite.protocol)
        for spec in dict.fromkeys(runs[ours & (runs["source"] == exam.source.name)]["model"]):
            fit = shipped_fit(spec, exam.suite)
            tables, _ = predict(exam, fit.module, outputs, spec, place)
            found.append((run_metadata(exam, fit, spec), tables[""]))
    return found


def rescore(options: argparse.Namespace) -> None:
    """Add the scores that rows lack, from stored predictions, and rewrite the leaderboards."""
    results: Path = options.results
    suites = resolve_suites(options.suite) if options.suite else suites_with_rows(results)
    require_results(results)
    with exclusive(results):
        with progress_bars() as bars, bar(bars, "scores") as update:
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
        also = [name for name in EXTRA_MODELS if name in MODELS and suite.decision_rule is None]
        board = leaderboard(read_runs(options.results), suite)
        console().print(published_table(suite, compare_to_published(suite, board, also)))


def run_missing(suites: Sequence[Suite], options: argparse.Namespace) -> None:
    """Fit and score what the rows lack for each suite, and say how long the rest will take."""
    sources = [resolve_source(suite, options) for suite in suites]
    for suite, source in zip(suites, sources, strict=True):
        if not source.name.startswith(OFFICIAL):
            raise ValueError(
                f"what was published of {suite.name} is on its official data; name their folder "
                "with --data, or print what is there with --no-run"
            )
    device = resolve_device(options.device)
    require_results(options.results)
    with progress_bars() as bars:
        place = RunContext(device, options.results, bars)
        exams = [load_test_set(*pair, bars) for pair in zip(suites, sources, strict=True)]
        for exam in (each for each in exams if each.suite.decision_rule is not None):
            run_published(exam, place)
        exams = [exam for exam in exams if exam.suite.decision_rule is None]
        runs = read_runs(options.results)
        todo = []
        for exam in exams:
            models = models_to_run(exam.suite, MODELS)
            where = exam.suite, exam.source.name, exam.data_sha256
            todo.append(missing_runs(runs, *where, models, options.seeds))
            kinds = {kind for ms in todo[-1].values() for m in ms for kind in MODELS[m].trains_on}
            if kinds & {"counterfactual", "abducted"}:
                require_cgn(exam, bars)
        clock = Clock(sum(len(models) for each in todo for models in each.values()), bars.console)
        for exam, by_seed in zip(exams, todo, strict=True):
            # Seeds that lack the same models go together, so that images are read once.
            for models, seeds in groupby(by_seed, by_seed.__getitem__):
                recipes = [MODELS[name] for name in models]
                combine_callbacks = clock.tell(exam.suite.name, seeds, len(recipes))
                run_world(exam.suite.world, exam.source, [exam], recipes, combine_callbacks, place)


def run_published(exam: TestSet, place: RunContext) -> None:
    """Score the networks that were published and are lacking, but for those that cannot be had."""
    specs = [name for name in dict.fromkeys(published(exam.suite)["measured"]) if is_spec(name)]
    where = exam.suite, exam.source_name, exam.data_sha256
    for spec in missing_runs(read_runs(place.results), *where, specs, 1).get(0, []):
        try:
            run_pretrained(spec, [exam], place)
        except ValueError as error:
            place.bars.console.print(f"not run: {error}")


def report(options: argparse.Namespace) -> None:
    """Write all results as one HTML page."""
    suites = suites_with_rows(options.results)
    out: Path = options.out or options.results / "report.html"
    if not suites:
        raise ValueError(f"{options.results} holds no rows to report; run a model first")
    check_place(out, "--out")
    with progress_bars() as bars, tempfile.TemporaryDirectory() as folder:
        images = {
            suite.name: load_test_set(suite, EMBEDDED, bars).variants if suite.embedded else {}
            for suite in suites
        }
        sheets = {}
        drawn = [each for each in suites if each.decision_rule is None and each.name not in NATURAL]
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


def show_lists(options: argparse.Namespace) -> None:
    """Print all suites and models, or make the README's tables anew."""
    if options.readme:
        blocks = readme_blocks(options.results, list(SUITES.values()), MODELS, SHIPPED)
        text = options.readme.read_text(encoding="utf-8")
        write_text(options.readme, rewritten(text, blocks))
        say(f"made anew in {options.readme}: {', '.join(blocks)}")
        return
    suites = Table("suite", "question", "protocol", "ranked by", title="Suites")
    for suite in known_suites().values():
        names = Text("\n".join(suite.protocol_names))
        suites.add_row(suite.name, suite.question, names, suite.primary)
    models = Table("model", "what it is", "trains on", "is told", "source", title="Models")
    for recipe in MODELS.values():
        on = ", ".join(recipe.trains_on)
        models.add_row(recipe.name, recipe.about, on, recipe.extra_supervision, recipe.source)
    console().print(suites, models)


def train_cgn(options: argparse.Namespace) -> None:
    """Train the CGN of a suite's world; write its weights and a sheet of samples."""
    if options.scale == "imagenet":
        return train_imagenet_cgn(options)
    suite = resolve_one(options.suite, SUITES, "suite")
    source, device = resolve_source(suite, options), resolve_device(options.device)
    world = suite.world
    config = resolve_config(training_preset(world), vars(options))
    with progress_bars() as bars:
        with bar(bars, f"{world.name}: training images"):
            images = training_cached(world, "train", source, image_cache_dir())
            train_sha256 = images.sha256()
        # The name keeps weights for official and embedded data, and those of each seed, apart.
        name = f"{world.name}-{train_sha256[:8]}-seed{config.seed}.safetensors"
        out: Path = options.out or user_weights_dir() / name
        for each in (out, out.with_suffix(".checkpoint"), out.with_suffix(".png")):
            check_place(each, "--out")
        with alone_at(out):
            scores = train_and_keep(suite, source, images, config, out, device, options, bars)
    show_quality(scores)
    say(f"wrote {out} and its sample sheet {out.with_suffix('.png')}")


def train_and_keep(
    suite: Suite,
    source: DataSource,
    images: ImageSet,
    config: TrainConfig,
    out: Path,
    device: torch.device,
    options: argparse.Namespace,
    bars: Progress,
) -> dict[str, float]:
    """Train the CGN of a suite's world, write its weights and a sheet, and return its measures."""
    world, started = suite.world, time.perf_counter()
    checkpoint = out.with_suffix(".checkpoint")
    with bar(bars, f"{world.name}: CGN") as update:
        n_classes = len(world.classes)
        cgn = train(
            images, n_classes, config, device=device, checkpoint=checkpoint, progress=update
        )
    seconds = round(time.perf_counter() - started, 1)
    scores = measured(cgn, world, source, images, config.seed, device, bars)
    origin = {
        "world": world.name,
        "classes": world.classes,
        "source": source.name,
        "correlation": source.correlation,
        "train_sha256": images.sha256(),
        "command": shlex.join(["python", "bench.py", *options.given]),
        "seconds": seconds,
        "quality": scores,
        **environment(device),
    }
    cgn.save(out, {"config": asdict(config)} | origin)
    sheet(cgn, out.with_suffix(".png"), seed=config.seed)
    checkpoint.unlink(missing_ok=True)
    return scores


def ship_classifiers(options: argparse.Namespace) -> None:
    """Fit a model on each world's embedded data, write its weights, and score these."""
    recipe = resolve_one(options.model, MODELS, "model")
    worlds = {suite.world.name: suite.world for suite in resolve_suites(options.suite)}
    place_of = resolve_device(options.device), options.results
    for name in worlds:
        check_place(shipped_path(recipe.name, name, options.out), "--out")
    require_results(options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    with progress_bars() as bars:
        for world in worlds.values():
            path = ship_classifier(recipe, world, options, RunContext(*place_of, bars))
            bars.console.print(f"wrote {path}, and its scores to {options.results}", soft_wrap=True)


def ship_classifier(
    recipe: Recipe, world: TrainingDomain, options: argparse.Namespace, place: RunContext
) -> Path:
    """Fit a model on one world's embedded data, write its weights, and score these."""
    kinds = set(recipe.trains_on)
    fixed = base_sets(world, EMBEDDED, kinds, place)
    sets, generators = add_generated_sets(fixed, world, EMBEDDED, kinds, 0, place)
    fit = fitted(recipe, sets, len(world.classes), 0, generators, place)
    path = shipped_path(recipe.name, world.name, options.out)
    about = {
        "recipe": recipe.name,
        "world": world.name,
        "classes": world.classes,
        "n_classes": len(world.classes),
        "image_size_px": world.image_size_px,
        "seed": fit.seed,
        "generator_seed": fit.generator_seed,
        "train_sha256": {name: sets[name].sha256() for name in recipe.trains_on},
        "command": shlex.join(["python", "bench.py", *options.given]),
        **environment(place.device),
    }
    save_classifier(path, fit.module, about)
    exams = [
        load_test_set(suite, EMBEDDED, place.bars)
        for suite in known_suites().values()
        if suite.world.name == world.name and suite.embedded
    ]
    # The weights are scored as they are in the file, in half precision.
    spec = f"{PREFIX}{recipe.name}"
    keys = {exam.suite.name: exam.suite.primary for exam in exams}
    rows = [row for row in run_shipped(spec, exams, place, options.out) if row.model == spec]
    primary = [row for row in rows if f"{row.variant}_{row.metric}" == keys[row.suite]]
    quality = {row.suite: row.value for row in primary}
    save_classifier(path, fit.module, about | {"quality": quality})
    return path


def fit_ensemble(options: argparse.Namespace) -> None:
    """Fit the ensemble to images of the user's own, in one process or many; write its weights."""
    names = {field.name for field in fields(EnsembleConfig)}
    config = EnsembleConfig(**{n: value for n, value in vars(options).items() if n in names})
    out: Path = options.out
    for each in (out, out.with_suffix(".checkpoint")):
        check_place(each, "--out")
    device = resolve_device(options.device)
    Backbone(config.backbone).require_size(options.size)
    with team(device), progress_bars() as bars, alone_at(out):
        images, classes = real_images(options)
        sets = {"biased": images}
        masks = own_masks(options, images, len(classes)) if options.masks else None
        if masks is not None and dist_info().is_main_process:
            empty = int((~masks.flatten(1).any(dim=1)).sum())
            bars.console.print(f"masks: {empty:,} of {len(masks):,} are empty")
        if not options.real_only:
            with bar(bars, "counterfactuals") as update, dist_info().main_process_first():
                sets["recombined"] = counterfactuals_of(
                    options, images, masks, len(classes), config.seed, update
                )
        command = shlex.join(["python", "bench.py", *options.given])
        origin = {"config": asdict(config), "command": command, **environment(device)}

        def keep(network: nn.Module) -> None:
            save_ensemble(network, classes, options.size, out, origin)

        with bar(bars, f"{config.backbone}: fit") as update:
            fit(
                config.recipe(real_only=options.real_only),
                sets,
                n_classes=len(classes),
                seed=config.seed,
                device=device,
                progress=update,
                checkpoint=out.with_suffix(".checkpoint"),
                keep=keep,
            )
        if dist_info().is_main_process:
            say(f"wrote {out}; score it with --model ensemble:{out}")


def train_imagenet_cgn(options: argparse.Namespace) -> None:
    """Train the ImageNet CGN, alone or with the other processes of `torchrun`."""
    if options.suite != "in9" or options.u2net is None:
        raise ValueError(
            "--scale imagenet is for --suite in9 and starts from published weights: name U²-Net's "
            "u2net.pth with --u2net; docs/imagenet.md says where to get it"
        )
    config = resolve_config(IMAGENET_PRESETS[options.preset], vars(options))
    config = without(config, options.without) if options.without else config
    ablation = f"-without-{options.without}" if options.without else ""
    name = f"imagenet-{options.preset}{ablation}-seed{config.seed}.safetensors"
    out: Path = options.out or user_weights_dir() / name
    for each in (out, out.with_suffix(".checkpoint"), out.with_suffix(".csv")):
        check_place(each, "--out")
    device = own_device(resolve_device(options.device))
    with team(device) as of, progress_bars() as bars, alone_at(out):
        with bar(bars, "weights"), seeded(config.seed):
            real = load_biggan([options.biggan] if options.biggan else None)
            cgn = from_biggan(real, load_u2net(options.u2net))
            real = real.folded(config.dtype)
            features = VGGFeatures(None if options.vgg == "random" else options.vgg)
        if options.dry_run:
            run = ImageNetTraining(cgn, real, features, config, device, of)
            needs = plan(run, torch.Generator().manual_seed(config.seed))
            if of.is_main_process:
                show_plan(needs, config.steps, config.images_per_step)
            return
        started = time.perf_counter()
        with bar(bars, "CGN of ImageNet") as update:
            cgn = train_imagenet(
                cgn,
                real,
                features,
                config,
                device=device,
                team=of,
                checkpoint=out.with_suffix(".checkpoint"),
                progress=combine_callbacks(
                    update, LossLog(out.with_suffix(".csv")) if of.is_main_process else None
                ),
                at_checkpoint=sheets(out.with_suffix("")),
            )
        if of.is_main_process:
            keep_imagenet(cgn, config, out, options, time.perf_counter() - started, device)


def keep_imagenet(
    cgn: ImageNetCGN,
    config: ImageNetTrainConfig,
    out: Path,
    options: argparse.Namespace,
    seconds: float,
    device: torch.device,
) -> None:
    """Write the weights with their origin; the checkpoint is not needed any more."""
    origin = {
        "command": shlex.join(["python", "bench.py", *options.given]),
        "seconds": round(seconds, 1),
        **environment(device),
    }
    cgn.save(out, {"config": asdict(config)} | origin)
    out.with_suffix(".checkpoint").unlink(missing_ok=True)
    losses, folder = out.with_suffix(".csv"), out.with_suffix("")
    say(f"wrote {out}, its losses {losses} and sheets {folder}")


def show_plan(needs: Plan, steps: int, images_per_step: int) -> None:
    """Print what a run will need."""
    for name, value in {
        "parameters": f"{needs.parameters:,}, of which {needs.learning:,} learn",
        "memory": f"{needs.fixed_bytes / 1e9:.2f} GB for weights, gradients, their means and the "
        f"optimiser; {needs.peak_bytes / 1e9:.2f} GB at most so far, in this process",
        "steps": f"{steps:,} of {images_per_step:,} images",
        "a pass": f"{needs.seconds_a_pass:.3f} s for {needs.at_once} images at once; an update "
        f"{needs.seconds_an_update:.3f} s",
        "time left": str(timedelta(seconds=round(needs.seconds_left))),
    }.items():
        say(f"{name:12} {value}")


def draw_counterfactuals(options: argparse.Namespace) -> None:
    """Draw a set of counterfactuals from the ImageNet CGN, or a picture of some."""
    device = own_device(resolve_device(options.device))
    require_place_of(options)
    cgn = load_imagenet_cgn(options.weights)
    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    names = {field.name for field in fields(SetConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    if options.combine or options.interpolate:
        config = SetConfig(**{"n": 1} | given)
        fast = cgn.for_sampling(dtype).to(device)
        way = {"interpolate": options.interpolate, "to": options.to}
        draw_picture(fast, config, options.out, combine=options.combine, **way)
        say(f"wrote {options.out}")
        return
    config = SetConfig(**given)
    batch_size = options.batch_size or (32 if device.type == "cuda" else 1)
    with team(device) as of, progress_bars() as bars, bar(bars, "shards") as update:
        generate(
            cgn,
            config,
            options.out,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            team=of,
            progress=update,
        )
        if of.is_main_process:
            say(f"wrote {config.n:,} counterfactuals in {config.n_shards} files to {options.out}")


def measure_imagenet(options: argparse.Namespace) -> dict[str, float]:
    """Measure how much the images of an ImageNet CGN look real, and its masks."""
    if options.weights is None:
        raise ValueError("--scale imagenet measures a file: name it with --weights")
    device, seed = resolve_device(options.device), options.seed
    cgn = load_imagenet_cgn(options.weights).for_sampling(truncation=options.truncation)
    size_px = cgn.config.image_size_px
    batch_size = options.batch_size
    with progress_bars() as bars:
        with bar(bars, "networks that judge"):
            inception = InceptionProbabilities().to(device)
            segment = None if options.no_segmenter else segmenter()
        with bar(bars, "images") as update:
            images = sample(
                cgn,
                options.n,
                seed=seed,
                aligned=True,
                batch_size=batch_size,
                device=device,
                progress=update,
            )
        with bar(bars, "quality"):
            scores = fidelity(images, inception, segment, batch_size=batch_size, device=device)
            if options.real is None:
                return scores
            real, _ = image_folder(options.real, Preprocessing(size_px, size_px))
            batches = ((x for x, _ in each.batches(batch_size)) for each in (images, real))
            return scores | distances(*batches, seed=seed, device=device)


def measured(
    cgn: CGN,
    world: TrainingDomain,
    source: DataSource,
    images: ImageSet,
    seed: int,
    device: torch.device,
    bars: Progress,
) -> dict[str, float]:
    """Measure a CGN's samples, and its counterfactuals of the world's training images."""
    unbiased = training_cached(world, "unbiased", source, image_cache_dir())
    # Digits have the same places in both sets: nobody who judges has seen those that are measured.
    true, real = (torch.arange(len(each)) % HELD_OUT == HELD_OUT - 1 for each in (unbiased, images))
    with bar(bars, f"{world.name}: objects"):
        masks = segment_by_colour_cached(images, cache_dir() / "counterfactuals", device=device)
    others = images.select(~real), masks[~real]
    with bar(bars, f"{world.name}: images for the check") as update:
        learned = verifier_training_set(
            cgn, *others, N_LESSONS, seed=seed, device=device, progress=update
        )
    judge = factor_classifier(FACTOR_CLASSIFIER, unbiased.select(~true), world, device, bars)
    check = factor_classifier(CHECK, learned, world, device, bars)
    judge, check = judge.to(device), check.to(device)
    judges = judge.heads, check.heads
    with bar(bars, f"{world.name}: quality"):
        truth = unbiased.select(true)
        scores = accuracy(truth, judge.heads, device=device)
        known = images.factors.known
        scores |= quality(cgn, *judges, factors=known, seed=seed, device=device)
        drawn = sample(cgn, len(truth), seed=seed, device=device)
        scores |= coverage_and_diversity(drawn, truth, judge.backbone, device=device)
        if images.masks is None:
            return scores
        # The true counterfactuals are those of images that all follow their class.
        ways = world.true_counterfactuals(source) if source.correlation == 1 else {}
        true_counterfactuals = {action: each.select(real) for action, each in ways.items()}
        part = images.select(real), masks[real]
        abducted = abduction_quality(
            cgn, judge.heads, *part, true_counterfactuals, check.heads, seed=seed, device=device
        )
        made = real_image_counterfactuals(cgn, *part, len(truth), seed=seed, device=device)
        abducted |= coverage_and_diversity(made, truth, judge.backbone, device=device)
    return scores | {f"abducted_{name}": score for name, score in abducted.items()}


def factor_classifier(
    recipe: Recipe, images: ImageSet, world: TrainingDomain, device: torch.device, bars: Progress
) -> InvariantEnsemble:
    """Fit a network that names each factor, or take it from the cache."""
    with bar(bars, f"{world.name}: {recipe.name} of the counterfactuals") as update:
        network, _ = fit_cached(
            recipe,
            dict.fromkeys(recipe.trains_on, images),
            n_classes=len(world.classes),
            seed=0,
            device=device,
            cache=cache_dir() / "classifiers",
            progress=update,
        )
    return as_ensemble(network)


def show_quality(scores: Mapping[str, float]) -> None:
    """Print the measures of a CGN."""
    for name, score in scores.items():
        say(f"{name:38} {score:7.4f}")


def measure_cgn(options: argparse.Namespace) -> None:
    """Print how good the counterfactuals of a world's CGN are."""
    if options.scale == "imagenet":
        show_quality(measure_imagenet(options))
        return
    suite = resolve_one(options.suite, SUITES, "suite")
    source, device = resolve_source(suite, options), resolve_device(options.device)
    world = suite.world
    with progress_bars() as bars:
        with bar(bars, f"{world.name}: training images"):
            images = training_cached(world, "train", source, image_cache_dir())
        weights = options.weights or trained_cgn(world, source, images, options.seed).path
        cgn, _ = CGN.load(weights)
        scores = measured(cgn, world, source, images, options.seed, device, bars)
    show_quality(scores)


def measure_throughput(options: argparse.Namespace) -> int:
    """Measure speeds, keep and print them; 1 if one failed or is slower than it was."""
    results: Path = options.results
    before = read_speeds(results)
    if options.table:
        if before.empty:
            raise ValueError(f"{results} holds no speeds; measure some without --table")
        for line in speeds_markdown(before).splitlines():
            say(line)
        return 0
    device = resolve_device(options.device)
    check_place(results / "throughput.csv", "--results")
    measured = measure_all(device, options.only, options.seconds, quick=options.quick)
    if measured.speeds and not options.quick:
        append_speeds(measured.speeds, results)
    if measured.speeds:
        console().print(speeds_table(measured.speeds, measured.speeds[0].card))
    problems = [f"failed: {line}" for line in measured.failed]
    if options.compare_fail is not None and not options.quick:
        lines = slower(before, measured.speeds, options.compare_fail)
        problems += [f"slower: {line}" for line in lines]
    for problem in problems:
        say(problem)
    if measured.skipped or measured.cut:
        ended = " and one was cut short" if measured.cut else ""
        say(f"after {options.seconds} s: {measured.skipped} benchmarks were left out{ended}")
    return int(bool(problems))


# Those that keep what they have finished.
GOES_ON = {"run", "reproduce", "data", "train cgn", "train classifier", "fit", "counterfactuals"}
COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": run,
    "list": show_lists,
    "data": official_data,
    "check": check_results,
    "rescore": rescore,
    "reproduce": reproduce,
    "report": report,
    "compare": compare_models,
    "train cgn": train_cgn,
    "train classifier": ship_classifiers,
    "fit": fit_ensemble,
    "quality": measure_cgn,
    "throughput": measure_throughput,
    "counterfactuals": draw_counterfactuals,
}
