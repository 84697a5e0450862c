"""The regression gate: whether rows, leaderboards, predictions and weights hold together.

No model runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.evaluate import score_suite
from benchmarks.core.statistics import CONFIDENCE
from benchmarks.core.suite import Suite
from benchmarks.records.compare import holm, mcnemar
from benchmarks.records.csv_cells import csv_text
from benchmarks.records.history import row_name
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.predictions import Run, load
from benchmarks.records.runs import (
    RUN_COLUMNS,
    by_run,
    exclusive,
    newest,
    read_runs,
    repeated,
    run_of,
)
from benchmarks.records.sensitivity import FILE, sensitivity

_PROVENANCE = ["data_sha256", "weights_sha256", "device", "torch", "python", "commit", "time"]


def check(
    results: Path,
    suites: Mapping[str, Suite],
    data_sha256: Mapping[str, str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Find what does not hold in a folder of results.

    Args:
        results: The folder of `runs.csv`.
        suites: All suites by name.
        data_sha256: Hash of each suite's embedded test images, as the code draws them now.
        progress: Called after each run with runs done and runs in all.

    Returns:
        One line a problem, naming the row or the file; none if all is well: each row is there
        once, with its provenance; each leaderboard follows from the rows; each row's score
        follows from its predictions, and all predictions have rows; the test images are those
        that the rows were made on.
    """
    with exclusive(results):  # half of what another process writes is no problem
        runs = read_runs(results)
        rows = newest(runs)
        protocols = {
            (name, each) for name, suite in suites.items() for each in suite.protocol_names
        }
        pairs = pd.Series(zip(rows["suite"], rows["protocol"], strict=True), rows.index)
        current = rows[pairs.isin(protocols)]
        problems = [
            *_duplicate_rows(runs),
            *_rows_without_provenance(runs),
            *_rows_on_other_images(current, data_sha256),
            *_predictions_without_rows(results, runs, suites),
        ]
        for name in sorted(set(runs["suite"]) - set(suites)):
            problems.append(f"runs.csv has rows of {name!r}, which is no suite")
        for suite in suites.values():
            problems += _stale_file(
                results / f"{suite.name}.csv", leaderboard(runs, suite, results)
            )
        problems += _stale_file(results / FILE, sensitivity(runs, suites.values()))
        of_runs = by_run(current)
        for done, of_run in enumerate(of_runs, start=1):
            problems += _unreproducible_rows(results, suites, _records(of_run))
            progress(done, len(of_runs))
        return problems


def check_weights(results: Path, again: Sequence[tuple[Run, pd.DataFrame]]) -> list[str]:
    """Find committed predictions that shipped weights, evaluated again, are worse than.

    Image by image the shape is named right or not. Other machines and other numbers of threads
    round otherwise, and a few answers may turn. A problem is what is significantly worse, by
    McNemar's exact test, one-sided, with Holm's correction for all test variants together.

    Args:
        results: The folder of `runs.csv` and `predictions`.
        again: Runs, as they would be kept now, and their predictions.

    Returns:
        One line a problem: weights that are others than those of the committed predictions, and
        answers that are worse.
    """
    problems, names, p_values = [], [], []
    for run, predictions in again:
        name = f"{run.suite} {run.source} {run.model} seed {run.seed}"
        try:
            committed, stored = load(run.path(results))
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        if stored.data_sha256 != run.data_sha256 or stored.protocol != run.protocol:
            continue  # other images, which `check` reports
        if stored.weights_sha256 != run.weights_sha256:
            problems.append(f"{name}: the shipped weights are others now; run the model again")
        for variant, hits in _hits_by_variant(committed, predictions).items():
            before, now = 100 * hits.mean(axis=0)
            names.append(
                f"{name} {variant}: the shipped weights answer worse than the committed "
                f"predictions, {now:.1f} instead of {before:.1f} % right"
            )
            p_values.append(mcnemar(hits, alternative="greater"))
    return problems + [
        f"{name} (p {p_value:.2g})"
        for name, p_value in zip(names, holm(p_values), strict=True)
        if p_value < 1 - CONFIDENCE
    ]


def summary(problems: Sequence[str], leaderboards: str) -> str:
    """Write what was found in Markdown, for a pull request.

    Args:
        problems: From the checks.
        leaderboards: A table in Markdown.
    """
    lines = [f"- {problem}" for problem in problems] or ["All rows hold."]
    title = f"Benchmark: {len(problems)} problem{'s' * (len(problems) != 1)}"
    return "\n".join([f"### {title}", "", *lines, "", leaderboards, ""])


def _duplicate_rows(runs: pd.DataFrame) -> Iterator[str]:
    """Rows that say the same as the newest row before them."""
    for row in _records(repeated(runs)):
        yield f"{_name(row)}: doubled"


def _rows_without_provenance(runs: pd.DataFrame) -> Iterator[str]:
    """Rows that do not say where they come from."""
    for row in _records(runs):
        if missing := [name for name in _PROVENANCE if not row[name]]:
            yield f"{_name(row)}: lacks {', '.join(missing)}"
        elif row["commit"].endswith("-dirty"):
            yield f"{_name(row)}: made with changes that are in no commit"


def _rows_on_other_images(current: pd.DataFrame, data_sha256: Mapping[str, str]) -> Iterator[str]:
    """Embedded rows on other test images than those drawn now, one a run."""
    drawn = current["suite"].map(lambda name: data_sha256.get(name, ""))
    for rows in by_run(
        current[(current["source"] == "embedded") & (current["data_sha256"] != drawn)]
    ):
        yield (
            f"{_name(_records(rows)[0])}: the suite's test images are others now; give its "
            "protocol a new version, or run the model again"
        )


def _predictions_without_rows(
    results: Path, runs: pd.DataFrame, suites: Mapping[str, Suite]
) -> Iterator[str]:
    """Files of predictions of which there are no rows."""
    views = {
        (suite.name, name): suite.with_protocol(name).view_name
        for suite in suites.values()
        for name in suite.protocol_names
    }
    known = {
        run.path(results, views.get((run.suite, run.protocol), ""))
        for run in map(run_of, _records(runs.drop_duplicates([*RUN_COLUMNS])))
    }
    for path in sorted(set(results.glob("predictions/*/*/*/*.parquet")) - known):
        yield f"{path.relative_to(results)}: runs.csv has no rows of it"


def _stale_file(path: Path, table: pd.DataFrame) -> Iterator[str]:
    """The first line of a file that is not what a table of the rows says."""
    expected = csv_text(table).splitlines()
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines and len(expected) == 1:
        return
    for number, (line, ought) in enumerate(zip_longest(lines, expected), start=1):
        if line != ought:
            name = row_name(line or ought)
            yield f"{path.name} line {number} does not follow from runs.csv: {name}"
            return


def _unreproducible_rows(
    results: Path, suites: Mapping[str, Suite], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Rows of one run whose scores do not follow from its predictions."""
    run = run_of(rows[0])
    suite = suites[run.suite].with_protocol(run.protocol)
    try:
        predictions, stored = load(run.path(results, suite.view_name))
        estimates = score_suite(suite, predictions)
    except ValueError as error:
        yield f"{_name(rows[0])}: {error}"
        return
    if stored.protocol == suite.kept_as:
        stored = replace(stored, protocol=run.protocol)
    if odd := [name for name in RUN_COLUMNS if getattr(stored, name) != getattr(run, name)]:
        yield f"{_name(rows[0])}: its predictions are of another {', '.join(odd)}"
        return
    by_score = {(score.variant, score.metric): each for score, each in estimates.items()}
    for row in rows:
        estimate = by_score.pop((row["variant"], row["metric"]), None)
        cells = [row[name] for name in ("value", "low", "high", "n")]
        if estimate is None or not np.allclose(cells, estimate, rtol=1e-9, equal_nan=True):
            yield f"{_name(row)}: does not follow from its predictions"
    for variant, metric in by_score:
        yield f"{_name(rows[0])}: lacks the row of {variant} {metric}"


def _hits_by_variant(
    committed: pd.DataFrame, predictions: pd.DataFrame
) -> dict[str, NDArray[np.bool_]]:
    """Whether each image's shape is named right, before and now, (images, 2), by variant."""
    image = ["variant", "index"]
    both = committed[[*image, "shape", "prediction"]].merge(
        predictions[[*image, "prediction"]], on=image, suffixes=("", "_now")
    )
    hits = both[["prediction", "prediction_now"]].to_numpy() == both[["shape"]].to_numpy()
    return {str(variant): hits[rows] for variant, rows in both.groupby("variant").indices.items()}


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [{str(name): cell for name, cell in row.items()} for row in rows.to_dict("records")]


def _name(row: Mapping[str, Any]) -> str:
    """Name a row."""
    run = " ".join(str(row[name]) for name in ("suite", "source", "model"))
    return f"{run} seed {row['seed']} {row['variant']} {row['metric']}"
