"""How far a mean over runs may be off, and which part of it images, seeds and generators have.

Test images and runs are crossed random factors, and runs are nested in the generators whose images
they were trained on. The variance of a mean over all of them is a sum of parts, each estimated
with few or many degrees of freedom; a critical value weighs Student's of each part by its variance.

Source:
    Crossed and nested factors: Searle, Casella and McCulloch, Variance Components, 1992.
    Variance over clusters: Bell and McCaffrey, Bias reduction in standard errors for linear
    regression with multi-stage samples, Survey Methodology 2002.
    Degrees of freedom of a sum: Satterthwaite, An approximate distribution of estimates of variance
    components, Biometrics 1946.
    Critical value of a sum of parts: Cochran and Cox, Experimental Designs, 1957, section 4.14.
    Shares of clustered images: Dean and Pagano, Evaluating confidence interval methods for binomial
    proportions in clustered surveys, J. Survey Statistics and Methodology 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.core.statistics import CONFIDENCE, TAILS, Counts, Estimate, ratios

Floats = NDArray[np.float64]

SMALLEST_P_VALUE = 1e-300


class Part(NamedTuple):
    """A part of a variance, with the degrees of freedom that it is estimated with."""

    variance: float
    freedom: float


class MeanScore(NamedTuple):
    """A score's mean over runs, with the parts of its variance.

    Attributes:
        value: The mean; NaN if a run is undefined.
        influence: How much each cluster of images moves the mean, (clusters,), divided so that the
            sum of squares is an unbiased variance.
        images: What other images would change.
        seeds: What other seeds would change; no variance if there is one run.
        generators: What other generators would change. With one generator for all runs nothing is
            known of others, and it is no variance; with a generator a run it is that of both
            generators and seeds.
    """

    value: float
    influence: Floats
    images: Part
    seeds: Part
    generators: Part

    @property
    def of_runs(self) -> list[Part]:
        """What other runs would change."""
        return [self.seeds, self.generators]

    @property
    def parts(self) -> list[Part]:
        """All parts."""
        return [self.images, *self.of_runs]

    @property
    def variance(self) -> float:
        """Variance of the mean."""
        return sum(part.variance for part in self.parts)


NOTHING = Part(0.0, np.inf)  # of a factor with one level


def mean_score(clusters: Counts, generators: Sequence[str] = ()) -> MeanScore:
    """Average a share, or a difference of two, over runs, with the parts of its variance.

    Args:
        clusters: What each cluster of images adds to each run, (clusters, runs, 2 or 4), as for
            `benchmarks.core.statistics.bootstrap`.
        generators: Of each run, which generator drew its training images; empty if none did.

    Example:
        >>> hits = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]]).T
        >>> mean = mean_score(np.stack([hits, np.ones_like(hits)], axis=2))
        >>> round(mean.value, 3), round(mean.images.variance**0.5, 3)
        (0.667, 0.236)
    """
    values, influence, weights = linearised(clusters)
    common = influence.mean(axis=1)
    # What is hard for one run alone differs between runs, but it is images that cause it.
    own = float(np.square(influence - common[:, None]).sum()) / max(1, len(values) - 1)
    seeds, generator = run_parts(values, own, generators)
    images = Part(float(np.square(common).sum()), cluster_freedom(weights))
    return MeanScore(float(values.mean()), common, images, seeds, generator)


def linearised(clusters: Counts) -> tuple[Floats, Floats, Floats]:
    """Write the score of each run as a sum over clusters.

    Args:
        clusters: As for `mean_score`.

    Returns:
        Scores (runs,); influence of each cluster on each score (clusters, runs), divided so that
        the sum of squares is the variance; and the share of images in each cluster (clusters,).
    """
    totals = clusters.sum(axis=0, dtype=float)
    images = np.where(totals[..., 1::2] == 0, np.nan, totals[..., 1::2])
    parts = (clusters[..., 0::2] - totals[..., 0::2] / images * clusters[..., 1::2]) / images
    influence = parts[..., 0] - parts[..., 1:].sum(axis=-1)
    sizes = np.abs(clusters[..., 1::2]).sum(axis=(1, 2), dtype=float)
    weights = sizes / max(sizes.sum(), np.finfo(float).tiny)
    # One cluster is all there is: nothing is known of others.
    corrected = influence / np.sqrt(np.where(weights < 1, 1 - weights, np.nan))[:, None]
    return ratios(totals), np.asarray(corrected), weights


def cluster_freedom(weights: Floats) -> float:
    """Count the degrees of freedom of a variance over clusters of these shares of the images.

    As if the shares of hits of all clusters varied alike. Of equal clusters it is one less than
    their number, and the less the more they differ in size.

    Args:
        weights: Shares of the images, (clusters,), sum 1.

    Example:
        >>> round(cluster_freedom(np.full(10, 0.1)), 6)
        9.0
        >>> round(cluster_freedom(np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])), 1)
        1.6
    """
    share = weights[(weights > 0) & (weights < 1)]
    if len(share) < 2:
        return 1.0
    scale = share**2 / (1 - share)
    # Of A = (I - 1 share')' diag(scale) (I - 1 share'), the trace and that of A A.
    total, mixed = scale.sum(), scale @ share
    off_diagonal = total * share**2 - 2 * scale * share
    diagonal = scale + off_diagonal
    length = share @ share
    low_rank = (
        2 * (scale @ scale) * length
        + 2 * mixed**2
        + total**2 * length**2
        - 4 * total * mixed * length
    )
    square = low_rank - (off_diagonal**2).sum() + (diagonal**2).sum()
    return float(diagonal.sum() ** 2 / square)


def run_parts(values: Floats, own: float, generators: Sequence[str] = ()) -> tuple[Part, Part]:
    """Split what differs between runs into what seeds and what generators cause of the mean.

    Args:
        values: Score of each run, (runs,).
        own: Variance of a run's score that images cause which are hard for this run alone.
        generators: Generator of each run, as for `mean_score`.

    Returns:
        The parts of seeds and of generators, as in `MeanScore`.

    Example:
        >>> seeds, generators = run_parts(np.array([0.1, 0.3, 0.5, 0.7]), 0.0, "aabb")
        >>> round(seeds.variance, 3), round(generators.variance, 3)
        (0.005, 0.035)
    """
    n_runs = len(values)
    if n_runs == 1:
        return NOTHING, NOTHING
    place = np.unique(np.asarray(list(generators) or [""] * n_runs), return_inverse=True)[1]
    counts = np.bincount(place)
    n_generators = len(counts)
    if n_generators in (1, n_runs):
        whole = Part(max(0.0, values.var(ddof=1) - own) / n_runs, n_runs - 1.0)
        return (whole, NOTHING) if n_generators == 1 else (NOTHING, whole)
    means = np.bincount(place, values) / counts
    within = float(np.square(values - means[place]).sum() / (n_runs - n_generators))
    between = float((counts * np.square(means - values.mean())).sum() / (n_generators - 1))
    crowd = float((counts**2).sum() / n_runs)  # runs of a generator, as a run sees it
    a_generator = (n_runs - crowd) / (n_generators - 1)
    of_generators = max(0.0, between - max(within, own)) / a_generator * crowd / n_runs
    return (
        Part(max(0.0, within - own) / n_runs, float(n_runs - n_generators)),
        Part(of_generators, n_generators - 1.0),
    )


def difference_parts(one: MeanScore, other: MeanScore) -> list[Part]:
    """Return the parts of the variance of a difference of two means over the same images.

    What images change for both cancels. Seeds and generators of one model are not those of the
    other.
    """
    images = float(np.square(one.influence - other.influence).sum())
    return [
        Part(images, one.images.freedom),
        sum_of_parts([one.seeds, other.seeds]),
        sum_of_parts([one.generators, other.generators]),
    ]


def sum_of_parts(parts: Sequence[Part]) -> Part:
    """Add independent parts of one kind, with the degrees of freedom of Welch and Satterthwaite.

    Example:
        >>> sum_of_parts([Part(1.0, 10.0), Part(1.0, 10.0)])
        Part(variance=2.0, freedom=20.0)
    """
    total = sum(part.variance for part in parts)
    if not total > 0:
        return NOTHING
    return Part(total, total**2 / sum(part.variance**2 / part.freedom for part in parts))


def critical_value(parts: Sequence[Part], level: float = 1 - CONFIDENCE) -> float:
    """Say how many standard deviations a mean is off with a probability, on either side.

    Args:
        parts: Of its variance.
        level: The probability.

    Example:
        >>> round(critical_value([Part(1.0, 2.0)]), 2), round(critical_value([Part(1.0, 1e9)]), 2)
        (4.3, 1.96)
    """
    variances, freedoms = np.array(parts).T
    return float(weighted_quantile(variances, freedoms, level))


def weighted_quantile(variances: Floats, freedoms: Floats, level: Floats | float) -> Floats:
    """Weigh Student's two-sided critical values of parts by their variances.

    Args:
        variances: (..., parts).
        freedoms: (..., parts).
        level: How likely they are exceeded, (...).

    Returns:
        (...); that of the first part if nothing varies.
    """
    from scipy.special import stdtrit  # seconds to import

    finite = np.minimum(freedoms, 1e12)
    quantiles = -stdtrit(finite, np.asarray(level)[..., None] / 2)
    total = variances.sum(axis=-1)
    quantiles = np.where(variances > 0, quantiles, quantiles.min(axis=-1, keepdims=True))
    weighed = (variances * quantiles).sum(axis=-1) / np.where(total > 0, total, 1)
    return np.asarray(np.where(total > 0, weighed, quantiles[..., 0]))


def p_value(distance: float, parts: Sequence[Part], n_clusters: int) -> float:
    """Test whether a mean, or a difference of means, is 0, two-sided.

    Args:
        distance: How far it is from 0.
        parts: Of its variance.
        n_clusters: How many clusters of images there are. If all of them say the same, nothing
            varies; then the sign test speaks, and no test of so many clusters may say more.

    Returns:
        How likely such a distance is at 0; the level whose critical value it is. Not below
        `SMALLEST_P_VALUE`.

    Example:
        >>> round(p_value(1.96, [Part(1.0, 1e9)], n_clusters=100), 3)
        0.05
        >>> p_value(0.1, [Part(0.0, 9.0)], n_clusters=10)
        0.001953125
    """
    if not np.isfinite(distance):
        return float("nan")
    least = 2.0 ** max(1 - n_clusters, -996)
    deviation = sum(part.variance for part in parts) ** 0.5
    if not np.isfinite(deviation) or distance == 0:
        return 1.0
    if deviation == 0:
        return least
    low, high = np.log(SMALLEST_P_VALUE), 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if critical_value(parts, float(np.exp(middle))) > abs(distance) / deviation:
            low = middle
        else:
            high = middle
    return max(least, float(np.exp(high)))


def interval_of_mean(
    mean: MeanScore, n: int, *, is_share: bool, lowest: float = 0.0, highest: float = 1.0
) -> Estimate:
    """Give the 95 % interval of a mean over runs.

    Of a share it is Wilson's, of as many images as independent ones would give this variance; where
    every image is hit or none, the exact one, a cluster for an image. Of anything else it is
    symmetric.

    Args:
        mean: From `mean_score`.
        n: Number of images of one run.
        is_share: Whether the score is one share of counted decisions.
        lowest: The lowest value the score can take.
        highest: The highest value it can take.

    Returns:
        The estimate; NaN if a run is undefined. Of one cluster, the interval is all that is
        possible.

    Example:
        >>> hits = np.array([[3, 4], [0, 4], [4, 4], [4, 4], [2, 4]])
        >>> interval = interval_of_mean(mean_score(hits[:, None]), 20, is_share=True)
        >>> interval.value, round(interval.low, 2), round(interval.high, 2)
        (0.65, 0.21, 0.93)
    """
    value, variance = mean.value, mean.variance
    if not np.isfinite(value):
        return Estimate(np.nan, np.nan, np.nan, n)
    if not np.isfinite(variance):
        return Estimate(value, lowest, highest, n)
    if is_share and value in (0.0, 1.0):
        beyond = float(TAILS[0] ** (1 / len(mean.influence)))
        return Estimate(value, *((beyond, 1.0) if value else (0.0, 1 - beyond)), n)
    quantile = critical_value(mean.parts)
    low, high = value - quantile * variance**0.5, value + quantile * variance**0.5
    if is_share:
        low, high = wilson(value, variance, quantile)
    return Estimate(value, max(low, lowest), min(high, highest), n)


def wilson(share: float, variance: float, quantile: float) -> tuple[float, float]:
    """Give Wilson's limits of a share whose variance is estimated.

    Args:
        share: In (0, 1).
        variance: Of the share.
        quantile: How many standard deviations count.

    Example:
        >>> low, high = wilson(0.5, 0.5 * 0.5 / 100, 1.96)  # of 100 independent images
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
    """
    spread = quantile**2 * variance / (share * (1 - share))
    middle = (share + spread / 2) / (1 + spread)
    half = float(np.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread))
    return middle - half, middle + half
