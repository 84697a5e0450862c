"""Results against what they were before: which scores fell, and which weights answer otherwise.

Weights that are the same give the same answers, but for a few that another machine, thread count or
precision rounds otherwise: their runs are held against each other one by one, and hardly anything
may move. Other weights of the same model may move as far as seeds do: their means are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.core.scores import Score
from benchmarks.core.suite import Suite
from benchmarks.records.compare import Difference, compare, holm
from benchmarks.records.predictions import Run, load

SAME_WEIGHTS = 0.03  # how far scores of the same weights, and shares of answers, may move
LEVEL = 0.02  # how likely a re-run of all models without any change is to fail by a test
FLOOR = 0.05  # a drop beyond it fails at FLOOR_LEVEL, however many comparisons there are
FLOOR_LEVEL = 0.001
CEILING = 0.25  # a drop beyond it fails whatever a test says

Stored = tuple[pd.DataFrame, Run]


class Change(NamedTuple):
    """How one score of a model differs from what it was."""

    name: str
    score: Score
    difference: Difference

    @property
    def drop(self) -> float:
        """By how much it is worse; negative if it is better."""
        return -self.difference.value if self.score.higher_is_better else self.difference.value

    def __str__(self) -> str:
        """Name the row, and what it was and is."""
        before, now = 100 * self.difference.second, 100 * self.difference.first
        return f"{self.name} {self.score.key}: worse than before, {before:.1f} to {now:.1f} %"


def check_regression(
    before: Path,
    now: Path,
    suites: Mapping[str, Suite],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Find scores that are worse than they were, and weights that answer otherwise.

    Args:
        before: An earlier state of the folder of results.
        now: The folder.
        suites: All suites by name.
        progress: Called after each model with models done and models in all.

    Returns:
        One line a problem. Of the same weights on the same images: a score that moved by more than
        `SAME_WEIGHTS`, or as many other answers on a test variant. Of other weights: scores that
        fell, with Holm's correction for the scores of a model on a suite and Bonferroni's for their
        number, at `LEVEL`; by more than `FLOOR`, with a p-value below `FLOOR_LEVEL`; or by more
        than `CEILING`.
    """
    paths = before.glob("predictions/*/*/*/*.parquet")
    folders = sorted({path.parent.relative_to(before) for path in paths})
    problems: list[str] = []
    families: list[list[Change]] = []
    for done, folder in enumerate(folders, start=1):
        suite = suites.get(folder.parts[1])
        old, new = (_predictions(state / folder) for state in (before, now))
        if suite is not None and _are_comparable(old, new):
            name = " ".join(folder.parts[1:])
            problems += of_same_weights(name, suite, old, new)
            families.append(_of_other_weights(name, suite, old, new))
        progress(done, len(folders))
    return problems + _fallen([family for family in families if family])


def _predictions(folder: Path) -> dict[str, Stored]:
    """Predictions of all runs of a model, by file."""
    return {path.name: load(path) for path in sorted(folder.glob("*seed*.parquet"))}


def _are_comparable(old: Mapping[str, Stored], new: Mapping[str, Stored]) -> bool:
    """Whether predictions are of the same images."""
    images = {(run.protocol, run.data_sha256) for _, run in (*old.values(), *new.values())}
    return bool(new) and len({data for _, data in images}) == 1


def of_same_weights(
    name: str, suite: Suite, old: Mapping[str, Stored], new: Mapping[str, Stored]
) -> Iterator[str]:
    """Name runs whose weights are as before and whose answers are not."""
    for file in old.keys() & new.keys():
        (table_before, run_before), (table, run) = old[file], new[file]
        if run != run_before or table_before.equals(table):
            continue
        of_run = f"{name} seed {run.seed}"
        moved = list(_changes(of_run, suite, [table_before], [table]))
        far = [change for change in moved if _is_far(abs(change.drop), change.difference.n)]
        for change in far:
            before, after = 100 * change.difference.second, 100 * change.difference.first
            yield (
                f"{of_run} {change.score.key}: the same weights give {after:.1f} % instead of "
                f"{before:.1f} %"
            )
        for variant, share in _turned(table_before, table).items():
            n = int((table_before["variant"] == variant).sum())
            if _is_far(share, n) and not far:
                yield (
                    f"{of_run} {variant}: the same weights answer {100 * share:.1f} % of the "
                    "images otherwise"
                )


def _is_far(share: float, n: int) -> bool:
    """Whether it is more than rounding turns; one image alone never is."""
    return share > SAME_WEIGHTS and share * n > 1.5


def _turned(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """Share of images of each variant that are answered otherwise, or are not there any more."""
    image = ["variant", "index"]
    both = before[[*image, "prediction"]].merge(
        now[[*image, "prediction"]], on=image, how="left", suffixes=("", "_now")
    )
    other = both["prediction"] != both["prediction_now"]
    return {
        str(variant): float(share)
        for variant, share in other.groupby(both["variant"]).mean().items()
    }


def _of_other_weights(
    name: str, suite: Suite, old: Mapping[str, Stored], new: Mapping[str, Stored]
) -> list[Change]:
    """Compare a model's means before and now, if any of its weights are others."""
    weights = [{(run.seed, run.weights_sha256) for _, run in runs.values()} for runs in (old, new)]
    if not weights[1] - weights[0]:
        return []
    usual = [
        [table for file, (table, _) in runs.items() if file.startswith("seed")]
        for runs in (old, new)
    ]
    return list(_changes(name, suite, *usual))


def _changes(
    name: str, suite: Suite, before: Sequence[pd.DataFrame], now: Sequence[pd.DataFrame]
) -> Iterator[Change]:
    """Compare runs by every score that can be compared; a ratio without bounds is none."""
    if not before or not now:
        return
    for score in suite.scores:
        if score.supports_bootstrap and np.isfinite(score.lowest):
            try:
                yield Change(name, score, compare(score, now, before))
            except ValueError:  # other images, which `check` reports
                continue


def _fallen(families: Sequence[Sequence[Change]]) -> list[str]:
    """Name the scores that fell."""
    lines = []
    for family in families:
        corrected = holm([change.difference.p_value for change in family])
        for change, of_family in zip(family, corrected, strict=True):
            p_value = change.difference.p_value
            significant = of_family * len(families) < LEVEL
            beyond = change.drop > FLOOR and p_value < FLOOR_LEVEL
            if change.drop > 0 and (significant or beyond or change.drop > CEILING):
                lines.append(f"{change} (p {p_value:.2g})")
    return lines
