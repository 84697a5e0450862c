"""How far the protocol alone moves a model: the same network and images, scored otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.core.suite import Suite
from benchmarks.records.csv_cells import csv_text
from benchmarks.records.runs import exclusive, newest, read_runs
from cgn.io.writing import write_text

FILE = "sensitivity.csv"
COLUMNS = [
    *("suite", "source", "data_sha256", "model", "weights_sha256", "seed", "variant", "metric"),
    *("protocol", "value", "low", "high", "n", "difference"),
]
NETWORK = COLUMNS[:6]  # what is the same in all rows of one network on the same images
SCORE = COLUMNS[:8]


def sensitivity(runs: pd.DataFrame, suites: Iterable[Suite]) -> pd.DataFrame:
    """Lay the scores of each network under all protocols side by side.

    Args:
        runs: From `benchmarks.records.runs.read_runs`.
        suites: Those without other protocols are left out.

    Returns:
        One row a score and protocol, of runs that have rows under several; columns as in
        `COLUMNS`. The difference is from the suite's own protocol, which comes first.
    """
    runs = newest(runs)
    tables = []
    for suite in (each for each in suites if each.protocols):
        names = suite.protocol_names
        rows = runs[(runs["suite"] == suite.name) & runs["protocol"].isin(names)]
        place = rows["protocol"].map(names.index)
        several = place.groupby([rows[name] for name in NETWORK]).transform("nunique") > 1
        rows = rows.assign(place=place)[several]
        if rows.empty:
            continue
        own = rows[rows["place"] == 0].set_index(SCORE)["value"].rename("own")
        rows = rows.join(own, on=SCORE)
        order = pd.Series(range(len(suite.scores)), [score.key for score in suite.scores])
        score = (rows["variant"] + "_" + rows["metric"]).map(order)
        rows = rows.assign(difference=rows["value"] - rows["own"], score=score)
        tables.append(rows.sort_values([*NETWORK, "score", "place"])[COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def write_sensitivity(results: Path, suites: Iterable[Suite]) -> None:
    """Rewrite `sensitivity.csv` if any run has rows under several protocols of these suites."""
    several = [suite for suite in suites if suite.protocols]
    with exclusive(results):
        table = sensitivity(read_runs(results, [suite.name for suite in several]), several)
        if len(table):
            write_text(results / FILE, csv_text(table))
