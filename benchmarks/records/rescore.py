"""Scores that rows lack, computed from stored predictions: a new score needs no old model.

So is every score under each other protocol that can be told from the same predictions.

How a score is computed is not here: see `benchmarks.core.scores`. Nor is what a row is: see
`benchmarks.records.leaderboard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.core.scores import Score
from benchmarks.core.suite import Suite
from benchmarks.records.leaderboard import Row, environment, read_runs
from benchmarks.records.predictions import Run, load

_RUN = [*Run.__dataclass_fields__]
_SLOT = ["suite", "protocol", "source", "model", "seed"]
_KEPT = ["images_per_second", "device", "torch", "python", "generator_seed"]


def missing_rows(
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
    kept_as = {
        (suite.name, name)
        for suite in suites.values()
        for name in suite.protocol_names
        if suite.with_protocol(name).predictions_protocol in (None, name)
    }
    kept = [
        (suites[rows["suite"].iloc[0]], rows)
        for _, rows in newest.groupby(_SLOT, sort=False)
        if (rows["suite"].iloc[0], rows["protocol"].iloc[0]) in kept_as
    ]
    now = {name: environment("cpu")[name] for name in ("commit", "time")}
    lacking: list[Row] = []
    for done, (suite, rows) in enumerate(kept, start=1):
        lacking += _of_run(results, suite, rows, newest, now)
        progress(done, len(kept))
    return lacking


def _of_run(
    results: Path, suite: Suite, rows: pd.DataFrame, newest: pd.DataFrame, now: Mapping[str, str]
) -> list[Row]:
    """Compute what one run lacks, under each protocol that its predictions allow."""
    last = rows.iloc[-1]
    run = Run(**{name: last[name] for name in _RUN} | {"seed": int(last["seed"])})
    shown = suite.with_protocol(run.protocol)
    todo = {
        (each.protocol, score): score
        for each in suite.compatible_protocols(run.protocol)
        for score in each.scores
        if not _is_there(newest, replace(run, protocol=each.protocol), score)
    }
    if not todo:
        return []
    path = run.path(results, shown.view_name)
    predictions, stored = load(path)
    if stored != run:
        raise ValueError(
            f"{path} is not of the run in runs.csv; run {run.model} on {run.suite} again"
        )
    there = {
        each.protocol for each in suite.compatible_protocols(run.protocol, predictions.columns)
    }
    here: dict[str, Any] = {name: last[name] for name in _KEPT} | dict(now)
    return [
        Row(
            **asdict(replace(run, protocol=protocol)),
            variant=score.variant,
            metric=score.metric,
            **score.estimated(predictions)._asdict(),
            **here,
        )
        for (protocol, _), score in todo.items()
        if protocol in there
    ]


def _is_there(newest: pd.DataFrame, run: Run, score: Score) -> bool:
    """Whether a run has its row of a score."""
    wanted = asdict(run) | {"variant": score.variant, "metric": score.metric}
    return bool((newest[list(wanted)] == list(wanted.values())).all(axis=1).any())
