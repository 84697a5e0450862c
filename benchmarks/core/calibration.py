"""How far the confidence of a model can be trusted: scores of stored predictions.

They read the confidence of each prediction, the probability of the class that is answered. They are
diagnostics: no protocol ranks by them, and a suite's version does not depend on them.

Source:
    Expected calibration error: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    https://arxiv.org/abs/1706.04599
    Risk and coverage: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks,
    NeurIPS 2017. https://arxiv.org/abs/1705.08500
    Influence of a selected share: Serfling, Approximation Theorems of Mathematical Statistics, 1980
    (functions of a quantile).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.clusters import sums_by
from benchmarks.core.scores import Score, rows_of_variant, shares

VERSION = "calibration-v1"  # of what these scores make of predictions
N_BINS = 15  # of equal width, as in the source
DIGITS = 3  # of a stored confidence
NEIGHBOURS = 0.05  # share of the images on each side of a threshold that tell the error there


def calibration_scores(
    variant: str, *, chance: float, has_conflicts: bool = True
) -> tuple[Score, ...]:
    """Give all scores of this module for one variant.

    Args:
        variant: The test variant.
        chance: Accuracy of guessing, in [0, 1].
        has_conflicts: Whether there are images whose shape and texture, or background, disagree.
    """
    confidence = expected_calibration_error(variant), risk_at_coverage(variant, chance=chance)
    return (*confidence, conflict_overconfidence(variant)) if has_conflicts else confidence


def expected_calibration_error(variant: str) -> Score:
    """Mean distance of confidence from accuracy, over bins of images that are equally confident.

    sum over bins of |hits - sum of confidences| / images

    The interval and comparisons of models hold the sign of each bin's distance, which makes the
    score a mean over images. With few images a bin, chance alone keeps a bin from 0, and the score
    of a calibrated model is above 0.

    Args:
        variant: The test variant.

    Returns:
        A score in [0, 1]: 0 is calibrated. Its `compute` raises ValueError if the predictions have
        no confidence.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(4), "shape": 0, "texture": 0, "background": -1,
        ...     "prediction": [0, 0, 0, 1], "confidence": 0.5,
        ... })
        >>> expected_calibration_error("v").compute(seen).value
        0.25
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows, confidence, hits = _confidence_and_hits(predictions, variant)
        places = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        gaps = hits - confidence
        signs = np.sign(np.bincount(places, gaps, minlength=N_BINS))
        return _mean_by_id(signs[places] * gaps, rows["id"])

    return Score(
        variant=variant,
        metric="expected_calibration_error",
        count=count,
        higher_is_better=False,
        chance=0.0,
    )


def risk_at_coverage(variant: str, *, chance: float, coverage: float = 0.8) -> Score:
    """Share of errors among the images that the model is most confident about.

    Images that are as confident as the last one that counts take part in equal shares. The interval
    knows that other images would move the threshold.

    Args:
        variant: The test variant.
        chance: Accuracy of guessing, in [0, 1].
        coverage: Which share of the images counts, in (0, 1].

    Returns:
        A score in [0, 1], lower is better. Its `compute` raises ValueError if the predictions have
        no confidence.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(5), "shape": 0, "texture": 0, "background": -1,
        ...     "prediction": [0, 0, 0, 1, 1], "confidence": [0.9, 0.8, 0.7, 0.6, 0.5],
        ... })
        >>> risk_at_coverage("v", chance=0.1).compute(seen).value  # one of the first four
        0.25
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows, confidence, hits = _confidence_and_hits(predictions, variant)
        weights, at_threshold = _selected(confidence, 1 - hits, coverage)
        errors = weights * (1 - hits) + at_threshold * (coverage - weights)
        return _mean_by_id(errors / coverage, rows["id"])

    return Score(
        variant=variant,
        metric=f"risk_at_{100 * coverage:.0f}_coverage",
        count=count,
        higher_is_better=False,
        chance=1 - chance,
    )


def conflict_overconfidence(variant: str) -> Score:
    """Mean confidence minus accuracy on images whose factors conflict.

    Factors conflict where the texture or the background has another class than the shape; factors
    without a label do not count. Add the accuracy on these images for their mean confidence.

    Args:
        variant: The test variant.

    Returns:
        A score in [-1, 1]: 0 is as sure as it is right, above it the model is too sure; lower is
        better. NaN if no image has factors in conflict. Its `compute` raises ValueError if the
        predictions have no confidence.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(3), "shape": 0, "texture": [0, 1, 1],
        ...     "background": -1, "prediction": [0, 0, 1], "confidence": 0.75,
        ... })
        >>> conflict_overconfidence("v").compute(seen).value  # sure of 3 in 4, right in 1 of 2
        0.25
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows, confidence, hits = _confidence_and_hits(predictions, variant)
        conflicts = np.zeros(len(rows), dtype=bool)
        for factor in ("texture", "background"):
            conflicts |= ((rows[factor] >= 0) & (rows[factor] != rows["shape"])).to_numpy()
        if not conflicts.any():
            return pd.DataFrame({"hits": 0.0, "images": 0.0}, index=pd.unique(rows["id"]))
        return _mean_by_id((confidence - hits)[conflicts], rows["id"][conflicts])

    return Score(
        variant=variant,
        metric="conflict_overconfidence",
        count=count,
        higher_is_better=False,
        chance=0.0,
        lowest=-1.0,
    )


def _confidence_and_hits(
    predictions: pd.DataFrame, variant: str
) -> tuple[pd.DataFrame, NDArray[np.float64], NDArray[np.float64]]:
    """Rows of a variant, their confidence with as many digits as files keep, and their hits.

    Raises:
        ValueError: If the variant is missing, or a confidence is, or a shape is unknown.
    """
    rows = rows_of_variant(predictions, variant)
    if rows.empty:
        raise ValueError(f"there are no predictions for variant {variant!r}")
    if "confidence" not in rows or rows["confidence"].isna().any():
        raise ValueError("these predictions say nothing of confidence; run the model again")
    if (rows["shape"] < 0).any():
        raise ValueError(f"variant {variant!r} has images whose shape is unknown")
    confidence = rows["confidence"].to_numpy(float).round(DIGITS)
    hits = (rows["prediction"] == rows["shape"]).to_numpy()
    return rows, np.asarray(confidence, dtype=float), hits.astype(float)


def _selected(
    confidence: NDArray[np.float64], errors: NDArray[np.float64], coverage: float
) -> tuple[NDArray[np.float64], float]:
    """How much each image counts among the most confident ones, and the share of errors there.

    Returns:
        Weights in [0, 1], (N,), whose mean is the coverage; and the share of errors among images
        about as confident as the last one that counts.
    """
    n = len(confidence)
    order = np.argsort(-confidence, kind="stable")
    last = min(n - 1, int(np.ceil(coverage * n)) - 1)
    threshold = confidence[order[last]]
    above, ties = confidence > threshold, confidence == threshold
    weights = np.where(above, 1.0, np.where(ties, (coverage * n - above.sum()) / ties.sum(), 0.0))
    reach = max(1, int(NEIGHBOURS * n))
    near = (
        np.abs(confidence - threshold)
        <= np.abs(confidence[order[max(0, last - reach) : last + reach + 1]] - threshold).max()
    )
    return weights, float(errors[near].mean())


def _mean_by_id(values: NDArray[np.float64], ids: pd.Series) -> pd.DataFrame:
    """Sums of values and numbers of images of each id, a table indexed by id."""
    return sums_by(ids, shares(values))
