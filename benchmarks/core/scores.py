"""From predictions to scores with intervals.

Predictions are a table, one row an image: variant, id, shape, texture, background, prediction;
and the `columns` that a suite adds.
A `Score` reads such a table of one model, one seed and one suite, and gives an `Estimate`.
Each suite names its own scores.

Source:
    Shape bias: Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019.
    https://arxiv.org/abs/1811.12231
    Worst group: Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020.
    https://arxiv.org/abs/1911.08731
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.clusters import EACH_ID, Clustering, sums_by
from benchmarks.core.statistics import (
    UNDEFINED,
    Counts,
    Estimate,
    bootstrap,
    is_count,
    mean,
    n_images,
    proportion,
    worst_group_interval,
)
from benchmarks.core.variance import MeanScore, interval_of_mean, mean_score

_SHARE = pd.Index(["hits", "images"])


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a suite.

    Attributes:
        variant: The test variant it is read from, or the names joined by "-" if from several.
        metric: Its name among the scores of that variant.
        count: From predictions to what the images of each id add to the score: a table indexed by
            id, with columns hits and images, and if the score is a difference of two shares these
            two again for the second. Whole numbers where decisions are counted; fractions where
            probabilities are averaged. ValueError if predictions that it needs are missing.
        estimate: From these counts to the estimate, for a score that is no such share or
            difference; what the counts are is then between the two. None for all others.
        clustering: Which images depend on one another; a suite gives its scores its own.
        higher_is_better: Which way is good.
        chance: What guessing gives.
        lowest: The lowest value it can take.
        highest: The highest value it can take.
    """

    variant: str
    metric: str
    count: Callable[[pd.DataFrame], pd.DataFrame]
    estimate: Callable[[NDArray[np.int64]], Estimate] | None = None
    clustering: Clustering = EACH_ID
    higher_is_better: bool = True
    chance: float
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def key(self) -> str:
        """The score's column in a leaderboard."""
        return f"{self.variant}_{self.metric}"

    @property
    def variants(self) -> list[str]:
        """The test variants it is read from."""
        return self.variant.split("-")

    @property
    def supports_bootstrap(self) -> bool:
        """Whether two models can be compared by it: whether images drawn anew give it anew."""
        return self.estimate is None

    def seen_in(self, predictions: pd.DataFrame) -> bool:
        """Whether there are predictions of all variants that it is read from."""
        there = set(predictions["variant"].unique())
        return self.variant in there or there.issuperset(self.variants)

    def estimated(self, predictions: pd.DataFrame) -> Estimate:
        """Estimate the score as `compute` does; undefined if a variant had no images."""
        return self.compute(predictions) if self.seen_in(predictions) else UNDEFINED

    def clusters(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Sum what `count` says over the clusters of dependent images, a row a cluster."""
        counts = self.count(predictions)
        return sums_by(self.clustering.clusters(counts.index), counts)

    def compute(self, predictions: pd.DataFrame) -> Estimate:
        """Estimate the score from predictions of one model with one seed.

        The interval of a share of images that are all independent is Wilson's, near 0 and 1 the
        exact one of Clopper and Pearson; of a mean of probabilities, Student's; of a ratio or a
        difference, it resamples images. Where images depend on one another, it is that of
        `benchmarks.core.variance.interval_of_mean`, over their clusters.
        """
        counts = self.count(predictions)
        each = counts.to_numpy()
        if self.estimate is not None:
            return self.estimate(each)
        if not self._shows_each_cluster_once(predictions):
            clusters = self.clusters(predictions).to_numpy()
            return self.interval(mean_score(clusters[:, None]), clusters, n_images(each))
        if each.shape[1] != 2 or not (each[:, 1] == 1).all():
            return bootstrap(each)
        if is_count(each):
            return proportion(each[:, 0] > 0)
        value, low, high, n = mean(each[:, 0])
        low, high = np.clip((low, high), self.lowest, self.highest)
        return Estimate(value, float(low), float(high), n)

    def interval(self, mean: MeanScore, clusters: Counts, n: int) -> Estimate:
        """Give the interval of a mean over runs of this score.

        Args:
            mean: From `benchmarks.core.variance.mean_score`.
            clusters: What it was computed from.
            n: Number of images of a run.
        """
        return interval_of_mean(
            mean,
            n,
            is_share=is_count(clusters) and clusters.shape[-1] == 2,
            lowest=self.lowest,
            highest=self.highest,
        )

    def _shows_each_cluster_once(self, predictions: pd.DataFrame) -> bool:
        """Whether no two images of a variant are of one cluster."""
        there = set(predictions["variant"].unique())
        parts = [self.variant] if self.variant in there else self.variants
        ids = (predictions["id"][predictions["variant"] == part] for part in parts)
        return all(self.clustering.clusters(part).is_unique for part in ids)


def accuracy(
    variant: str, *, chance: float, metric: str = "accuracy", factor: str = "shape"
) -> Score:
    """Share of images whose predicted class is that of one factor.

    Args:
        variant: The test variant.
        chance: What guessing gives, in [0, 1].
        metric: Name of the score.
        factor: Whose label counts: "shape", "texture" or "background". Deciding by shape is
            good; by one of the others, the lower the better.

    Returns:
        A score in [0, 1]. Its `compute` raises ValueError if the variant is missing, or if
        labels of the factor are unknown.

    Example:
        >>> seen = pd.DataFrame(
        ...     {"variant": "v", "id": range(3), "shape": [0, 1, 2], "prediction": [0, 1, 1]}
        ... )
        >>> round(accuracy("v", chance=0.1).compute(seen).value, 2)
        0.67
    """
    return Score(
        variant=variant,
        metric=metric,
        count=lambda predictions: _hits_and_images(predictions, variant, factor),
        higher_is_better=factor == "shape",
        chance=chance,
    )


def paired_difference(first: str, second: str, *, metric: str) -> Score:
    """How much accuracy is lost from the first variant to the second.

    accuracy(first) - accuracy(second)

    The interval resamples ids that both variants share, so that what is hard about one
    foreground or digit cancels. Deterministic: the resampling is seeded.

    Args:
        first: The easier variant.
        second: The harder variant, made from the same objects.
        metric: Name of the score.

    Returns:
        A score in [-1, 1]: 0 is no loss and what guessing gives, lower is better. Its `n`
        counts the images of shared ids. Its `compute` raises ValueError if there are none.

    Source:
        BG-gap of Xiao et al., Noise or Signal: The Role of Image Backgrounds in Object
        Recognition, ICLR 2021. https://arxiv.org/abs/2006.09994

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": ["same", "same", "rand", "rand"], "id": [7, 8, 7, 8],
        ...     "shape": [1, 2, 1, 2], "prediction": [1, 2, 1, 0],
        ... })
        >>> paired_difference("same", "rand", metric="gap").compute(seen).value
        0.5
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        tables = [_hits_and_images(predictions, variant, "shape") for variant in (first, second)]
        shared = pd.concat(tables, axis=1, join="inner")
        if shared.empty:
            raise ValueError(f"variants {first!r} and {second!r} share no id: nothing to pair")
        return shared

    return Score(
        variant=f"{first}-{second}",
        metric=metric,
        count=count,
        higher_is_better=False,
        chance=0.0,
        lowest=-1.0,
    )


def shape_bias(variant: str) -> Score:
    """Share of decisions for shape among the decisions for either cue.

    shape decisions / (shape decisions + texture decisions)

    Only images whose shape and texture disagree count. The interval resamples ids, so that the
    denominator is random as well. Deterministic: the resampling is seeded.

    Args:
        variant: The test variant.

    Returns:
        A score in [0, 1]: 1 decides by shape, 0 by texture, 0.5 is what guessing gives. Its `n`
        counts the decisions for either cue. NaN if there is none: 0 would claim a texture bias
        nobody saw.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(5), "shape": [0, 0, 0, 1, 1],
        ...     "texture": [1, 2, 1, 2, 1], "prediction": [0, 2, 3, 1, 1],
        ... })
        >>> round(shape_bias("v").compute(seen).value, 2)  # shape 2, texture 1
        0.67
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows = _of_variant(predictions, variant)
        conflict = rows[rows["shape"] != rows["texture"]]
        by_shape = conflict["prediction"] == conflict["shape"]
        by_texture = conflict["prediction"] == conflict["texture"]
        decisions = pd.DataFrame({"hits": by_shape, "images": by_shape | by_texture}).astype(int)
        return sums_by(conflict["id"], decisions)

    return Score(variant=variant, metric="shape_bias", count=count, chance=0.5)


def neither_rate(variant: str, *, chance: float) -> Score:
    """Share of images with cues in conflict that are taken for neither of them.

    Args:
        variant: The test variant.
        chance: What guessing gives, in [0, 1].

    Returns:
        A score in [0, 1]: 0 always decides for a cue; lower is better.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(4), "shape": 0, "texture": 1,
        ...     "prediction": [0, 1, 2, 3],
        ... })
        >>> neither_rate("v", chance=14 / 16).compute(seen).value
        0.5
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows = _of_variant(predictions, variant)
        by_shape, by_texture = _hits(rows, variant, "shape"), _hits(rows, variant, "texture")
        return _counted(~(by_shape | by_texture), rows["id"])

    return Score(
        variant=variant, metric="neither_rate", count=count, higher_is_better=False, chance=chance
    )


def top_k_accuracy(k: int, variant: str, *, chance: float) -> Score:
    """Share of images whose class is among the k for which most speaks.

    Args:
        k: How many count.
        variant: The test variant.
        chance: What guessing gives, in [0, 1].

    Returns:
        A score in [0, 1]. Predictions need a column `rank`, of the class among all, from 0.

    Example:
        >>> seen = pd.DataFrame({"variant": "v", "id": range(4), "rank": [0, 4, 5, 9]})
        >>> top_k_accuracy(5, "v", chance=0.005).compute(seen).value
        0.5
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows = _of_variant(predictions, variant)
        if "rank" not in rows:
            raise ValueError("these predictions don't say which class comes second; run it again")
        return _counted(rows["rank"].to_numpy() < k, rows["id"])

    return Score(variant=variant, metric=f"top{k}_accuracy", count=count, chance=chance)


def accuracy_of_classes(
    variant: str, classes: Collection[int], *, metric: str, column: str, chance: float
) -> Score:
    """Accuracy on the images of some classes, by decisions among these classes alone.

    Args:
        variant: The test variant.
        classes: Which labels.
        metric: Name of the score.
        column: Of the predictions, with those decisions.
        chance: What guessing gives, in [0, 1].

    Returns:
        A score in [0, 1]. Its `compute` raises ValueError if the predictions lack the column.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(3), "shape": [1, 2, 3], "few": [1, 3, 3]
        ... })
        >>> score = accuracy_of_classes("v", {1, 2}, metric="m", column="few", chance=0.5)
        >>> score.compute(seen).value
        0.5
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows = _of_variant(predictions, variant)
        if column not in rows:
            raise ValueError(f"these predictions have no decisions {column!r}; run the model again")
        rows = rows[rows["shape"].isin(classes)]
        return _counted((rows[column] == rows["shape"]).to_numpy(), rows["id"])

    return Score(variant=variant, metric=metric, count=count, chance=chance)


def worst_group(variant: str, *, chance: float) -> Score:
    """Accuracy in the worst group of images: those of one shape and one texture, or background.

    min over all cells of shape x texture and of shape x background

    Args:
        variant: The test variant, each of its images independent of the others.
        chance: What guessing gives in every group, in [0, 1].

    Returns:
        A score in [0, 1]; a model that follows texture or background has a group near 0. Only
        factors whose labels are known make groups, and only groups with images count. The score
        is the lowest share that was seen, and the fewer images the groups have the lower that is
        by chance alone: its interval, see `worst_group_interval`, says how much. Its `n` counts the
        images of that group. Its `compute` raises ValueError if there are no groups, or an object
        is shown more than once.

    Example:
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "id": range(4), "shape": [0, 0, 0, 1], "texture": [0, 0, 1, 0],
        ...     "background": -1, "prediction": [0, 0, 1, 1],
        ... })
        >>> worst_group("v", chance=0.1).compute(seen).value  # the zero with the texture of a one
        0.0
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        rows = _of_variant(predictions, variant)
        if rows["id"].duplicated().any():
            raise ValueError(
                f"variant {variant!r} shows an object twice: its images are not independent"
            )
        hits = _hits(rows, variant, "shape").astype(int)
        groups = {
            factor: pd.DataFrame({"hits": hits, "images": 1})
            .groupby([rows["shape"].to_numpy(), rows[factor].to_numpy()])
            .sum()
            for factor in ("texture", "background")
            if (rows[factor] >= 0).all()
        }
        if not groups:
            raise ValueError(f"variant {variant!r} knows neither textures nor backgrounds")
        return pd.concat(groups)

    return Score(
        variant=variant,
        metric="worst_group_accuracy",
        count=count,
        estimate=worst_group_interval,
        chance=chance,
    )


def shares(hits: NDArray[Any]) -> pd.DataFrame:
    """Lay out what each image adds to a share: its hit, or what takes its place, and itself."""
    return pd.DataFrame(np.stack([hits, np.ones_like(hits)], axis=1), columns=_SHARE)


def rows_of_variant(predictions: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Choose the rows of one variant; not a copy where they follow one another."""
    places = np.flatnonzero(predictions["variant"] == variant)
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return predictions.iloc[places[0] : places[-1] + 1]
    return predictions.iloc[places]


def _of_variant(predictions: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Rows of one variant; an absent one is an error, not an empty score."""
    rows = rows_of_variant(predictions, variant)
    if rows.empty:
        present = ", ".join(sorted(map(str, predictions["variant"].unique()))) or "none"
        raise ValueError(f"there are no predictions for variant {variant!r}, only for: {present}")
    return rows


def _hits(rows: pd.DataFrame, variant: str, factor: str) -> NDArray[np.bool_]:
    """Whether each prediction of a variant is the factor's label, (N,) bool."""
    labels = rows[factor].to_numpy()
    if (labels < 0).any():
        raise ValueError(f"variant {variant!r} has images whose {factor} is unknown")
    return np.asarray(rows["prediction"].to_numpy() == labels)


def _hits_and_images(predictions: pd.DataFrame, variant: str, factor: str) -> pd.DataFrame:
    """Hits and images of each id, a table indexed by id."""
    rows = _of_variant(predictions, variant)
    return _counted(_hits(rows, variant, factor), rows["id"])


def _counted(hits: NDArray[np.bool_], ids: pd.Series) -> pd.DataFrame:
    """Hits and images of each id, a table indexed by id."""
    return sums_by(ids, shares(hits.astype(int)))
