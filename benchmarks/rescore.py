"""Scores that rows lack, computed from stored predictions: a new score needs no old model.

How a score is computed is not here: see `benchmarks.scores`. Nor is what a row is: see
`benchmarks.leaderboard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.leaderboard import Row, environment, read_runs
from benchmarks.predictions import Run, load
from benchmarks.suite import Suite

_RUN = [*Run.__dataclass_fields__]
_SLOT = ["suite", "protocol", "source", "model", "seed"]
_KEPT = ["images_per_second", "device", "torch", "python", "generator_seed"]


def rows_lacking(
    results: Path,
    suites: Mapping[str, Suite],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Compute the rows that runs lack of the scores that their suites have now.

    Args:
        results: The folder of `runs.csv` and `predictions`.
        suites: The suites by name; rows of others, and of older protocols, are left alone.
        progress: Called after each run with runs done and runs in all.

    Returns:
        What is to be appended; empty if nothing is lacking. Run, speed, device, versions and
        generator are those of the run's other rows; commit and time are those of now, for it is
        this code that computed the score.

    Raises:
        ValueError: If predictions cannot be read, or are of another run than the rows.
    """
    runs = read_runs(results)
    newest = runs.drop_duplicates([*_SLOT, "variant", "metric"], keep="last")
    protocols = newest["suite"].map({name: suite.protocol for name, suite in suites.items()})
    groups = newest[newest["protocol"] == protocols].groupby(_SLOT, sort=False)
    now = {name: environment("cpu")[name] for name in ("commit", "time")}
    lacking: list[Row] = []
    for done, (_, rows) in enumerate(groups, start=1):
        lacking += _of_run(results, suites[rows["suite"].iloc[0]], rows, now)
        progress(done, len(groups))
    return lacking


def _of_run(results: Path, suite: Suite, rows: pd.DataFrame, now: Mapping[str, str]) -> list[Row]:
    """Compute what one run lacks."""
    there = set(zip(rows["variant"], rows["metric"], strict=True))
    scores = [score for score in suite.scores if (score.variant, score.metric) not in there]
    if not scores:
        return []
    last = rows.iloc[-1]
    run = Run(**{name: last[name] for name in _RUN} | {"seed": int(last["seed"])})
    predictions, stored = load(run.path(results))
    if stored != run:
        raise ValueError(
            f"{run.path(results)} is not of the run in runs.csv; run {run.model} on {run.suite} "
            "again"
        )
    here: dict[str, Any] = {name: last[name] for name in _KEPT} | dict(now)
    return [
        Row(
            **asdict(run),
            variant=score.variant,
            metric=score.metric,
            **score.compute(predictions)._asdict(),
            **here,
        )
        for score in scores
    ]
