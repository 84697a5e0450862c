"""How far the protocol alone moves a model: the same network and images, scored otherwise.

How a protocol scores is not here: see `benchmarks.core.suite.Protocol`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.core.suite import Suite
from benchmarks.records.csv_cells import csv_text
from benchmarks.records.leaderboard import alone, read_runs
from cgn.io.writing import write_text

FILE = "sensitivity.csv"
COLUMNS = [
    *("suite", "source", "data_sha256", "model", "weights_sha256", "seed", "variant", "metric"),
    *("protocol", "value", "low", "high", "n", "difference"),
]
_RUN = COLUMNS[:6]
_SCORE = COLUMNS[:8]


def sensitivity(runs: pd.DataFrame, suites: Iterable[Suite]) -> pd.DataFrame:
    """Lay the scores of each network under all protocols side by side.

    Args:
        runs: From `benchmarks.records.leaderboard.read_runs`.
        suites: Those without other protocols are left out.

    Returns:
        One row a score and protocol, of runs that have rows under several; columns as in
        `COLUMNS`. The difference is from the suite's own protocol, which comes first.
    """
    newest = runs.drop_duplicates([*_SCORE, "protocol"], keep="last")
    tables = []
    for suite in (each for each in suites if each.protocols):
        names = suite.protocol_names
        ours = newest[(newest["suite"] == suite.name) & newest["protocol"].isin(names)]
        place = ours["protocol"].map(names.index)
        several = place.groupby([ours[name] for name in _RUN]).transform("nunique") > 1
        ours = ours.assign(place=place)[several]
        own = ours[ours["place"] == 0].set_index(_SCORE)["value"].rename("own")
        ours = ours.join(own, on=_SCORE)
        order = pd.Series(range(len(suite.scores)), [score.key for score in suite.scores])
        score = (ours["variant"] + "_" + ours["metric"]).map(order)
        ours = ours.assign(difference=ours["value"] - ours["own"], score=score)
        tables.append(ours.sort_values([*_RUN, "score", "place"])[COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def write_sensitivity(results: Path, suites: Iterable[Suite]) -> None:
    """Rewrite `sensitivity.csv`, atomically, if any run has rows under several protocols.

    Args:
        results: The folder of `runs.csv`.
        suites: All suites.
    """
    with alone(results):
        table = sensitivity(read_runs(results), suites)
        if len(table):
            write_text(results / FILE, csv_text(table))
