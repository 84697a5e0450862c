"""Leaderboards: `<suite>.csv`, computed from rows, one line a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.scores import Score
from benchmarks.core.statistics import TAILS
from benchmarks.core.suite import Suite
from benchmarks.records.csv_cells import csv_text
from benchmarks.records.runs import exclusive, newest, read_runs
from cgn.io.writing import write_text

ENOUGH_SEEDS = 3
IMAGES = ["protocol", "source", "data_sha256"]  # what models share that are ranked together


def leaderboard(runs: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Compute one suite's table: one row a model, ranked among those scored on the same images.

    Only rows of the suite's current protocol count, of each model and seed the newest. With
    two seeds or more, a value is the mean over seeds and its interval the t-interval over
    seeds, cut where the score ends: what other seeds would give on these very images. (For what
    other images would give, too, see `benchmarks.records.compare`.) With one seed, the interval is
    the one over images. Column `interval` says which. The lowest of many groups is low by chance
    with every seed, so for a score with an estimate of its own the ends are the means of the seeds'
    own.

    Args:
        runs: From `benchmarks.records.runs.read_runs`; those of other suites don't count.
        suite: Says which protocol counts, and which scores there are.

    Returns:
        Columns protocol, source, data_sha256, rank, model, seeds, generators (how many CGNs or
        GANs the seeds were trained on), n, then for the primary score its key, key_low, key_high
        and interval, then these three for each other score. The rank is one more than the number
        of models whose whole interval of the primary score is better, so models whose intervals
        overlap may share one. Heads of a model ("model/head"), and shipped weights of one
        ("shipped:model"), are listed for diagnosis, without a rank; data sources and different
        test images never share a ranking.
    """
    rows = newest(runs[(runs["suite"] == suite.name) & (runs["protocol"] == suite.protocol)])
    primary, *others = sorted(suite.all_scores, key=lambda score: score.key != suite.primary)
    columns = [*IMAGES, "rank", "model", "seeds", "generators", "n", *_columns(primary), "interval"]
    columns += [name for score in others for name in _columns(score)]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    models = rows.groupby([*IMAGES, "model"])
    n_seeds = models["seed"].nunique()
    intervals = n_seeds.map(lambda n: "images, one seed" if n == 1 else f"t over {n} seeds")
    drawn = rows["generator_seed"].where(rows["generator_seed"] != "")
    of_primary = _of_score(rows, primary).groupby([*IMAGES, "model"])["n"].last()
    table = pd.concat([_summary(_of_score(rows, s), s) for s in (primary, *others)], axis=1)
    table = table.reindex(n_seeds.index).assign(
        seeds=n_seeds,
        generators=drawn.groupby([rows[name] for name in (*IMAGES, "model")]).nunique(),
        n=of_primary.reindex(n_seeds.index, fill_value=0),
        interval=intervals,
    )
    table = table.reset_index()
    ranked = table[~table["model"].str.contains("/|^shipped:")]
    ranks = [_ranks(rows, primary) for _, rows in ranked.groupby(IMAGES)]
    table["rank"] = pd.concat(ranks) if ranks else pd.NA
    table["rank"] = table["rank"].astype("Int64")
    worse = table[suite.primary] * (-1 if primary.higher_is_better else 1)
    order = [*IMAGES, "rank", "worse", "model"]
    return table.assign(worse=worse).sort_values(order, ignore_index=True)[columns]


def write_leaderboards(results: Path, suites: Iterable[Suite]) -> list[Path]:
    """Rewrite `<suite>.csv` of each of these suites that has rows, from their rows alone.

    Returns:
        The files written.
    """
    by_name = {suite.name: suite for suite in suites}
    written = []
    with exclusive(results):
        runs = read_runs(results, by_name)
        for name, rows in runs.groupby("suite", sort=False):
            written.append(results / f"{name}.csv")
            write_text(written[-1], csv_text(leaderboard(rows, by_name[str(name)])))
    return written


def with_few_seeds(runs: pd.DataFrame, suite: Suite) -> list[str]:
    """Name the ranked models of a suite that stand on fewer seeds than an interval should.

    Args:
        runs: From `benchmarks.records.runs.read_runs`.
        suite: The suite. Networks on ImageNet's own images are trained elsewhere, have one state,
            and are not named.

    Returns:
        Suite, source and model of each.
    """
    if suite.decision_rule is not None:
        return []
    board = leaderboard(runs, suite)
    few = board[board["rank"].notna() & (board["seeds"] < ENOUGH_SEEDS)]
    return [f"{suite.name} {source} {model}" for source, model in few[["source", "model"]].values]


def _columns(score: Score) -> list[str]:
    """The columns of a score: its mean and the ends of the interval."""
    return [score.key, f"{score.key}_low", f"{score.key}_high"]


def _of_score(rows: pd.DataFrame, score: Score) -> pd.DataFrame:
    """The rows of one score, a row a model and seed."""
    return rows[(rows["variant"] == score.variant) & (rows["metric"] == score.metric)]


def _summary(rows: pd.DataFrame, score: Score) -> pd.DataFrame:
    """Mean and ends of the interval of each model: over seeds, if there are several."""
    ordered = rows.sort_values([*IMAGES, "model"], kind="stable")
    n_seeds = ordered.groupby([*IMAGES, "model"]).size()
    cells = ordered[["value", "low", "high"]].to_numpy(float)
    starts = n_seeds.cumsum().to_numpy() - n_seeds.to_numpy()
    summary = np.empty((len(n_seeds), 3))
    for n in n_seeds.unique():  # models with as many seeds all at once
        has_n = n_seeds.to_numpy() == n
        seeds = cells[starts[has_n, None] + np.arange(n)].swapaxes(1, 2)  # (models, 3, seeds)
        summary[has_n] = _mean_and_interval(np.ascontiguousarray(seeds), score)
    return pd.DataFrame(summary, n_seeds.index, _columns(score))


def _mean_and_interval(seeds: NDArray[np.float64], score: Score) -> NDArray[np.float64]:
    """Mean and interval over seeds, of value, low and high, (models, 3, seeds), as (models, 3)."""
    from scipy.stats import t as student_t  # seconds to import

    n = seeds.shape[2]
    if n == 1:
        return seeds[..., 0]
    if score.estimate is not None:
        return np.asarray(seeds.mean(axis=2))
    values = seeds[:, 0]
    mean = values.mean(axis=1)
    half = student_t.ppf(TAILS[1], n - 1) * (values.std(axis=1, ddof=1) / np.sqrt(n))
    low, high = np.clip([mean - half, mean + half], score.lowest, score.highest)
    return np.stack([mean, low, high], axis=1)


def _ranks(rows: pd.DataFrame, primary: Score) -> pd.Series:
    """Rank models on the same images: one more than those whose whole interval is better.

    An undefined score comes last.
    """
    ends = rows[[f"{primary.key}_low", f"{primary.key}_high"]].to_numpy(float)
    low, high = ends.T if primary.higher_is_better else -ends.T[::-1]
    lows = np.sort(low[np.isfinite(low)])
    better = len(lows) - np.searchsorted(lows, high, side="right")
    better[np.isnan(low)] = len(lows)
    return pd.Series(1 + better, index=rows.index)
