"""What a comparison of two models can find: variance by its origin, power, and sizes of a run.

The difference between two models varies with the images, with the seeds of each model and with the
generators that its seeds were trained on. Each part has its variance, estimated by the analysis of
variance from runs that there are, and each is divided by its own number in a planned run.

Source:
    Searle, Casella and McCulloch, Variance Components, Wiley 1992 (method of moments, nested and
    crossed random effects).
    Satterthwaite, An approximate distribution of estimates of variance components, Biometrics 1946.
    Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988 (noncentral t).
    Duffy, Asymptotic and exact power for the McNemar test and its analogue with R controls per
    case, Biometrics 1984.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.core.statistics import CONFIDENCE, Counts, ratios

POWER = 0.8  # how likely a difference of the smallest detectable size is to be found
MOST_CLUSTERS = 10**9  # beyond it, no number of images is enough


class ModelVariance(NamedTuple):
    """How one model's score varies between trainings; variances of fractions.

    Attributes:
        seeds: Between seeds of one generator; NaN if there is one seed.
        generators: Between generators. Where every seed has a generator of its own, all of the
            variance between seeds is here. 0 if seeds share one generator or there is none.
        interaction: Of a cluster of images between seeds, beyond what the seed changes on all
            images alike; NaN if there is one seed.
    """

    seeds: float
    generators: float
    interaction: float


@dataclass(frozen=True, kw_only=True)
class Variances:
    """Where the variance of a difference between two models comes from.

    Attributes:
        clusters: Of the true difference between clusters of images; fractions squared. With one
            seed a model, what one cluster varies between seeds is in here.
        models: Of the first model and of the second.
        discordance: Share of images that exactly one of the models gets right, in [0, 1], if there
            is one seed a model and every image is a cluster of its own; then McNemar's test is
            exact. None otherwise.
    """

    clusters: float
    models: tuple[ModelVariance, ModelVariance]
    discordance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Design:
    """The sizes of a run.

    Attributes:
        clusters: How many clusters of images.
        seeds: Of each of the two models.
        generators: Of each of the two models; 0 for a model without one.

    Raises:
        ValueError: If there is no cluster or no seed, or there are more generators than seeds.
    """

    clusters: int
    seeds: tuple[int, int]
    generators: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.clusters < 2 or min(self.seeds) < 1:
            raise ValueError("a run needs at least two clusters of images and one seed a model")
        if any(g > s for g, s in zip(self.generators, self.seeds, strict=True)):
            raise ValueError("each seed trains on one generator: there cannot be more generators")


def cluster_values(counts: Counts) -> NDArray[np.float64]:
    """Linearise a score: give each cluster a value, so that their mean is the score of the run.

    Args:
        counts: What each cluster adds to the score in each run, (clusters, runs, 2 or 4).

    Returns:
        The score of the run plus the influence of the cluster, (clusters, runs).

    Example:
        >>> cluster_values(np.array([[[1, 1]], [[0, 1]]]))
        array([[1.],
               [0.]])
    """
    hits, images = counts[..., 0::2].astype(float), counts[..., 1::2].astype(float)
    mean_images = images.mean(axis=0)
    influence = (hits - images * hits.mean(axis=0) / mean_images) / mean_images
    signs = np.where(np.arange(hits.shape[-1]) == 0, 1.0, -1.0)
    return np.asarray(ratios(counts.sum(axis=0)) + (influence * signs).sum(axis=-1))


def model_variance(values: NDArray[np.float64], generators: Sequence[Hashable]) -> ModelVariance:
    """Split the variance between trainings of a model by its origin.

    Args:
        values: From `cluster_values`, of the runs of one model, (clusters, seeds).
        generators: On whose images each seed was trained, (seeds,); all alike if there is none.

    Example:
        >>> values = np.array([[1.0, 3.0], [1.0, 3.0]])  # two seeds, two points apart
        >>> model_variance(values, ["", ""])
        ModelVariance(seeds=2.0, generators=0.0, interaction=0.0)
        >>> model_variance(values, ["0", "1"]).generators
        2.0
    """
    n_clusters, n_seeds = values.shape
    if n_seeds < 2:
        return ModelVariance(np.nan, 0.0, np.nan)
    scores = values.mean(axis=0)
    residuals = values - scores - values.mean(axis=1, keepdims=True) + values.mean()
    interaction = float((residuals**2).sum() / ((n_clusters - 1) * (n_seeds - 1)))
    noise = interaction / n_clusters  # of a seed's score over these clusters
    groups = np.unique([str(each) for each in generators], return_inverse=True)[1]
    sizes = np.bincount(groups)
    n_groups = len(sizes)
    if n_groups in (1, n_seeds):
        between = max(0.0, float(scores.var(ddof=1)) - noise)
        seeds, of_generators = (between, 0.0) if n_groups == 1 else (0.0, between)
        return ModelVariance(seeds, of_generators, interaction)
    means = np.bincount(groups, scores) / sizes
    within = float(((scores - means[groups]) ** 2).sum() / (n_seeds - n_groups))
    among = float((sizes * (means - scores.mean()) ** 2).sum() / (n_groups - 1))
    usual_size = (n_seeds - (sizes**2).sum() / n_seeds) / (n_groups - 1)
    of_generators = max(0.0, (among - within) / usual_size)
    return ModelVariance(max(0.0, within - noise), float(of_generators), interaction)


def difference_variances(
    counts: Counts, n_first: int, generators: Sequence[Hashable], *, is_exact: bool = False
) -> Variances:
    """Split the variance of the difference between two models by its origin.

    Args:
        counts: What each cluster adds to the score in each run, (clusters, runs, 2 or 4), on the
            same clusters; the runs of the first model come first.
        n_first: How many runs are of the first model.
        generators: On whose images each run was trained, (runs,).
        is_exact: Whether the score is a share of independent images, so that McNemar's test
            compares one seed a model.

    Example:
        >>> right = np.array([[1, 0], [1, 1], [0, 0], [1, 1]])
        >>> counts = np.stack([right, np.ones_like(right)], axis=2)
        >>> difference_variances(counts, 1, ["", ""], is_exact=True).discordance
        0.25
    """
    values = cluster_values(counts)
    first, second = values[:, :n_first], values[:, n_first:]
    models = (
        model_variance(first, generators[:n_first]),
        model_variance(second, generators[n_first:]),
    )
    paired = first.mean(axis=1) - second.mean(axis=1)
    between = float(paired.var(ddof=1))
    for model, runs in zip(models, (first, second), strict=True):
        between -= 0.0 if np.isnan(model.interaction) else model.interaction / runs.shape[1]
    one_each = values.shape[1] == 2
    discordance = float((first != second).mean()) if one_each and is_exact else None
    return Variances(clusters=max(0.0, between), models=models, discordance=discordance)


def standard_error(variances: Variances, design: Design) -> tuple[float, float]:
    """Return the standard error of a difference in a planned run, and its degrees of freedom.

    Example:
        >>> still = ModelVariance(0.0, 0.0, 0.0)
        >>> error, freedom = standard_error(
        ...     Variances(clusters=0.25, models=(still, still)),
        ...     Design(clusters=100, seeds=(1, 1)),
        ... )
        >>> error, round(freedom)
        (0.05, 99)
    """
    of_clusters = variances.clusters / design.clusters
    parts = []
    for model, seeds, n_generators in zip(
        variances.models, design.seeds, design.generators, strict=True
    ):
        of_clusters += np.nan_to_num(model.interaction) / (design.clusters * seeds)
        parts.append((np.nan_to_num(model.seeds) / seeds, seeds - 1))
        if n_generators:
            parts.append((model.generators / n_generators, n_generators - 1))
    parts.append((of_clusters, design.clusters - 1))
    total = sum(variance for variance, _ in parts)
    # What is not repeated is known from stored runs, and not estimated in the planned one.
    uncertain = sum(variance**2 / freedom for variance, freedom in parts if freedom)
    freedom = total**2 / uncertain if uncertain else np.inf
    return float(np.sqrt(total)), float(freedom)


def power(difference: float, variances: Variances, design: Design) -> float:
    """Predict how likely a planned run is to find a true difference at the 5 % level.

    Args:
        difference: Between the models, a fraction.
        variances: From `difference_variances`.
        design: Of the planned run.

    Returns:
        A probability: by McNemar's exact test for one seed a model on independent images, else of
        a t test with Satterthwaite's degrees of freedom.

    Example:
        >>> still = ModelVariance(0.0, 0.0, 0.0)
        >>> variances = Variances(clusters=0.25, models=(still, still))
        >>> round(power(0.05, variances, Design(clusters=800, seeds=(1, 1))), 2)
        0.81
        >>> round(power(0.0, variances, Design(clusters=800, seeds=(1, 1))), 2)
        0.05
    """
    from scipy.stats import nct  # seconds to import
    from scipy.stats import t as student_t

    if variances.discordance is not None and design.seeds == (1, 1):
        return mcnemar_power(difference, variances.discordance, design.clusters)
    error, freedom = standard_error(variances, design)
    if not error:
        return float(difference != 0)
    freedom = min(freedom, 1e6)  # SciPy's noncentral t distribution has no limit of its own
    critical = float(student_t.ppf((1 + CONFIDENCE) / 2, freedom))
    centre = abs(difference) / error
    if centre > 40 + 2 * critical:  # where SciPy gives NaN
        return 1.0
    tails = nct.sf(critical, freedom, centre), nct.cdf(-critical, freedom, centre)
    return float(np.nan_to_num(tails).sum())


def mcnemar_power(difference: float, discordance: float, n: int) -> float:
    """Compute the power of McNemar's exact test at the 5 % level.

    Args:
        difference: Between two accuracies on the same images, a fraction.
        discordance: Share of images that exactly one model gets right; at least the difference.
        n: How many images.

    Example:
        >>> round(mcnemar_power(0.1, 0.2, 200), 2)
        0.88
        >>> mcnemar_power(0.0, 0.2, 200) < 0.05  # the exact test is conservative
        True
    """
    from scipy.stats import binom  # seconds to import

    discordance = max(discordance, abs(difference))
    if not discordance:
        return 0.0
    discordant = np.arange(n + 1)
    likelihood = binom.pmf(discordant, n, discordance)
    kept = likelihood > 1e-9
    discordant, likelihood = discordant[kept], likelihood[kept]
    # The test rejects at most this many hits of the model with fewer: two tails of half the level.
    rejects = np.asarray(binom.ppf((1 - CONFIDENCE) / 2, discordant, 0.5))
    rejects -= binom.cdf(rejects, discordant, 0.5) > (1 - CONFIDENCE) / 2
    share = (discordance + abs(difference)) / (2 * discordance)
    found = binom.cdf(rejects, discordant, 1 - share) + binom.cdf(rejects, discordant, share)
    return float((likelihood * found).sum())


def minimum_detectable_effect(variances: Variances, design: Design, wanted: float = POWER) -> float:
    """Find the smallest difference that a planned run finds with a given power.

    Args:
        variances: From `difference_variances`.
        design: Of the planned run.
        wanted: The power, in (0.05, 1).

    Returns:
        A fraction; infinite if no difference below 1 is found so often.

    Example:
        >>> still = ModelVariance(0.0, 0.0, 0.0)
        >>> variances = Variances(clusters=0.25, models=(still, still))
        >>> round(minimum_detectable_effect(variances, Design(clusters=800, seeds=(1, 1))), 3)
        0.05
    """
    from scipy.optimize import brentq  # seconds to import

    def lacking(difference: float) -> float:
        return power(difference, variances, design) - wanted

    if lacking(1.0) < 0:
        return float("inf")
    return float(brentq(lacking, 0.0, 1.0, xtol=1e-5)) if lacking(0.0) < 0 else 0.0


def clusters_needed(
    difference: float,
    variances: Variances,
    seeds: tuple[int, int],
    generators: tuple[int, int] = (0, 0),
    wanted: float = POWER,
) -> float:
    """Find how many clusters of images show a difference with a given power.

    Args:
        difference: Between the models, a fraction other than 0.
        variances: From `difference_variances`.
        seeds: Of each of the two models.
        generators: Of each of the two models.
        wanted: The power, in (0.05, 1).

    Returns:
        A whole number; infinite if seeds and generators alone vary too much.

    Raises:
        ValueError: If the difference is 0.

    Example:
        >>> still = ModelVariance(0.0, 0.0, 0.0)
        >>> clusters_needed(0.05, Variances(clusters=0.25, models=(still, still)), (1, 1))
        787.0
    """
    if not difference:
        raise ValueError("no run shows a difference of 0; name one that would matter")

    def enough(clusters: int) -> bool:
        design = Design(clusters=clusters, seeds=seeds, generators=generators)
        return power(difference, variances, design) >= wanted

    high = 2
    while not enough(high):
        high *= 2
        if high > (MOST_CLUSTERS if variances.discordance is None else 10**6):
            return float("inf")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)
