"""Scores models on suites, and shows the result."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.cli.models import resolve_models
from benchmarks.cli.progress import progress_bars
from benchmarks.cli.resolve import (
    known_suites,
    resolve_device,
    resolve_suites,
    source_for,
)
from benchmarks.cli.terminal import console
from benchmarks.core.context import RunContext
from benchmarks.core.distributed import init_distributed
from benchmarks.core.suite import TestSet
from benchmarks.data.paths import cache_dir, check_place, image_cache_dir, official_folder
from benchmarks.records.effective_robustness import CLEAN, effective_robustness, fits
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.runs import FILE, append, read_runs
from benchmarks.records.sensitivity import sensitivity, write_sensitivity
from benchmarks.report.tables import robustness_table, scores_table, sensitivity_table
from benchmarks.runner import load_test_set
from benchmarks.runner import run as run_models
from benchmarks.suites import official_variant
from cgn.device.distributed import dist_info


def run(options: argparse.Namespace) -> None:
    """Score models on suites, keep the results, show them; several processes share the images."""
    with init_distributed():
        suites = resolve_suites(options.suite)
        if options.textures and not any(suite.world.takes_textures for suite in suites):
            raise ValueError("--textures is for wildlife-mnist, which is not among the suites")
        sources = [source_for(suite, options) for suite in suites]
        suites = [official_variant(*pair) for pair in zip(suites, sources, strict=True)]
        models = resolve_models(options.model, suites)
        require_results(options.results)
        with progress_bars() as bars:
            device = resolve_device(options.device)
            context = RunContext(device, options.results, cache_dir(), bars, options.precision)
            # All test images are read before any work starts, so that bad data costs no time.
            tests = [
                load_test_set(suite, source, bars, options.protocol, cache=image_cache_dir())
                for suite, source in zip(suites, sources, strict=True)
            ]
            rows = run_models(tests, models, range(options.seeds), context)
        if dist_info().is_main_process:
            write_sensitivity(options.results, known_suites().values())
            names = list(dict.fromkeys(row.model.partition("/")[0] for row in rows))
            for test in tests:
                show_result(test, names, options.results)
            show_what_follows(options.results, {suite.name for suite in suites})


def require_results(results: Path) -> None:
    """Find out before the work that rows cannot be added."""
    check_place(results / "throughput.csv", "--results")
    if (results / FILE).exists():
        append([], results)


def show_result(test: TestSet, names: Sequence[str], results: Path) -> None:
    """Print the models just run as they stand in the leaderboard, a column a model."""
    board = leaderboard(read_runs(results, [test.suite.name]), test.shown)
    same = (board["source"] == test.source_name) & (board["data_sha256"] == test.data_sha256)
    ours = board[same & board["model"].str.split("/").str[0].isin(names)]
    console().print(scores_table(test.shown, ours, caption(test)))


def show_what_follows(results: Path, names: Collection[str]) -> None:
    """Print what rows say together: how far protocols move a model, and effective robustness."""
    suites = known_suites()
    runs = read_runs(results, {*names, CLEAN, *(fit.suite for fit in fits())})
    for suite in (suites[name] for name in names if suites[name].protocols):
        if len(table := sensitivity(runs, [suite])):
            console().print(sensitivity_table(suite, table))
    if len(table := effective_robustness(runs, suites, names)):
        console().print(robustness_table(table))


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
