"""Two models on the same images: what differs, and whether chance alone could do it.

Computed from stored predictions; no model is needed.

Source:
    McNemar, Note on the sampling error of the difference between correlated proportions,
    Psychometrika 1947.
    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 1979.
    Walker and Nowacki, Understanding equivalence and noninferiority testing, J. General Internal
    Medicine 2011.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.scores import Score
from benchmarks.core.statistics import CONFIDENCE, Counts, is_count, n_images
from benchmarks.core.suite import Suite
from benchmarks.core.variance import critical_value, difference_parts, mean_score, p_value
from benchmarks.records.stored_runs import StoredRun

POWER = 0.8  # how likely a difference of the smallest detectable size is to be found


class Difference(NamedTuple):
    """How much higher the first model scores than the second.

    Attributes:
        first: Score of the first model, the mean over its seeds.
        second: The same of the second.
        value: first - second.
        low: Lower end of the difference's 95 % interval over images, seeds and generators.
        high: Upper end of it.
        p_value: How likely a difference at least as large is between models that are equal.
        minimum_detectable_effect: The smallest true difference that would be found here in 4 cases
            of 5.
        n: Images that count for the score, in one run of the first model.
        sd_images: How far other images would move the difference: a standard deviation, as are the
            next two. The sum of their squares is the variance of the difference.
        sd_seeds: How far other seeds would.
        sd_generators: How far other generators would.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p_value: float
    minimum_detectable_effect: float
    n: int
    sd_images: float = np.nan
    sd_seeds: float = np.nan
    sd_generators: float = np.nan


def compare(
    score: Score,
    first: Sequence[pd.DataFrame],
    second: Sequence[pd.DataFrame],
    *,
    generators: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Difference:
    """Compare two models by one score on the same images.

    What is hard about an image for all runs cancels. The interval is that of
    `benchmarks.core.variance`: over clusters of images, seeds and generators. An accuracy of one
    run each, over independent images, is tested by McNemar's exact test, everything else by
    Student's distribution.

    Args:
        score: Of the suite.
        first: Predictions of the first model, a table a run.
        second: The same of the second.
        generators: Of each run of either model, the seed of the generator of its training images;
            empty without one.

    Returns:
        The difference; NaN where a score is undefined.

    Raises:
        ValueError: If a model has no runs, the runs are not on the same images, or the score is
            not `supports_bootstrap`.
    """
    if not score.supports_bootstrap:
        raise ValueError(f"{score.key} cannot be resampled, so no two models are compared by it")
    if not first or not second:
        raise ValueError("each model needs the predictions of at least one run")
    if not any(score.seen_in(table) for table in (*first, *second)):  # a variant had no images
        return Difference(*(np.nan,) * 7, n=0)
    clusters = paired_counts(score, [*first, *second])
    n_first, n = len(first), n_images(clusters[:, 0])
    one, other = (
        mean_score(part, names)
        for part, names in zip(
            (clusters[:, :n_first], clusters[:, n_first:]), generators, strict=True
        )
    )
    value = one.value - other.value
    if not np.isfinite(value):
        return Difference(one.value, other.value, *(np.nan,) * 5, n)
    parts = difference_parts(one, other)
    deviations = [part.variance**0.5 for part in parts]
    deviation = sum(part.variance for part in parts) ** 0.5
    half = critical_value(parts) * deviation
    return Difference(
        one.value,
        other.value,
        value,
        value - half,
        value + half,
        mcnemar(clusters[:, :, 0]) if is_exact(clusters) else p_value(value, parts, len(clusters)),
        half + critical_value(parts, 2 * (1 - POWER)) * deviation,
        n,
        *deviations,
    )


def compare_stored(
    suite: Suite, first: Sequence[StoredRun], second: Sequence[StoredRun]
) -> Iterator[tuple[Score, Difference]]:
    """Compare stored runs of two models by every score of a suite that allows it."""
    tables, generators = (
        [[getattr(run, name) for run in runs] for runs in (first, second)]
        for name in ("predictions", "generator")
    )
    for score in suite.scores:
        if score.supports_bootstrap:
            yield score, compare(score, *tables, generators=(generators[0], generators[1]))


def paired_counts(score: Score, tables: Sequence[pd.DataFrame]) -> Counts:
    """What each cluster of images adds to the score in each run, (clusters, runs, sums).

    Raises:
        ValueError: If the runs are not on the same images.
    """
    counts = [score.clusters(table) for table in tables]
    if any(not each.index.equals(counts[0].index) for each in counts):
        raise ValueError("the runs are not on the same images: there is nothing to pair")
    return np.stack([each.to_numpy() for each in counts], axis=1)


def is_exact(clusters: Counts) -> bool:
    """Whether they are decisions of one run each on independent images."""
    one_each = clusters.shape[1:] == (2, 2) and (clusters[..., 1] == 1).all()
    return bool(one_each and is_count(clusters))


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
    score: Score,
    first: str,
    second: str,
    difference: Difference,
    corrected_p_value: float,
    margin: float | None = None,
) -> str:
    """Say in words what a comparison found.

    Args:
        score: What was compared; it says whether higher is better.
        first: Name of the first model.
        second: Name of the second.
        difference: From `compare`.
        corrected_p_value: From `holm`.
        margin: How much worse would not matter, a fraction; the verdict then says whether the whole
            interval excludes more.

    Example:
        >>> from benchmarks.core.scores import shape_bias
        >>> difference = Difference(0.5, 0.52, -0.02, -0.06, 0.02, 0.4, 0.06, 100)
        >>> verdict(shape_bias("conflict"), "a", "b", difference, 0.8)
        'cannot be told apart'
        >>> verdict(shape_bias("conflict"), "a", "b", difference, 0.01)
        'b better'
        >>> verdict(shape_bias("conflict"), "a", "b", difference, 0.8, margin=0.05)
        'b not worse by more than 5 points'
        >>> verdict(shape_bias("conflict"), "a", "b", difference, 0.8, margin=0.1)
        'equal within 10 points'
    """
    if np.isnan(corrected_p_value):
        return "undefined"
    sign = 1 if score.higher_is_better else -1
    if corrected_p_value < 1 - CONFIDENCE:
        return f"{first if sign * difference.value > 0 else second} better"
    if margin is None:
        return "cannot be told apart"
    low, high = sorted((sign * difference.low, sign * difference.high))
    points = f"{100 * margin:g} point{'s' * (100 * margin != 1)}"
    if low > -margin and high < margin:
        return f"equal within {points}"
    if low > -margin:
        return f"{first} not worse by more than {points}"
    if high < margin:
        return f"{second} not worse by more than {points}"
    return f"cannot be told apart within {points}"
