"""Scores models on suites, and shows the result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.cli.arguments import RESULTS, Device, Results, Suites, TrainingData, resolve_device
from benchmarks.cli.models import resolve_models
from benchmarks.cli.output import Output
from benchmarks.core.context import RunContext
from benchmarks.core.suite import TestSet
from benchmarks.data.paths import cache_dir, check_place, image_cache_dir, official_folder
from benchmarks.records.effective_robustness import CLEAN, effective_robustness, fits
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.runs import FILE, append, read_runs
from benchmarks.records.sensitivity import sensitivity, write_sensitivity
from benchmarks.report.tables import robustness_table, scores_table, sensitivity_table
from benchmarks.runner import load_test_set
from benchmarks.runner import run as run_models
from benchmarks.suites import ALL_SUITES, official_variant
from cgn.device.distributed import dist_info, init_distributed
from cgn.device.precision import PRECISIONS

Precision = Annotated[str, Parameter(choices=tuple(PRECISIONS))]
Models = Annotated[str, Parameter(metavar="NAME[,NAME]")]


def run(
    *,
    suite: Suites,
    model: Models,
    seeds: int = 1,
    protocol: str | None = None,
    data: TrainingData = TrainingData(),
    device: Device = "auto",
    precision: Precision = "float32",
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Score models on suites, keep the results, and show them.

    Several processes of `torchrun` share the images.

    Args:
        suite: Suites, or groups of them: all, mnists, t10k, attributions, natural.
        model: Models, or all; shipped:NAME takes weights of the package, timm:NAME.TAG,
            tv:NAME@WEIGHTS, file:PATH#arch=NAME and ensemble:PATH take other networks.
        seeds: How many seeds each model is fitted with: 0 to N-1.
        protocol: How an official suite is shown and scored, as in9@resize256-v1; without it as
            the suite's first protocol says.
        precision: Of pretrained networks; rows of another are named MODEL+bfloat16.
    """
    with init_distributed():
        if data.textures and not any(each.world.takes_textures for each in suite):
            raise ValueError("`textures` is for wildlife-mnist, which is not among the suites")
        sources = [data.source(each) for each in suite]
        suites = [official_variant(*pair) for pair in zip(suite, sources, strict=True)]
        models = resolve_models(model, suites)
        require_results(results)
        with output.progress() as progress:
            context = RunContext(resolve_device(device), results, cache_dir(), progress, precision)
            pairs = list(zip(suites, sources, strict=True))
            for each in models:  # what needs no images is refused before they are read
                each.require([TestSet(*pair, {}, "", pair[0].protocol) for pair in pairs], context)
            # All test images are read before any work starts, so that bad data costs no time.
            tests = [
                load_test_set(*pair, progress, protocol, cache=image_cache_dir()) for pair in pairs
            ]
            rows = run_models(tests, models, range(seeds), context)
        if dist_info().is_main_process:
            write_sensitivity(results, ALL_SUITES.values())
            names = list(dict.fromkeys(row.model.partition("/")[0] for row in rows))
            for test in tests:
                show_result(test, names, results, output)
            show_what_follows(results, {each.name for each in suites}, output)


def require_results(results: Path) -> None:
    """Find out before the work that rows cannot be added."""
    check_place(results / "throughput.csv")
    if (results / FILE).exists():
        append([], results)


def show_result(test: TestSet, names: Sequence[str], results: Path, output: Output) -> None:
    """Print the models just run as they stand in the leaderboard, a column a model."""
    board = leaderboard(read_runs(results, [test.suite.name]), test.shown, results)
    same = (board["source"] == test.source_name) & (board["data_sha256"] == test.data_sha256)
    ours = board[same & board["model"].str.split("/").str[0].isin(names)]
    output.tables(scores_table(test.shown, ours, caption(test)))


def show_what_follows(results: Path, names: Collection[str], output: Output) -> None:
    """Print what rows say together: how far protocols move a model, and effective robustness."""
    runs = read_runs(results, {*names, CLEAN, *(fit.suite for fit in fits())})
    for suite in (ALL_SUITES[name] for name in names if ALL_SUITES[name].protocols):
        if len(table := sensitivity(runs, [suite])):
            output.tables(sensitivity_table(suite, table))
    if len(table := effective_robustness(runs, ALL_SUITES, names)):
        output.tables(robustness_table(table))


def caption(test: TestSet) -> str:
    """Say what the numbers are, which data they come from, and how to get the other."""
    suite = test.suite
    about = f"percent with 95 % interval; protocol {test.protocol}; {test.source_name} data"
    if test.source.folder is not None:
        other = "; --data embedded takes the installed data" if suite.embedded else ""
        return f"{about} from {test.source.folder}{other}"
    if not suite.world.official_files:
        return f"{about}, drawn with an installed font"
    return (
        f"{about}, installed with the packages; for the official data put "
        f"{suite.world.official_files} into {official_folder(suite)}, or name their folder with "
        "--data"
    )
