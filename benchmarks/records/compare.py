"""Two models on the same images: what differs, and whether chance alone could do it.

Computed from stored predictions; no model is needed.

Source:
    McNemar, Note on the sampling error of the difference between correlated proportions,
    Psychometrika 1947.
    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 1979.
    Davison and Hinkley, Bootstrap Methods and their Application, 1997 (resampling on two levels).
    Welch, The generalization of Student's problem, Biometrika 1947.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.scores import Score
from benchmarks.core.statistics import (
    CONFIDENCE,
    RESAMPLES,
    TAILS,
    Counts,
    is_count,
    n_images,
    ratios,
    resample,
)

POWER = 0.8  # how likely a difference of the smallest detectable size is to be found


class Difference(NamedTuple):
    """How much higher the first model scores than the second.

    Attributes:
        first: Score of the first model, the mean over its seeds.
        second: The same of the second.
        value: first - second.
        low: Lower end of the difference's 95 % interval.
        high: Upper end of it.
        p_value: How likely a difference at least as large is between models that are equal.
        minimum_detectable_effect: The smallest true difference that would be found here in 4 cases
            of 5.
        n: Images that count for the score, in one run of the first model.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p_value: float
    minimum_detectable_effect: float
    n: int


def compare(
    score: Score, first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame], *, seed: int = 0
) -> Difference:
    """Compare two models by one score on the same images.

    The bootstrap resamples images for all runs together, so that what is hard about one of them
    cancels. Where a model has several seeds, a draw from Student's distribution, as wide as the
    seeds differ, stands for other seeds: a bootstrap of three seeds is too narrow. An accuracy of
    one seed each, over independent images, is tested by McNemar's exact test, everything else by
    the bootstrap itself.

    Args:
        score: Of the suite.
        first: Predictions of the first model, a table a seed.
        second: The same of the second.
        seed: Decides the resamples.

    Returns:
        The difference; NaN where a score is undefined.

    Raises:
        ValueError: If a model has no runs, the runs are not on the same images, or the score is
            not `supports_bootstrap`.
    """
    from scipy.stats import norm  # seconds to import

    if not score.supports_bootstrap:
        raise ValueError(f"{score.key} cannot be resampled, so no two models are compared by it")
    if not first or not second:
        raise ValueError("each model needs the predictions of at least one run")
    if not any(score.seen_in(table) for table in (*first, *second)):  # a variant had no images
        return Difference(*(np.nan,) * 7, n=0)
    clusters = paired_counts(score, [*first, *second])
    n, n_first = n_images(clusters[:, 0]), len(first)
    scores = ratios(clusters.sum(axis=0))
    means = float(scores[:n_first].mean()), float(scores[n_first:].mean())
    if not np.isfinite(means[0] - means[1]):
        return Difference(*means, *(np.nan,) * 5, n)
    generator = np.random.default_rng(seed)
    sums = resample(clusters.reshape(len(clusters), -1), generator)
    resampled = ratios(sums.reshape(RESAMPLES, *clusters.shape[1:]))
    differences = resampled[:, :n_first].mean(axis=1) - resampled[:, n_first:].mean(axis=1)
    differences += _other_seeds([scores[:n_first], scores[n_first:]], generator)
    low, high = map(float, np.nanquantile(differences, TAILS))
    one_each = len(scores) == 2 and clusters.shape[2] == 2 and (clusters[..., 1] == 1).all()
    is_exact = one_each and is_count(clusters)
    p_value = mcnemar(clusters[:, :, 0]) if is_exact else _bootstrap_p_value(differences)
    deviation = (high - low) / (2 * norm.ppf(TAILS[1]))  # as of a normal distribution
    detectable = float((norm.ppf(TAILS[1]) + norm.ppf(POWER)) * deviation)
    return Difference(*means, means[0] - means[1], low, high, p_value, detectable, n)


def paired_counts(score: Score, tables: Sequence[pd.DataFrame]) -> Counts:
    """What each cluster of images adds to the score in each run, (clusters, runs, sums).

    Raises:
        ValueError: If the runs are not on the same images.
    """
    counts = [score.count(table) for table in tables]
    if any(not each.index.equals(counts[0].index) for each in counts):
        raise ValueError("the runs are not on the same images: there is nothing to pair")
    return np.stack([each.to_numpy() for each in counts], axis=1)


def mcnemar(
    hits: Counts | NDArray[np.bool_], *, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """Test whether two models are equally often right on the same images: McNemar, exact.

    Args:
        hits: Whether each model is right about each image, (images, 2), 0 or 1.
        alternative: "greater" tests whether the first is better, instead of either.

    Returns:
        How likely so many images that only one gets right are, if both are equal.

    Example:
        >>> only_first = np.array([[True, False]] * 5)
        >>> mcnemar(only_first), mcnemar(only_first, alternative="greater")
        (0.0625, 0.03125)
    """
    from scipy.stats import binomtest  # seconds to import

    only_first = int((hits[:, 0] > hits[:, 1]).sum())
    only_second = int((hits[:, 1] > hits[:, 0]).sum())
    if only_first + only_second == 0:
        return 1.0
    n = only_first + only_second
    return float(binomtest(only_first, n, alternative=alternative).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being the smallest of several.

    Args:
        p_values: Of all comparisons of a family, in [0, 1]; NaN counts as none.

    Returns:
        Corrected p-values in the same order: below 0.05, the comparison stands, and the chance
        that any comparison of the family stands wrongly is at most 5 %.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)  # NaN last
    n_left = np.isfinite(values).sum() - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.minimum(1, values[order] * n_left))
    return [float(value) for value in corrected]


def verdict(
    score: Score, first: str, second: str, difference: Difference, corrected_p_value: float
) -> str:
    """Say in words what a comparison found.

    Args:
        score: What was compared; it says whether higher is better.
        first: Name of the first model.
        second: Name of the second.
        difference: From `compare`.
        corrected_p_value: From `holm`.

    Example:
        >>> from benchmarks.core.scores import shape_bias
        >>> difference = Difference(0.5, 0.52, -0.02, -0.06, 0.02, 0.4, 0.06, 100)
        >>> verdict(shape_bias("conflict"), "a", "b", difference, 0.8)
        'cannot be told apart'
        >>> verdict(shape_bias("conflict"), "a", "b", difference, 0.01)
        'b better'
    """
    if np.isnan(corrected_p_value):
        return "undefined"
    if corrected_p_value >= 1 - CONFIDENCE:
        return "cannot be told apart"
    return f"{first if (difference.value > 0) == score.higher_is_better else second} better"


def _other_seeds(
    models: Sequence[NDArray[np.float64]], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw what other seeds of the models would change of their difference, (RESAMPLES,).

    Of each model the scores of its seeds, (seeds,); of one seed nothing is known. Degrees of
    freedom are those of Welch and Satterthwaite.
    """
    several = [scores for scores in models if len(scores) > 1]
    freedom = np.array([len(scores) - 1 for scores in several])
    errors = np.array([scores.var(ddof=1) / len(scores) for scores in several])
    if not errors.sum():
        return np.zeros(RESAMPLES)
    degrees = errors.sum() ** 2 / (errors**2 / freedom).sum()
    return np.asarray(np.sqrt(errors.sum()) * generator.standard_t(degrees, size=RESAMPLES))


def _bootstrap_p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided: twice the share of resamples on the rarer side of 0, never quite 0."""
    differences = differences[np.isfinite(differences)]
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(differences) + 1)))
