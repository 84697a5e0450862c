"""The scores of each model, averaged over its runs, with intervals over all that varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.core.scores import Score
from benchmarks.core.statistics import TAILS, UNDEFINED, Counts, Estimate
from benchmarks.core.suite import Suite
from benchmarks.core.variance import MeanScore, Part, interval_of_mean, mean_score, run_parts
from benchmarks.records.stored_runs import StoredRun, load_run

_NAMES = ["variant", "metric"]
_VALUES = ["value", "low", "high", "n", "generator_seed"]


class ModelMeans(NamedTuple):
    """What the runs of one model say together.

    Attributes:
        estimates: By score the mean over runs, with its interval.
        primary: The mean of the primary score with the parts of its variance.
        clusters: Clusters of images of the primary score; empty without stored predictions.
    """

    estimates: Mapping[Score, Estimate]
    primary: MeanScore
    clusters: pd.Index


def model_means(results: Path, suite: Suite, rows: pd.DataFrame) -> ModelMeans:
    """Average the scores of one model over its runs.

    The interval of one run is that of its row. Of several runs it covers other images, seeds and
    generators, as in `benchmarks.core.variance`, from their stored predictions. Without these,
    images count as much as in a single run, which is too much rather than too little. The lowest of
    many groups is low by chance with every seed, so for a score with an estimate of its own the
    ends are the means of the runs' own.

    Args:
        results: The folder of `predictions`.
        suite: Under the protocol of the rows.
        rows: The newest of one model, all on the same images.
    """
    runs = _stored(results, suite, rows)
    estimates = {}
    means: dict[str, MeanScore] = {}
    clusters = pd.Index([])
    values = rows.sort_values("seed")[[*_NAMES, *_VALUES]]
    by_score = {name: of_score[_VALUES] for name, of_score in values.groupby(_NAMES)}
    for score in suite.all_scores:
        of_score = by_score.get((score.variant, score.metric), values.iloc[:0])
        if score.estimate is not None or of_score.empty:
            estimates[score] = _mean_of_rows(of_score)
            continue
        counts = _counts(score, runs)
        mean = _mean_from_rows(of_score) if counts is None else _mean(counts, runs)
        means[score.key] = mean
        estimates[score] = _interval(score, of_score, mean, counts)
        if score.key == suite.primary and counts is not None:
            clusters = counts[0].index
    undefined = MeanScore(np.nan, np.array([0.0]), Part(0.0, 1.0), *run_parts(np.zeros(1), 0.0))
    return ModelMeans(estimates, means.get(suite.primary, undefined), clusters)


def on_common_clusters(models: Sequence[ModelMeans]) -> list[MeanScore]:
    """Lay the influence of clusters on several models side by side.

    Models without stored predictions, or with other clusters than most, get clusters of their own:
    they pair with none.
    """
    if not models:
        return []
    sizes = [len(model.clusters) for model in models]
    usual = models[int(np.argmax(sizes))].clusters
    common = [len(usual) > 0 and model.clusters.equals(usual) for model in models]
    blocks = [
        0 if same else len(model.primary.influence)
        for same, model in zip(common, models, strict=True)
    ]
    starts = len(usual) + np.cumsum([0, *blocks])
    means = []
    for same, model, start in zip(common, models, starts, strict=False):
        influence = np.zeros(starts[-1])
        begin = 0 if same else start
        influence[begin : begin + len(model.primary.influence)] = model.primary.influence
        means.append(model.primary._replace(influence=influence))
    return means


def _stored(results: Path, suite: Suite, rows: pd.DataFrame) -> list[StoredRun]:
    """Read the predictions of all runs; none if those of any are missing."""
    try:
        runs = rows.drop_duplicates("seed", keep="last").sort_values("seed").to_dict("records")
        return [load_run(results, suite, row) for row in runs]
    except ValueError:
        return []


def _counts(score: Score, runs: Sequence[StoredRun]) -> list[pd.DataFrame] | None:
    """What each cluster adds to a score, a table a run; None if the runs do not say it."""
    if not runs:
        return None
    try:
        counts = [score.clusters(run.predictions) for run in runs]
    except ValueError:
        return None
    same = all(each.index.equals(counts[0].index) for each in counts)
    return counts if same else None


def _mean(counts: Sequence[pd.DataFrame], runs: Sequence[StoredRun]) -> MeanScore:
    """Average a score over runs, from what clusters add to it."""
    return mean_score(_stacked(counts), [run.generator for run in runs])


def _stacked(counts: Sequence[pd.DataFrame]) -> Counts:
    return np.stack([each.to_numpy() for each in counts], axis=1)


def _interval(
    score: Score, rows: pd.DataFrame, mean: MeanScore, counts: Sequence[pd.DataFrame] | None
) -> Estimate:
    """The interval of a mean; of one run, that of its row."""
    if len(rows) == 1:
        return _mean_of_rows(rows)
    n = int(rows["n"].iloc[-1])
    if counts is None:
        return interval_of_mean(mean, n, is_share=False, lowest=score.lowest, highest=score.highest)
    return score.interval(mean, _stacked(counts), n)


def _mean_from_rows(rows: pd.DataFrame) -> MeanScore:
    """Average a score over rows alone, as if its images were hard for all runs alike."""
    from scipy.stats import norm  # seconds to import

    values, low, high = rows[["value", "low", "high"]].to_numpy(float).T
    images = float(np.mean(((high - low) / (2 * norm.ppf(TAILS[1]))) ** 2))
    seeds, generators = run_parts(values, 0.0, rows["generator_seed"].tolist())
    influence = np.array([images**0.5])
    return MeanScore(float(values.mean()), influence, Part(images, np.inf), seeds, generators)


def _mean_of_rows(rows: pd.DataFrame) -> Estimate:
    """Average values and ends over rows."""
    if rows.empty:
        return UNDEFINED
    value, low, high = rows[["value", "low", "high"]].to_numpy(float).mean(axis=0)
    return Estimate(float(value), float(low), float(high), int(rows["n"].iloc[-1]))
