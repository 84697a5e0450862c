"""What a comparison of two models can find: variance by its origin, power, and sizes of a run.

The difference between two models varies with the images, with the seeds of each model and with the
generators that its seeds were trained on. Each part has its variance, estimated from stored runs,
and each is divided by its own number in a planned run.

Source:
    Variance by its origin: as in `benchmarks.core.variance`.
    Duffy, Asymptotic and exact power for the McNemar test and its analogue with R controls per
    case, Biometrics 1984.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.core.statistics import CONFIDENCE, Counts
from benchmarks.core.variance import (
    difference_parts,
    linearised,
    mean_score,
    run_parts,
    weighted_quantile,
)

Floats = NDArray[np.float64]
_Estimates = tuple[Floats, float]  # many estimates of a variance, and their degrees of freedom

DRAWS = 20_000  # of a planned run; its power is known to within 0.7 points
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


def model_variance(counts: Counts, generators: Sequence[str] = ()) -> ModelVariance:
    """Split the variance between trainings of a model by its origin.

    Args:
        counts: What each cluster adds to the score in each run, (clusters, runs, 2 or 4).
        generators: On whose images each run was trained; empty if there is none.

    Example:
        >>> counts = np.array([[[10, 100], [30, 100]]] * 2)  # two seeds, 20 points apart
        >>> model_variance(counts)
        ModelVariance(seeds=0.02, generators=0.0, interaction=0.0)
        >>> model_variance(counts, ["0", "1"])
        ModelVariance(seeds=0.0, generators=0.02, interaction=0.0)
    """
    n_clusters, n_runs = counts.shape[:2]
    if n_runs < 2:
        return ModelVariance(np.nan, 0.0, np.nan)
    values, influence, _ = linearised(counts)
    residuals = influence - influence.mean(axis=1, keepdims=True)
    own = float(np.square(residuals).sum()) / (n_runs - 1)
    seeds, of_generators = run_parts(values, own, generators)
    names = np.asarray(list(generators) or [""] * n_runs)
    sizes = np.unique(names, return_counts=True)[1]
    crowd = float((sizes**2).sum() / n_runs)  # runs of a generator, as a run sees it
    return ModelVariance(
        round(float(seeds.variance * n_runs), 12),
        round(float(of_generators.variance * n_runs / crowd), 12),
        own * n_clusters,
    )


def difference_variances(
    first: Counts,
    second: Counts,
    generators: tuple[Sequence[str], Sequence[str]] = ((), ()),
    *,
    is_exact: bool = False,
) -> Variances:
    """Split the variance of the difference between two models by its origin.

    Args:
        first: What each cluster adds to the score in each run of the first model,
            (clusters, runs, 2 or 4).
        second: The same of the second model, on the same clusters.
        generators: On whose images the runs of either model were trained; empty if there is none.
        is_exact: Whether McNemar's exact test compares these runs.

    Example:
        >>> right = np.array([[1, 0], [1, 1], [0, 0], [1, 1]])
        >>> counts = np.stack([right, np.ones_like(right)], axis=2)
        >>> difference_variances(counts[:, :1], counts[:, 1:], is_exact=True).discordance
        0.25
    """
    models = model_variance(first, generators[0]), model_variance(second, generators[1])
    images, *_ = difference_parts(mean_score(first), mean_score(second))
    between = images.variance * len(first)
    for model, counts in zip(models, (first, second), strict=True):
        between -= np.nan_to_num(model.interaction) / counts.shape[1]
    discordance = float((first[:, 0, 0] != second[:, 0, 0]).mean()) if is_exact else None
    return Variances(clusters=max(0.0, between), models=models, discordance=discordance)


class Outcomes(NamedTuple):
    """What the test of a planned run may meet, many times.

    Attributes:
        error: How far the measured difference is from the true one, (DRAWS,).
        needed: How large a measured difference the test calls significant, (DRAWS,).
    """

    error: Floats
    needed: Floats

    def power(self, difference: float) -> float:
        """Return how often a true difference is found."""
        return float((np.abs(difference + self.error) > self.needed).mean())


def draw_outcomes(variances: Variances, design: Design) -> Outcomes:
    """Draw what the test of a planned run may meet: a difference, and estimates of its variance.

    Each estimate follows a chi-squared distribution; those of seeds and generators are what is left
    after what images cause, and cut at 0, as in `benchmarks.core.variance.run_parts`. A run with
    one seed, or one generator, speaks of these weights, or of this generator, alone: then the
    difference is that of these, and others do not count.

    Args:
        variances: From `difference_variances`.
        design: Of the planned run.

    Returns:
        The same at every call.
    """
    generator = np.random.default_rng(0)
    images, truth = variances.clusters, 0.0
    of_seeds: list[_Estimates] = []
    of_generators: list[_Estimates] = []
    each = zip(variances.models, design.seeds, design.generators, strict=True)
    for model, seeds, n_generators in each:
        own = float(np.nan_to_num(model.interaction))
        images += own / seeds
        runs = _RunVariance(
            seeds=float(np.nan_to_num(model.seeds)) * (seeds > 1),
            generators=model.generators * (n_generators > 1),
            own=own / design.clusters,
        )
        truth += runs.seeds / seeds + runs.generators / max(1, n_generators)
        for parts, part in zip(
            (of_seeds, of_generators), runs.estimates(seeds, n_generators, generator), strict=True
        ):
            parts.append(part)
    freedom = design.clusters - 1.0
    of_images = images / design.clusters * _spread(freedom, generator)
    summed = [(of_images, np.full(DRAWS, freedom)), _summed(of_seeds), _summed(of_generators)]
    estimates = np.stack([variance for variance, _ in summed], axis=1)
    freedoms = np.stack([freedom for _, freedom in summed], axis=1)
    critical = weighted_quantile(estimates, freedoms, 1 - CONFIDENCE)
    deviation = (truth + images / design.clusters) ** 0.5
    error = deviation * generator.standard_normal(DRAWS)
    return Outcomes(error, critical * np.sqrt(estimates.sum(axis=1)))


class _RunVariance(NamedTuple):
    """Variances between runs of one model; `own` is that of a run's score caused by images."""

    seeds: float
    generators: float
    own: float

    def estimates(
        self, seeds: int, n_generators: int, generator: np.random.Generator
    ) -> tuple[_Estimates, _Estimates]:
        """Draw estimates of the parts of seeds and of generators, with their degrees of freedom."""
        nothing = np.zeros(DRAWS), np.inf
        if seeds == 1:
            return nothing, nothing
        if not 1 < n_generators < seeds:
            freedom = seeds - 1.0
            of_runs = self.seeds + self.generators + self.own
            whole = np.maximum(0, of_runs * _spread(freedom, generator) - self.own) / seeds
            part = whole, freedom
            return (nothing, part) if n_generators == seeds else (part, nothing)
        crowd, freedom = seeds / n_generators, float(seeds - n_generators)
        within = (self.seeds + self.own) * _spread(freedom, generator)
        means = self.seeds + self.own + crowd * self.generators
        between = means * _spread(n_generators - 1.0, generator)
        of_generators = np.maximum(0, between - np.maximum(within, self.own)) / seeds
        return (
            (np.maximum(0, within - self.own) / seeds, freedom),
            (of_generators, n_generators - 1.0),
        )


def _spread(freedom: float, generator: np.random.Generator) -> Floats:
    """Draw what a variance with so many degrees of freedom is multiplied by in its estimates."""
    return generator.chisquare(freedom, DRAWS) / freedom


def _summed(parts: Sequence[_Estimates]) -> tuple[Floats, Floats]:
    """Sum the estimates of two models, with the degrees of freedom of Welch and Satterthwaite."""
    total = np.sum([variance for variance, _ in parts], axis=0)
    squares = np.sum([variance**2 / freedom for variance, freedom in parts], axis=0)
    return total, np.where(total > 0, total**2 / np.where(squares > 0, squares, 1), np.inf)


def power(difference: float, variances: Variances, design: Design) -> float:
    """Predict how likely a planned run is to find a true difference at the 5 % level.

    Args:
        difference: Between the models, a fraction.
        variances: From `difference_variances`.
        design: Of the planned run.

    Returns:
        A probability: of McNemar's exact test where it compares one run a model, else of the test
        of `benchmarks.core.variance.p_value`, from `DRAWS` simulations of what it meets.

    Example:
        >>> still = ModelVariance(0.0, 0.0, 0.0)
        >>> variances = Variances(clusters=0.25, models=(still, still))
        >>> round(power(0.05, variances, Design(clusters=800, seeds=(1, 1))), 2)
        0.81
        >>> round(power(0.0, variances, Design(clusters=800, seeds=(1, 1))), 2)
        0.05
    """
    return _power_of(variances, design)(difference)


def _power_of(variances: Variances, design: Design) -> Callable[[float], float]:
    """Return the power of a planned run as a function of the difference."""
    discordance = variances.discordance
    if discordance is not None and design.seeds == (1, 1):
        return lambda difference: mcnemar_power(difference, discordance, design.clusters)
    return draw_outcomes(variances, design).power


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
    found = _power_of(variances, design)
    low, high = 0.0, 1.0
    if found(high) < wanted:
        return float("inf")
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= wanted else (middle, high)
    return high


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
        785.0
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
