"""Leaderboards: `<suite>.csv`, computed from rows, one line a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.core.ranks import Ranks, rank_sets
from benchmarks.core.scores import Score
from benchmarks.core.suite import Suite
from benchmarks.records.csv_cells import csv_text
from benchmarks.records.means import ModelMeans, model_means, on_common_clusters
from benchmarks.records.runs import exclusive, newest, read_runs
from cgn.io.writing import write_text

ENOUGH_SEEDS = 3
RANK = ["rank_low", "rank_high"]
DEVIATIONS = ["sd_images", "sd_seeds", "sd_generators"]
DIAGNOSTIC = "/|^shipped:"  # models that have no rank
IMAGES = ["protocol", "source", "data_sha256"]  # what models share that are ranked together


def leaderboard(runs: pd.DataFrame, suite: Suite, results: Path) -> pd.DataFrame:
    """Compute one suite's table: one row a model, ranked among those scored on the same images.

    Only rows of the suite's current protocol count, of each model and seed the newest. A value is
    the mean over seeds; its interval covers other images, seeds and generators, as
    `benchmarks.records.means.model_means` says.

    Args:
        runs: From `benchmarks.records.runs.read_runs`; those of other suites don't count.
        suite: Says which protocol counts, and which scores there are.
        results: The folder of the rows, with their predictions.

    Returns:
        Columns protocol, source, data_sha256, rank_low, rank_high, model, seeds, generators (how
        many CGNs or GANs the seeds were trained on), selected_on (what the model's settings were
        chosen by), clusters (of images that depend on one another) and n, then for the primary
        score its key, key_low, key_high, interval (what it covers), and the parts of its standard
        deviation, sd_images, sd_seeds and sd_generators, whose squares add up; then the key and
        the ends of each other score. Ranks are the best and the worst that the data allow, from
        `benchmarks.core.ranks.rank_sets`. Heads of a model ("model/head"), and shipped weights of
        one ("shipped:model"), are listed for diagnosis, without a rank; data sources and different
        test images never share a ranking.
    """
    rows = newest(runs[(runs["suite"] == suite.name) & (runs["protocol"] == suite.protocol)])
    primary, *others = sorted(suite.all_scores, key=lambda score: score.key != suite.primary)
    columns = [*IMAGES, *RANK, "model", "seeds", "generators", "selected_on", "clusters", "n"]
    columns += [*_columns(primary), "interval", *DEVIATIONS]
    columns += [name for score in others for name in _columns(score)]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    groups = [_of_images(of_images, suite, results) for _, of_images in rows.groupby(IMAGES)]
    table = pd.concat(groups, ignore_index=True)
    worse = table[suite.primary] * (-1 if primary.higher_is_better else 1)
    order = [*IMAGES, "diagnostic", "worse", "model"]
    table = table.assign(worse=worse, diagnostic=table["rank_low"].isna())
    return table.sort_values(order, ignore_index=True)[columns]


def leaderboards(results: Path, suites: Iterable[Suite]) -> list[tuple[Suite, pd.DataFrame]]:
    """Compute the leaderboards of several suites."""
    suites = list(suites)
    with exclusive(results):
        runs = read_runs(results, [suite.name for suite in suites])
        return [(suite, leaderboard(runs, suite, results)) for suite in suites]


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
            write_text(written[-1], csv_text(leaderboard(rows, by_name[str(name)], results)))
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
    rows = newest(runs[(runs["suite"] == suite.name) & (runs["protocol"] == suite.protocol)])
    rows = rows[~rows["model"].str.contains(DIAGNOSTIC)]
    n_seeds = rows.groupby([*IMAGES, "model"])["seed"].nunique()
    few = n_seeds[n_seeds < ENOUGH_SEEDS].reset_index()
    return [f"{suite.name} {source} {model}" for source, model in few[["source", "model"]].values]


def _columns(score: Score) -> list[str]:
    """The columns of a score: its mean and the ends of the interval."""
    return [score.key, f"{score.key}_low", f"{score.key}_high"]


def _of_images(rows: pd.DataFrame, suite: Suite, results: Path) -> pd.DataFrame:
    """The lines of all models with rows on the same images, ranked."""
    models = [of_model for _, of_model in rows.groupby("model")]
    means = [model_means(results, suite, of_model) for of_model in models]
    table = pd.DataFrame(
        [
            _line(of_model) | _cells(mean, suite)
            for of_model, mean in zip(models, means, strict=True)
        ]
    )
    table["interval"] = [_covered(line) for line in table.to_dict("records")]
    ranked = np.flatnonzero(~table["model"].str.contains(DIAGNOSTIC))
    primary = next(score for score in suite.scores if score.key == suite.primary)
    best, worst = _ranks([means[place] for place in ranked], primary)
    for name, ranks in zip(RANK, (best, worst), strict=True):
        table[name] = pd.Series(ranks, ranked, dtype="Int64")
    return table


def _line(rows: pd.DataFrame) -> dict[str, Any]:
    """What rows of one model are of, and how many seeds and generators."""
    drawn = rows["generator_seed"]
    counts = {"seeds": rows["seed"].nunique(), "generators": drawn[drawn != ""].nunique()}
    rules = {"selected_on": "; ".join(rows["selected_on"].unique())}
    return {name: rows[name].iloc[0] for name in (*IMAGES, "model")} | counts | rules


def _cells(means: ModelMeans, suite: Suite) -> dict[str, float]:
    """Values, ends and deviations of one model."""
    cells: dict[str, float] = {"clusters": len(means.clusters)}
    for score, estimate in means.estimates.items():
        cells |= dict(zip(_columns(score), estimate[:3], strict=True))
        if score.key == suite.primary:
            cells["n"] = estimate.n
    parts = (means.primary.images, means.primary.seeds, means.primary.generators)
    # Of a factor with one level nothing is known of others.
    known = [True, *(np.isfinite(part.freedom) for part in parts[1:])]
    deviations = [
        part.variance**0.5 if there else np.nan for part, there in zip(parts, known, strict=True)
    ]
    return cells | dict(zip(DEVIATIONS, deviations, strict=True))


def _covered(row: Mapping[Any, Any]) -> str:
    """Say what the interval of a row of the table covers."""
    seeds, generators = row["seeds"], row["generators"]
    if seeds == 1:
        return "images, one seed"
    drawn = f", {generators} generators" if generators > 1 else ""
    return f"images, {seeds} seeds{drawn}{'' if row['clusters'] else ', from rows alone'}"


def _ranks(models: Sequence[ModelMeans], primary: Score) -> tuple[Ranks, Ranks]:
    """Best and worst rank of models on the same images."""
    sign = 1 if primary.higher_is_better else -1
    return rank_sets(
        [
            mean._replace(value=sign * mean.value, influence=sign * mean.influence)
            for mean in on_common_clusters(models)
        ]
    )
