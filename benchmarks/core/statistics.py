"""Estimates with intervals: pure functions of counts.

Source:
    Wilson interval: Wilson, Probable inference, JASA 1927.
    Bootstrap over clusters: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    Exact interval: Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 1934.
    Limits of a minimum: Berger, Multiparameter hypothesis testing and acceptance sampling,
    Technometrics 1982.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64] | NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
EXACT_BELOW = 5  # hits or misses; with fewer, Wilson's interval is too short


class Estimate(NamedTuple):
    """A value with its 95 % interval; fractions, never percent; n is the number of images."""

    value: float
    low: float
    high: float
    n: int


UNDEFINED = Estimate(np.nan, np.nan, np.nan, 0)


def worst_group_interval(groups: NDArray[np.int64]) -> Estimate:
    """Lowest share of hits among groups, with an interval for the lowest true share.

    Each group has its exact limits; the lowest of the lower ones and the lowest of the upper ones
    are the ends. The lower ends need no correction: the lowest true share belongs to one group,
    and if that is above its own lower limit, it is above the lowest of them. The upper ones need
    Bonferroni's, for the lowest of many is likely to be one that came out too low. So the
    interval covers in 95 of 100 cases or more, whether groups overlap or not. Bootstrapping the
    minimum would not do: it takes the worst again of what chance has made worse, and of 100
    groups that are all alike with 10 or 100 images each, it covered the truth in none of 400
    simulations.

    Args:
        groups: Hits and images of each group, at least one, (groups, 2) int64.

    Returns:
        The lowest share and its 95 % interval; n is the number of images in that group.

    Example:
        >>> estimate = worst_group_interval(np.array([[95, 100], [40, 100]]))
        >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2), estimate.n
        (0.4, 0.3, 0.52, 100)
    """
    from scipy.stats import beta  # seconds to import

    hits, images = groups[:, 0], groups[:, 1]
    # A beta distribution of parameter 0 has no quantiles: there the limits are 0 and 1.
    lower = np.where(hits == 0, 0.0, beta.ppf(TAILS[0], hits, images - hits + 1))
    tail = TAILS[0] / len(groups)
    upper = np.where(hits == images, 1.0, beta.ppf(1 - tail, hits + 1, images - hits))
    place = int((hits / images).argmin())
    value = float(hits[place] / images[place])
    return Estimate(value, float(lower.min()), float(upper.min()), int(images[place]))


def proportion(hits: NDArray[np.bool_]) -> Estimate:
    """Share of hits with its interval: Wilson's, or the exact one near 0 and 1.

    Args:
        hits: Whether each image counts, (N,) bool.

    Returns:
        The estimate; all of it NaN if there are no images.

    Example:
        >>> estimate = proportion(np.array([True] * 50 + [False] * 50))
        >>> round(estimate.low, 3), round(estimate.high, 3)
        (0.404, 0.596)
        >>> round(proportion(np.array([True] * 100)).low, 4)  # 0.025 ** (1 / 100)
        0.9638
    """
    from scipy.stats import binomtest  # seconds to import

    n, n_hits = len(hits), int(hits.sum())
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    rare = min(n_hits, n - n_hits) < EXACT_BELOW
    method: Literal["exact", "wilson"] = "exact" if rare else "wilson"
    interval = binomtest(n_hits, n).proportion_ci(CONFIDENCE, method=method)
    return Estimate(n_hits / n, float(interval.low), float(interval.high), n)


def mean(values: NDArray[np.float64]) -> Estimate:
    """Mean of independent values with Student's interval.

    Args:
        values: One an image, or one a seed, (N,) float64.

    Returns:
        The estimate; all of it NaN if there are fewer than two values. If all are alike, the
        interval has no width.

    Source:
        Student, The probable error of a mean, Biometrika 1908.

    Example:
        >>> estimate = mean(np.array([0.25] * 50 + [0.75] * 50))
        >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2), estimate.n
        (0.5, 0.45, 0.55, 100)
    """
    from scipy.stats import t as student_t  # seconds to import

    n = len(values)
    if n < 2:
        return Estimate(np.nan, np.nan, np.nan, n)
    value = float(values.mean())
    error = values.std(ddof=1) / np.sqrt(n)
    half = float(student_t.ppf(TAILS[1], n - 1) * error)
    return Estimate(value, value - half, value + half, n)


def is_count(clusters: Counts) -> bool:
    """Tell whole numbers of decisions from sums of probabilities."""
    return bool(np.issubdtype(clusters.dtype, np.integer))


def n_images(clusters: Counts) -> int:
    """Count the images behind clusters, (clusters, 2 or 4); of probabilities, the clusters."""
    return int(clusters[:, 1::2].sum()) if is_count(clusters) else len(clusters)


def bootstrap(clusters: Counts, *, seed: int = 0) -> Estimate:
    """Percentile interval of a share, or of a difference of two, resampling whole clusters.

    Args:
        clusters: Hits and images of each cluster, (clusters, 2) int64, or what takes their place
            where probabilities are averaged; with those of the second share (clusters, 4).
        seed: Decides the resamples; the same seed gives the same interval.

    Returns:
        The share of all clusters and its 95 % interval; NaN where it is undefined. If all
        clusters are alike, the interval has no width.

    Example:
        >>> estimate = bootstrap(np.array([[1, 1]] * 50 + [[0, 1]] * 50))
        >>> estimate.value, round(estimate.low, 2), round(estimate.high, 2), estimate.n
        (0.5, 0.4, 0.6, 100)
    """
    n = n_images(clusters)
    value = float(ratios(clusters.sum(axis=0)))
    if not np.isfinite(value):
        return Estimate(np.nan, np.nan, np.nan, n)
    resampled = ratios(resample(clusters, np.random.default_rng(seed)))
    low, high = np.nanquantile(resampled, TAILS)
    return Estimate(value, float(low), float(high), n)


def resample(clusters: Counts, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw clusters with replacement, and sum them, many times.

    Clusters with equal counts are interchangeable, so how often each *kind* of cluster is drawn
    follows one multinomial: exact, and its cost does not grow with the number of clusters. Of
    sums of probabilities no two are alike: these are drawn one by one.

    Args:
        clusters: What each cluster adds to each sum, (clusters, sums) int64 or float64.
        generator: Decides what is drawn.

    Returns:
        Sums, (RESAMPLES, sums).
    """
    if not is_count(clusters):
        return _resample_each(clusters, generator)
    kinds, times = np.unique(clusters, axis=0, return_counts=True)
    sums = np.empty((RESAMPLES, clusters.shape[1]))
    for start in range(0, RESAMPLES, 1_000):  # all at once, many kinds would fill the memory
        drawn = generator.multinomial(len(clusters), times / len(clusters), size=1_000)
        sums[start : start + 1_000] = drawn.astype(float) @ kinds
    return sums


def _resample_each(clusters: Counts, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw clusters of which no two are alike, a few resamples at once."""
    n = len(clusters)
    at_once = max(1, 1_000_000 // n)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        size = (min(at_once, RESAMPLES - start), n)
        drawn = generator.integers(n, size=size, dtype=np.int32)
        parts.append(np.stack([column[drawn].sum(axis=1) for column in clusters.T], axis=1))
    return np.concatenate(parts)


def ratios(sums: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide hits by images; of two shares, take the second from the first.

    Args:
        sums: (..., 2) hits and images, or (..., 4) with those of the second share.

    Returns:
        (...), NaN without images.

    Example:
        >>> ratios(np.array([[1, 2, 1, 4], [1, 2, 0, 0]]))
        array([0.25,  nan])
    """
    hits, images = sums[..., 0::2], sums[..., 1::2]
    parts = np.where(images > 0, hits / np.where(images > 0, images, 1), np.nan)
    return np.asarray(parts[..., 0] - parts[..., 1:].sum(axis=-1))
