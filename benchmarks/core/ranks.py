"""Which ranks of a model the data allow: confidence sets that hold for all models together.

Source:
    Mogstad, Romano, Shaikh and Wilhelm, Inference for Ranks with Applications to Mobility across
    Neighbourhoods and Academic Achievement across Countries, Review of Economic Studies 2023.
    Levels that are alike for all pairs: Beran, Balanced simultaneous confidence sets, JASA 1988.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.core.statistics import CONFIDENCE
from benchmarks.core.variance import Floats, MeanScore, weighted_quantile

N_DRAWS = 4_000
Ranks = NDArray[np.int64]


def rank_sets(means: Sequence[MeanScore], *, seed: int = 0) -> tuple[Ranks, Ranks]:
    """Find for each of several models the best and the worst rank that it may have.

    The set of each model holds its true rank with 95 % probability. It is one more than the number
    of models that are surely better, to one more than the number that are not surely worse; sure is
    what the intervals of the model's differences to all others say, which hold together by a
    bootstrap of all models on the same clusters of images: each cluster gets one normal weight for
    all models. What seeds and generators change is drawn from Student's distributions.

    Args:
        means: Of each model the score, higher is better, with its influence (clusters,) over the
            same clusters for all; NaN for a model whose score is undefined: it comes last.
        seed: Decides the draws.

    Returns:
        The best rank of each model and the worst, each (models,), from 1.

    Example:
        >>> hits = np.repeat([[1, 0, 1], [1, 0, 0], [0, 0, 0]], [60, 20, 20], axis=0)
        >>> from benchmarks.core.variance import mean_score
        >>> counts = np.stack([hits, np.ones_like(hits)], axis=2)
        >>> best, worst = rank_sets([mean_score(counts[:, [model]]) for model in range(3)])
        >>> list(zip(best.tolist(), worst.tolist()))
        [(1, 1), (3, 3), (2, 2)]
    """
    values = np.array([mean.value for mean in means])
    defined = np.flatnonzero(np.isfinite(values)).tolist()
    best = np.full(len(means), len(defined) + 1)
    worst = np.full(len(means), len(means))
    if not len(defined):
        return best, worst
    known = [means[place] for place in defined]
    drawn = _draws(known, np.random.default_rng(seed))
    for model, place in enumerate(defined):
        n_better, n_worse = _surely_apart(known, model, drawn)
        best[place], worst[place] = 1 + n_better, len(defined) - n_worse
    return best, worst


def _surely_apart(means: Sequence[MeanScore], model: int, drawn: Floats) -> tuple[int, int]:
    """How many models are surely better than one of them, and how many are surely worse."""
    others = np.delete(np.arange(len(means)), model)
    if not len(others):
        return 0, 0
    variances, freedoms = _parts_of_pairs(means, others, np.full(len(others), model))
    deviations = np.sqrt(variances.sum(axis=1))
    varies = deviations > 0  # models that answer alike never differ, but for rounding
    off = np.abs(drawn[:, others] - drawn[:, [model]])[:, varies] / deviations[varies]
    level = _simultaneous_level(off, variances[varies], freedoms[varies])
    values = np.array([mean.value for mean in means])
    ahead = _in_deviations(values[others] - values[model], deviations)
    critical = weighted_quantile(variances, freedoms, level)
    return int((ahead > critical).sum()), int((ahead < -critical).sum())


def _parts_of_pairs(
    means: Sequence[MeanScore], first: Ranks, second: Ranks
) -> tuple[Floats, Floats]:
    """Variances and degrees of freedom of differences: images, seeds and generators, (pairs, 3)."""
    influence = np.stack([mean.influence for mean in means], axis=1)
    products = influence.T @ influence
    own = np.diag(products)
    images = np.maximum(own[first] + own[second] - 2 * products[first, second], 0)
    # Of two models that answer alike, rounding leaves a variance.
    images[images < 1e-12 * (own[first] + own[second])] = 0
    parts = [(images, np.full(len(first), min(mean.images.freedom for mean in means)))]
    for kind in ("seeds", "generators"):
        variance, freedom = np.array([getattr(mean, kind) for mean in means]).T
        total = variance[first] + variance[second]
        weighed = variance**2 / freedom
        squares = weighed[first] + weighed[second]
        parts.append(
            (total, np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1), 1))
        )
    variances, freedoms = zip(*parts, strict=True)
    return np.stack(variances, axis=1), np.stack(freedoms, axis=1)


def _draws(means: Sequence[MeanScore], generator: np.random.Generator) -> Floats:
    """Draw how far all models are off together, (draws, models)."""
    influence = np.stack([mean.influence for mean in means], axis=1)
    # Normal weights of clusters give a normal distribution: its covariance is all that counts.
    scale, axes = np.linalg.eigh(influence.T @ influence)
    root = axes * np.sqrt(np.maximum(scale, 0))
    freedom = min(1e9, *(mean.images.freedom for mean in means))
    spread = np.sqrt(freedom / generator.chisquare(freedom, size=(N_DRAWS, 1)))
    drawn = spread * (generator.standard_normal((N_DRAWS, len(means))) @ root.T)
    for model, mean in enumerate(means):
        for variance, part_freedom in mean.of_runs:
            if variance > 0:
                drawn[:, model] += variance**0.5 * generator.standard_t(part_freedom, N_DRAWS)
    return np.asarray(drawn)


def _simultaneous_level(distances: Floats, variances: Floats, freedoms: Floats) -> float:
    """The level at which no pair of 95 of 100 draws is beyond its critical value."""
    low, high = np.log(1e-12), np.log(1 - CONFIDENCE)
    for _ in range(30):
        middle = (low + high) / 2
        critical = weighted_quantile(variances, freedoms, float(np.exp(middle)))
        if (distances > critical).any(axis=1).mean() > 1 - CONFIDENCE:
            high = middle
        else:
            low = middle
    return float(np.exp(low))


def _in_deviations(distances: Floats, deviations: Floats) -> Floats:
    """Divide by standard deviations; where there is none, any distance is beyond every value."""
    there = deviations > 0
    beyond = np.where(np.abs(distances) > 1e-12, np.copysign(np.inf, distances), 0)
    return np.where(there, distances / np.where(there, deviations, 1), beyond)
