"""Stored predictions of a model's runs, each with the generator that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.core.suite import Suite
from benchmarks.records.predictions import load
from benchmarks.records.runs import last_of_runs, read_runs, run_of


class StoredRun(NamedTuple):
    """One run of a model.

    Attributes:
        seed: Of its training.
        generator: Seed of the generator of its training images; empty without one.
        predictions: A row an image.
    """

    seed: int
    generator: str
    predictions: pd.DataFrame


def load_run(results: Path, suite: Suite, row: Mapping[Any, Any]) -> StoredRun:
    """Read the predictions of the run that a row is of.

    Args:
        results: The folder of `predictions`.
        suite: Under the protocol of the row.
        row: Of `runs.csv`.

    Raises:
        ValueError: If there are none, or they are of another run.
    """
    run = run_of(row)
    path = run.path(results, suite.view_name)
    predictions, stored = load(path)
    if stored != replace(run, protocol=suite.kept_as):
        raise ValueError(
            f"{path} is not of the run in runs.csv; run {run.model} on {run.suite} again"
        )
    return StoredRun(run.seed, str(row["generator_seed"]), predictions)


def load_stored_runs(
    results: Path, suite: Suite, source: str, models: Sequence[str]
) -> list[list[StoredRun]]:
    """Read the newest runs of several models on one suite, all on the same images.

    Args:
        results: The folder with `runs.csv` and `predictions`.
        suite: Under its own protocol.
        source: Where its data came from, as `DataSource.name`.
        models: Names of the models.

    Returns:
        For each model its runs in the order of their seeds; none if it has no rows.

    Raises:
        ValueError: If the runs differ in their data, or a file cannot be read.
    """
    rows = read_runs(results, [suite.name])
    rows = rows[(rows["protocol"] == suite.protocol) & (rows["source"] == source)]
    rows = last_of_runs(rows[rows["model"].isin(models)]).sort_values("seed")
    if rows["data_sha256"].nunique() > 1:
        raise ValueError(
            f"the predictions of {', '.join(models)} on {suite.name} are of different data; run "
            "these models again"
        )
    return [
        [load_run(results, suite, row) for row in rows[rows["model"] == name].to_dict("records")]
        for name in models
    ]
