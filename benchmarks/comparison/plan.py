"""Plans of runs: how many images, seeds and generators show a difference between two models.

The variances are those of stored runs of the same two models on the same suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.comparison.power import (
    POWER,
    Design,
    Variances,
    clusters_needed,
    difference_variances,
    minimum_detectable_effect,
    power,
)
from benchmarks.core.scores import Score
from benchmarks.core.statistics import n_images
from benchmarks.records.compare import is_exact, paired_counts
from benchmarks.records.stored_runs import StoredRun

USUAL_SEEDS = (3, 5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What stored runs of two models say about their difference in one score.

    Attributes:
        score: What is compared.
        models: Names of the two models.
        variances: Where the variance of the difference comes from.
        design: The sizes of the stored runs.
        images_per_cluster: The mean number of images that a cluster has.
        difference: The first model's score minus the second's, as stored; a fraction.
    """

    score: Score
    models: tuple[str, str]
    variances: Variances
    design: Design
    images_per_cluster: float
    difference: float


class Plan(NamedTuple):
    """One size of a run.

    Attributes:
        seeds: Of each model.
        generators: Of each model that has any.
        images: How many the run has.
        detectable: The smallest difference that it finds with the wanted power; a fraction.
        power: How likely it finds the difference that is asked for.
        images_needed: How many images find that difference with the wanted power; infinite where
            seeds and generators alone vary too much.
    """

    seeds: int
    generators: int
    images: int
    detectable: float
    power: float
    images_needed: float


def pilot(
    score: Score, models: tuple[str, str], first: Sequence[StoredRun], second: Sequence[StoredRun]
) -> Pilot:
    """Estimate the variances of the difference between two models from stored runs.

    Args:
        score: Of the suite; one that two models can be compared by.
        models: Names of the two models.
        first: Runs of the first model.
        second: Runs of the second, on the same images.

    Raises:
        ValueError: If a model has no runs, the runs are not on the same images, or the score is
            undefined in one of them.
    """
    if not first or not second:
        raise ValueError(f"there are no stored runs of {models[0] if not first else models[1]}")
    runs = [*first, *second]
    counts = paired_counts(score, [run.predictions for run in runs])
    generators = [run.generator for run in first], [run.generator for run in second]
    variances = difference_variances(
        counts[:, : len(first)], counts[:, len(first) :], generators, is_exact=is_exact(counts)
    )
    if not np.isfinite(variances.clusters):
        raise ValueError(f"{score.key} is undefined in stored runs of {' or '.join(models)}")
    values = [score.compute(run.predictions).value for run in runs]
    return Pilot(
        score=score,
        models=models,
        variances=variances,
        design=Design(
            clusters=len(counts),
            seeds=(len(first), len(second)),
            generators=(_n_generators(first), _n_generators(second)),
        ),
        images_per_cluster=n_images(counts[:, 0]) / len(counts),
        difference=float(np.mean(values[: len(first)]) - np.mean(values[len(first) :])),
    )


def make_plans(
    stored: Pilot,
    difference: float,
    *,
    images: int | None = None,
    seeds: int | None = None,
    generators: int | None = None,
    wanted: float = POWER,
) -> list[Plan]:
    """Say what runs of several sizes can see.

    Args:
        stored: From `pilot`.
        difference: That is to be found, a fraction other than 0.
        images: How many images a run has; None for as many as the stored runs.
        seeds: How many seeds of each model; None for `USUAL_SEEDS`, or for one where the stored
            runs have one and so do not tell how much seeds vary.
        generators: How many generators a model with any has, at most one a seed; None for as many
            as in the stored runs, but one a seed where it was so there.
        wanted: With which power, in (0.05, 1).

    Raises:
        ValueError: If the images make less than two clusters, the difference is 0, or there are to
            be several seeds of a model that has one stored seed.
    """
    single = [m for m, n in zip(stored.models, stored.design.seeds, strict=True) if n == 1]
    if single and seeds is not None and seeds > 1:
        raise ValueError(
            f"how much seeds vary is not known: {' and '.join(single)} has one stored seed"
        )
    usual = (1,) if single else USUAL_SEEDS
    size = stored.images_per_cluster
    clusters = stored.design.clusters if images is None else int(images / size)
    plans = []
    for n_seeds in usual if seeds is None else (seeds,):
        each = tuple(
            _planned_generators(n, of, n_seeds, generators)
            for n, of in zip(stored.design.generators, stored.design.seeds, strict=True)
        )
        planned = each[0], each[1]
        design = Design(clusters=clusters, seeds=(n_seeds, n_seeds), generators=planned)
        needed = clusters_needed(difference, stored.variances, design.seeds, planned, wanted)
        plans.append(
            Plan(
                n_seeds,
                max(planned),
                round(clusters * size),
                minimum_detectable_effect(stored.variances, design, wanted),
                power(difference, stored.variances, design),
                float(np.ceil(needed * size)),
            )
        )
    return plans


def _n_generators(runs: Sequence[StoredRun]) -> int:
    """Count the generators of a model's runs; 0 for a model without one."""
    return len({run.generator for run in runs if run.generator})


def _planned_generators(stored: int, stored_seeds: int, seeds: int, wanted: int | None) -> int:
    """Choose how many generators a model has in a plan."""
    if not stored:
        return 0
    if wanted is None:
        return seeds if stored == stored_seeds else min(stored, seeds)
    return min(wanted, seeds)
