"""Lists suites and models, official data and speeds; fetches and measures them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter

from benchmarks.cli.arguments import (
    RESULTS,
    Device,
    NewFolder,
    ReadFile,
    Results,
    find,
    resolve_device,
)
from benchmarks.cli.output import Output
from benchmarks.data.download import DataSet, fetch, verify
from benchmarks.data.paths import check_place, data_folder
from benchmarks.report.readme import documents, readme_blocks
from benchmarks.report.table import Cell, Table
from benchmarks.report.tables import speeds_table
from benchmarks.suites import ALL_SUITES, SUITES
from benchmarks.suites.data_sets import DATA_SETS
from benchmarks.throughput import append_speeds, measure_all, read_speeds, slower, speeds_markdown
from cgn.counterfactuals.sampling import SHIPPED
from cgn.io.writing import write_text
from classifiers import MODELS


def show_lists(
    *, readme: ReadFile | None = None, results: Results = RESULTS, output: Output = Output()
) -> None:
    """Print all suites and models, or write the tables of the README and of docs.

    Args:
        readme: The README; its tables and those of docs are written anew, from the results.
    """
    if readme:
        blocks = readme_blocks(results, list(SUITES.values()), MODELS, SHIPPED)
        for path, text in documents(readme, blocks).items():
            write_text(path, text)
            output.note(f"wrote the tables of {path}")
        return
    suites = Table(["suite", "question", "protocol", "ranked by"], "Suites")
    for suite in ALL_SUITES.values():
        names = Cell("\n".join(suite.protocol_names), suite.protocol_names)
        suites.add(suite.name, suite.question, names, suite.primary)
    about = ["what it is", "trains on", "extra supervision", "selected on", "source"]
    models = Table(["model", *about], "Models")
    for recipe in MODELS.values():
        on = ", ".join(recipe.trains_on)
        known, rule = recipe.extra_supervision, recipe.selected_on
        models.add(recipe.name, recipe.about, on, known, rule, recipe.source)
    output.tables(suites, models)


def official_data(
    names: tuple[str, ...] = (),
    /,
    *,
    verify_only: Annotated[bool, Parameter(name="--verify")] = False,
    offline: bool = False,
    folder: NewFolder | None = None,
    output: Output = Output(),
) -> int:
    """Fetch or check official data, or list it.

    Args:
        names: Data sets; none lists all.
        verify_only: Only check what is there.
        offline: Connect nowhere: unpack archives that are there.
        folder: Where data lies; without it $CGN_BENCH_DATA, else the user's cache.

    Returns:
        1 if something is off.
    """
    root = folder or data_folder()
    sets = find(names, DATA_SETS, "data set", {})
    there = {name: root / name for name in DATA_SETS if (root / name).is_dir()}
    if verify_only:
        wanted = [data.name for data in sets] or list(there)
        problems = [line for name in wanted for line in verify(DATA_SETS[name], root / name)]
        output.lines("problems", problems)
        whole = f"whole: {', '.join(wanted) or 'nothing'}"
        output.note(f"problems: {len(problems)}" if problems else whole)
        return int(bool(problems))
    with output.progress() as progress:
        for data in sets:
            with progress.task(f"{data.name}: bytes") as update:
                place = fetch(data, root, offline=offline, progress=update)
            output.note(f"{data.name} is whole, in {place}")
    if not sets:
        output.tables(data_table(DATA_SETS.values(), there, root))
    return 0


def measure_throughput(
    *,
    device: Device = "auto",
    only: str = "",
    seconds: int = 0,
    compare_fail: float | None = None,
    quick: bool = False,
    table: bool = False,
    results: Results = RESULTS,
    output: Output = Output(),
) -> int:
    """Measure speeds with pytest-benchmark in a checkout of the repository; keep and print them.

    Args:
        only: Names of benchmarks, as pytest's -k.
        seconds: When to stop; 0 never stops.
        compare_fail: End with 1 if anything has less than this share of its last speed on the
            same card.
        quick: Take small sizes and keep no rows: do the benchmarks run?
        table: Only print what is there.

    Returns:
        1 if a benchmark failed or is slower than it was.
    """
    before = read_speeds(results)
    if table:
        if before.empty:
            raise ValueError(f"{results} holds no speeds; measure some without `table`")
        output.lines("speeds", speeds_markdown(before).splitlines())
        return 0
    chosen = resolve_device(device)
    check_place(results / "throughput.csv")
    measured = measure_all(chosen, only, seconds, quick=quick)
    if measured.speeds and not quick:
        append_speeds(measured.speeds, results)
    if measured.speeds:
        speeds = pd.DataFrame(map(asdict, measured.speeds))
        output.tables(speeds_table(speeds, measured.speeds[0].card))
    problems = [f"failed: {line}" for line in measured.failed]
    if compare_fail is not None and not quick:
        problems += [f"slower: {line}" for line in slower(before, measured.speeds, compare_fail)]
    output.lines("problems", problems)
    if measured.skipped or measured.cut:
        ended = " and one was cut short" if measured.cut else ""
        output.note(f"after {seconds} s: {measured.skipped} benchmarks were left out{ended}")
    return int(bool(problems))


def data_table(data_sets: Iterable[DataSet], there: Mapping[str, Path], root: Path) -> Table:
    """Lay out official data: what there is, and what of it is on this machine.

    Args:
        data_sets: All of it.
        there: The folders that exist, by name.
        root: Where they are looked for.
    """
    table = Table(
        ["name", "what it is", "size", "licence", "source", "here"],
        f"Official data in {root}",
        "fetch with: bench.py data NAME",
    )
    for data in data_sets:
        sizes = [each.size_bytes for each in data.downloads]
        known = sum(size for size in sizes if size is not None)
        is_known = known > 0 and None not in sizes
        size = Cell(f"{known / 1e6:,.0f} MB", known) if is_known else Cell("unknown", None)
        here = "yes" if data.name in there else ("no" if data.downloads else data.by_hand)
        table.add(data.name, data.about, size, data.licence, data.source, here)
    return table
