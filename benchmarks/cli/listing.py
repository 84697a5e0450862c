"""Lists suites and models, and official data."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.cli.progress import progress_bars
from benchmarks.cli.resolve import (
    known_suites,
    resolve_names,
)
from benchmarks.cli.terminal import console, say
from benchmarks.data.download import DataSet, fetch, verify
from benchmarks.data.paths import (
    data_folder,
)
from benchmarks.report.readme import documents, readme_blocks
from benchmarks.report.table import Cell, Table
from benchmarks.suites import SUITES
from benchmarks.suites.data_sets import DATA_SETS
from cgn.counterfactuals.sampling import (
    SHIPPED,
)
from cgn.io.writing import write_text
from classifiers import MODELS


def show_lists(options: argparse.Namespace) -> None:
    """Print all suites and models, or write the tables of the README and of docs."""
    if options.readme:
        blocks = readme_blocks(options.results, list(SUITES.values()), MODELS, SHIPPED)
        for path, text in documents(options.readme, blocks).items():
            write_text(path, text)
            say(f"wrote the tables of {path}")
        return
    suites = Table(["suite", "question", "protocol", "ranked by"], "Suites")
    for suite in known_suites().values():
        names = Cell("\n".join(suite.protocol_names), suite.protocol_names)
        suites.add(suite.name, suite.question, names, suite.primary)
    models = Table(["model", "what it is", "trains on", "is told", "source"], "Models")
    for recipe in MODELS.values():
        on = ", ".join(recipe.trains_on)
        models.add(recipe.name, recipe.about, on, recipe.extra_supervision, recipe.source)
    console().print(suites, models)


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
                with bars.task(f"{data.name}: bytes") as update:
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
