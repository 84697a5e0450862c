"""The regression gate: whether committed results still hold, row by row.

No model runs here: rows, leaderboards and predictions are held against each other, against the
test images that the code draws, against what shipped weights answer now, which the caller finds
out, and against an earlier state of the folder.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.evaluate import score_suite
from benchmarks.core.scores import Score
from benchmarks.core.statistics import CONFIDENCE
from benchmarks.core.suite import Suite
from benchmarks.records.compare import Difference, compare, holm
from benchmarks.records.csv_cells import csv_text
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.predictions import Run, load
from benchmarks.records.runs import (
    RUN_COLUMNS,
    by_run,
    exclusive,
    last_of_runs,
    newest,
    read_runs,
    repeated,
    run_of,
)
from benchmarks.records.sensitivity import FILE, sensitivity

Progress = Callable[[int, int], None]
_PROVENANCE = ["data_sha256", "weights_sha256", "device", "torch", "python", "commit", "time"]


def check(
    results: Path,
    suites: Mapping[str, Suite],
    data_sha256: Mapping[str, str],
    progress: Progress = lambda done, total: None,
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
        latest = newest(runs)
        known = {(name, each) for name, suite in suites.items() for each in suite.protocol_names}
        pairs = pd.Series(zip(latest["suite"], latest["protocol"], strict=True), latest.index)
        current = latest[pairs.isin(known)]
        problems = [
            *_duplicate_rows(runs),
            *_without_provenance(runs),
            *_of_other_images(current, data_sha256),
            *_orphaned(results, runs, suites),
        ]
        for name in sorted(set(runs["suite"]) - set(suites)):
            problems.append(f"runs.csv has rows of {name!r}, which is no suite")
        for suite in suites.values():
            problems += _stale(results, runs, suite)
        problems += _differs(results / FILE, sensitivity(runs, suites.values()))
        of_runs = by_run(current)
        for done, rows in enumerate(of_runs, start=1):
            problems += _unreproducible_rows(results, suites[rows["suite"].iloc[0]], rows)
            progress(done, len(of_runs))
        return problems


def check_history(before: Path, now: Path) -> list[str]:
    """Find rows that were there before and are not there now, or not in their place.

    Args:
        before: An earlier state of the folder of `runs.csv`.
        now: The folder.

    Returns:
        One line a problem. Rows are only ever appended, so what was there must still stand at
        the beginning of the file, byte for byte.
    """
    old, new = (_lines(folder) for folder in (before, now))
    if new[: len(old)] == old:
        return []
    lost = Counter(old) - Counter(new)
    if not lost:
        place = next(i for i, (a, b) in enumerate(zip_longest(old, new)) if a != b)
        first = _named(old[place])
        return [f"runs.csv line {place + 1}: rows changed their order, from {first} on"]
    return [f"runs.csv: a row vanished or was changed: {_named(line)}" for line in lost]


def check_regression(
    before: Path, now: Path, suites: Mapping[str, Suite], progress: Progress = lambda _, __: None
) -> list[str]:
    """Find scores that are significantly worse than they were, on the same test images.

    Args:
        before: An earlier state of the folder of results.
        now: The folder.
        suites: All suites by name.
        progress: Called after each model with models done and models in all.

    Returns:
        One line a score, for those whose paired difference stands after Holm's correction for
        all that was compared.
    """
    models = sorted(
        {path.parent.relative_to(before) for path in before.glob("predictions/*/*/*/*.parquet")}
    )
    found: list[tuple[str, Score, Difference]] = []
    for done, model in enumerate(models, start=1):
        old, new = (_predictions(folder / model) for folder in (before, now))
        suite = suites.get(model.parts[1])
        if suite is not None and new and _comparable(old, new):
            tables = [[table for table, _ in runs] for runs in (new, old)]
            name = " ".join(model.parts[1:])
            scores = [score for score in suite.scores if score.supports_bootstrap]
            found += [(name, score, compare(score, *tables)) for score in scores]
        progress(done, len(models))
    corrected = holm([difference.p_value for *_, difference in found])
    return [
        f"{name} {score.key}: worse than before, {100 * difference.second:.1f} to "
        f"{100 * difference.first:.1f} % (p {p_value:.2g})"
        for (name, score, difference), p_value in zip(found, corrected, strict=True)
        if p_value < 1 - CONFIDENCE and (difference.value < 0) == score.higher_is_better
    ]


def check_weights(results: Path, fresh: Sequence[tuple[Run, pd.DataFrame]]) -> list[str]:
    """Find committed predictions that shipped weights, evaluated anew, are worse than.

    Image by image the shape is named right or not. Other machines and other numbers of threads
    round otherwise, and a few answers may turn; what is significantly worse, by McNemar's exact
    test, one-sided, with Holm's correction for all test variants together, is not that.

    Args:
        results: The folder of `runs.csv` and `predictions`.
        fresh: What was run, as it would be kept now, and its predictions.

    Returns:
        One line a problem: weights that are others than those of the committed predictions, and
        answers that are worse.
    """
    problems, names, p_values = [], [], []
    for run, predictions in fresh:
        named = f"{run.suite} {run.source} {run.model} seed {run.seed}"
        try:
            committed, stored = load(run.path(results))
        except ValueError as error:
            problems.append(f"{named}: {error}")
            continue
        if stored.data_sha256 != run.data_sha256 or stored.protocol != run.protocol:
            continue  # other images, which the rows are told of
        if stored.weights_sha256 != run.weights_sha256:
            problems.append(f"{named}: the shipped weights are others now; run the model again")
        for variant, hits in _right(committed, predictions).items():
            names.append(
                f"{named} {variant}: the shipped weights answer worse than the committed "
                f"predictions, {100 * hits[:, 1].mean():.1f} instead of "
                f"{100 * hits[:, 0].mean():.1f} % right"
            )
            p_values.append(worse_p_value(hits))
    return problems + [
        f"{name} (p {p_value:.2g})"
        for name, p_value in zip(names, holm(p_values), strict=True)
        if p_value < 1 - CONFIDENCE
    ]


def worse_p_value(hits: NDArray[np.bool_]) -> float:
    """Test whether the second of two models is worse on the same images: McNemar, one-sided.

    Args:
        hits: Whether each image is answered right, (images, 2) bool.

    Returns:
        How likely as many images that only the first gets right are, if both are equal.

    Example:
        >>> only_first = [[True, False]] * 5
        >>> worse_p_value(np.array(only_first)), worse_p_value(~np.array(only_first))
        (0.03125, 1.0)
    """
    from scipy.stats import binomtest  # seconds to import

    only_first, only_second = (hits & ~hits[:, ::-1]).sum(axis=0).tolist()
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, alternative="greater").pvalue)


@contextmanager
def results_at_revision(results: Path, revision: str) -> Iterator[Path]:
    """Unpack the folder of results as it was at a revision of the repository it lies in.

    Args:
        results: The folder.
        revision: Anything that git understands.

    Yields:
        A folder that is gone afterwards.

    Raises:
        ValueError: If git knows no such revision, or the folder was not in it.
    """
    commit = _git(results, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    if commit.returncode:
        raise ValueError(f"git has no {results} at {revision!r}: {_said(commit)}")
    sha1 = commit.stdout.decode().strip()
    # What reaches this command is git's own word: one that begins with "-" would be an option.
    archive = _git(results, "archive", "--format=tar", sha1, "--", ".")
    if archive.returncode:
        raise ValueError(f"git has no {results} at {revision!r}: {_said(archive)}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)


def summary(problems: Sequence[str], leaderboards: str) -> str:
    """Write what was found in Markdown, for a pull request.

    Args:
        problems: From the checks.
        leaderboards: A table, from `benchmarks.records.leaderboard.markdown`.
    """
    found = [f"- {problem}" for problem in problems] or ["All rows hold."]
    title = f"Benchmark: {len(problems)} problem{'s' * (len(problems) != 1)}"
    return "\n".join([f"### {title}", "", *found, "", leaderboards, ""])


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Ask git about the repository that a folder lies in."""
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    except FileNotFoundError:
        raise ValueError("an earlier state comes out of git, which is not installed here") from None


def _said(answer: subprocess.CompletedProcess[bytes]) -> str:
    """What git gave as the reason."""
    return answer.stderr.decode(errors="replace").strip()


def _duplicate_rows(runs: pd.DataFrame) -> Iterator[str]:
    """Rows that say again what the newest row before them said."""
    for row in _records(repeated(runs)):
        yield f"{_row(row)}: doubled"


def _without_provenance(runs: pd.DataFrame) -> Iterator[str]:
    """Rows that do not say where they come from."""
    for row in _records(runs):
        if lacking := [name for name in _PROVENANCE if not row[name]]:
            yield f"{_row(row)}: lacks {', '.join(lacking)}"
        elif row["commit"].endswith("-dirty"):
            yield f"{_row(row)}: made with changes that are in no commit"


def _of_other_images(current: pd.DataFrame, data_sha256: Mapping[str, str]) -> Iterator[str]:
    """Embedded rows on other test images than those drawn now."""
    embedded = current[current["source"] == "embedded"]
    for name, rows in embedded.groupby("suite"):
        odd = rows[rows["data_sha256"] != data_sha256.get(str(name), "")]
        for of_run in by_run(odd):
            yield (
                f"{_row(_records(of_run)[0])}: the suite's test images are others now; give its "
                "protocol a new version, or run the model again"
            )


def _orphaned(results: Path, runs: pd.DataFrame, suites: Mapping[str, Suite]) -> Iterator[str]:
    """Predictions whose rows are gone."""
    views = {
        (suite.name, name): suite.with_protocol(name).view_name
        for suite in suites.values()
        for name in suite.protocol_names
    }
    there = {
        run.path(results, views.get((run.suite, run.protocol), ""))
        for run in map(run_of, _records(last_of_runs(runs)))
    }
    for path in sorted(set(results.glob("predictions/*/*/*/*.parquet")) - there):
        yield f"{path.relative_to(results)}: runs.csv has no rows of it"


def _stale(results: Path, runs: pd.DataFrame, suite: Suite) -> Iterator[str]:
    """A leaderboard that is not what the rows give."""
    yield from _differs(results / f"{suite.name}.csv", leaderboard(runs, suite))


def _differs(path: Path, table: pd.DataFrame) -> Iterator[str]:
    """The first line of a file that is not what a table of the rows says."""
    expected = csv_text(table).splitlines()
    there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not there and len(expected) == 1:
        return
    for number, (is_, ought) in enumerate(zip_longest(there, expected), start=1):
        if is_ != ought:
            yield f"{path.name} line {number} does not follow from runs.csv: {_named(is_ or ought)}"
            return


def _unreproducible_rows(results: Path, suite: Suite, rows: pd.DataFrame) -> Iterator[str]:
    """Rows of one run whose scores do not follow from its predictions."""
    first = _records(rows)[0]
    run = run_of(first)
    shown = suite.with_protocol(run.protocol)
    try:
        predictions, stored = load(run.path(results, shown.view_name))
        stored = replace(stored, protocol=run.protocol) if _kept_for(shown, stored) else stored
        estimates = score_suite(shown, predictions)
    except ValueError as error:
        yield f"{_row(first)}: {error}"
        return
    if odd := [name for name in RUN_COLUMNS if getattr(stored, name) != first[name]]:
        yield f"{_row(first)}: its predictions are of another {', '.join(odd)}"
        return
    found = {(score.variant, score.metric): each for score, each in estimates.items()}
    for row in _records(rows):
        estimate = found.pop((row["variant"], row["metric"]), None)
        said = [row[name] for name in ("value", "low", "high", "n")]
        if estimate is None or not np.allclose(said, estimate, rtol=1e-9, equal_nan=True):
            yield f"{_row(row)}: does not follow from its predictions"
    for variant, metric in found:
        yield f"{_row(first)}: lacks the row of {variant} {metric}"


def _right(committed: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Whether each image's shape is named right, before and now, (images, 2), by variant."""
    place = ["variant", "index"]
    both = committed[[*place, "shape", "prediction"]].merge(
        predictions[[*place, "prediction"]], on=place, suffixes=("", "_now")
    )
    answers = both[["prediction", "prediction_now"]].to_numpy()
    right = answers == both[["shape"]].to_numpy()
    return {str(variant): right[rows] for variant, rows in both.groupby("variant").indices.items()}


def _kept_for(shown: Suite, stored: Run) -> bool:
    """Whether these are the predictions that a suite, under one of its protocols, is scored on."""
    return stored.protocol == (shown.predictions_protocol or shown.protocol)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [{str(name): cell for name, cell in row.items()} for row in rows.to_dict("records")]


def _row(row: Mapping[str, Any]) -> str:
    """Name a row."""
    slot = " ".join(str(row[name]) for name in ("suite", "source", "model"))
    return f"{slot} seed {row['seed']} {row['variant']} {row['metric']}"


def _lines(folder: Path) -> list[str]:
    """Lines of `runs.csv`."""
    path = folder / "runs.csv"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _named(line: str | None) -> str:
    """Shorten a line of a table to what tells which it is."""
    return ",".join((line or "").split(",")[:9])


def _predictions(folder: Path) -> list[tuple[pd.DataFrame, Run]]:
    """Predictions of all seeds of a model."""
    return [load(path) for path in sorted(folder.glob("seed*.parquet"))]


def _comparable(old: list[tuple[pd.DataFrame, Run]], new: list[tuple[pd.DataFrame, Run]]) -> bool:
    """Whether predictions are on the same images and not the very same."""
    kinds = {(run.protocol, run.data_sha256) for _, run in (*old, *new)}
    same = [run for _, run in old] == [run for _, run in new]
    return len(kinds) == 1 and not same
