"""Each kind of interval covers the truth in about 95 of 100 experiments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import benchmarks.core.statistics
from benchmarks.core.statistics import Estimate, bootstrap, mean, proportion, worst_group_interval
from benchmarks.core.variance import critical_value, difference_parts, interval_of_mean, mean_score

N_EXPERIMENTS = 2_000
Bits = NDArray[np.bool_]
# Low end, high end, truth.
Experiment = Callable[[np.random.Generator], tuple[float, float, float]]


def is_count(*hits: Bits) -> NDArray[np.int64]:
    """Hits and images of objects with one image in each variant, (objects, 2 * variants)."""
    return np.stack([column for hit in hits for column in (hit, np.ones_like(hit))], axis=1) * 1


def alike(generator: np.random.Generator, n: int) -> tuple[Bits, Bits]:
    """Two sets of answers to the same images, right in 70 and in 60 %, that err together."""
    common = generator.random(n)
    first, second = (common + 0.2 * generator.random(n) < bar for bar in (0.8, 0.7))
    return first, second


def of_independent_images(generator: np.random.Generator) -> tuple[float, float, float]:
    estimate = proportion(generator.random(200) < 0.3)
    return estimate.low, estimate.high, 0.3


def of_objects_with_several_images(generator: np.random.Generator) -> tuple[float, float, float]:
    ease = generator.random(100)
    hits = generator.binomial(5, ease)
    estimate = of_clusters(np.stack([hits, np.full(100, 5)], axis=1))
    return estimate.low, estimate.high, 0.5


def of_a_shape_bias(generator: np.random.Generator) -> tuple[float, float, float]:
    answer = generator.choice(3, size=400, p=[0.15, 0.45, 0.4])  # shape, texture, neither
    estimate = bootstrap(np.stack([answer == 0, answer < 2], axis=1) * 1)
    return estimate.low, estimate.high, 0.25


def of_a_gap(generator: np.random.Generator) -> tuple[float, float, float]:
    estimate = bootstrap(is_count(*alike(generator, 300)))
    return estimate.low, estimate.high, 0.1


def of_a_difference_between_models(generator: np.random.Generator) -> tuple[float, float, float]:
    one, other = (mean_score(hits_and_images(each[:, None])) for each in alike(generator, 200))
    parts = difference_parts(one, other)
    half = critical_value(parts) * parts[0].variance ** 0.5
    return one.value - other.value - half, one.value - other.value + half, 0.1


def of_a_mean_of_probabilities(generator: np.random.Generator) -> tuple[float, float, float]:
    estimate = mean(generator.beta(0.5, 0.2, size=200))  # most near 1, many near 0
    return estimate.low, estimate.high, 0.5 / 0.7


def of_a_share_of_effects(generator: np.random.Generator) -> tuple[float, float, float]:
    shape, texture = generator.beta(0.5, 0.2, size=100), generator.beta(0.2, 0.5, size=100)
    estimate = bootstrap(np.stack([shape, shape + texture], axis=1))
    return estimate.low, estimate.high, 0.5 / 0.7


def of_a_difference_over_seeds_and_images(
    generator: np.random.Generator,
) -> tuple[float, float, float]:
    common = generator.random((300, 1))  # how hard images are, for both models and all seeds
    one, other = (
        mean_score(hits_and_images(common < share + generator.normal(0, 0.03, size=3)))
        for share in (0.7, 0.6)
    )
    parts = difference_parts(one, other)
    half = critical_value(parts) * sum(part.variance for part in parts) ** 0.5
    return one.value - other.value - half, one.value - other.value + half, 0.1


def hits_and_images(hits: Bits) -> NDArray[np.int64]:
    """Of images and runs, (images, runs), as (images, runs, 2)."""
    return np.stack([hits, np.ones_like(hits)], axis=2).astype(int)


@pytest.mark.parametrize(
    "experiment",
    [
        of_independent_images,
        of_objects_with_several_images,
        of_a_shape_bias,
        of_a_gap,
        of_a_difference_between_models,
        of_a_mean_of_probabilities,
        of_a_share_of_effects,
        of_a_difference_over_seeds_and_images,
    ],
)
def test_an_interval_covers_the_truth_in_93_to_97_of_100_experiments(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten times as fast, and enough for this.
    monkeypatch.setattr(benchmarks.core.statistics, "RESAMPLES", 1_000)
    generator = np.random.default_rng(0)
    low, high, truth = np.array([experiment(generator) for _ in range(N_EXPERIMENTS)]).T
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


def of_clusters(clusters: NDArray[np.int64]) -> Estimate:
    return interval_of_mean(mean_score(clusters[:, None]), int(clusters[:, 1].sum()), is_share=True)


@pytest.mark.parametrize("n_clusters", [10, 20, 40, 80])
@pytest.mark.parametrize("share", [0.5, 0.7])
@pytest.mark.parametrize("likeness", [0.05, 0.3])
def test_an_interval_over_clusters_of_1_to_40_images_covers_the_truth(
    n_clusters: int, share: float, likeness: float
) -> None:
    """Images of a cluster are alike as far as its own share of hits is not that of all."""
    generator = np.random.default_rng(0)
    spread = 1 / likeness - 1
    covered = []
    for _ in range(N_EXPERIMENTS):
        images = generator.integers(1, 41, size=n_clusters)
        ease = generator.beta(share * spread, (1 - share) * spread, size=n_clusters)
        estimate = of_clusters(np.stack([generator.binomial(images, ease), images], axis=1))
        covered.append(estimate.low <= share <= estimate.high)
    assert 0.93 <= np.mean(covered) <= 0.975


# Seeds and generators of a model, and by how much each moves its score beside what images do.
@pytest.mark.parametrize(
    ("n_seeds", "n_generators", "of_seeds", "of_generators"),
    [
        (3, 1, 0.0, 0.0),
        (3, 1, 2.0, 0.0),
        (3, 3, 1.0, 1.0),
        (5, 1, 1.0, 0.0),
        (5, 5, 2.0, 2.0),
        (10, 1, 1.0, 0.0),
        (10, 3, 0.0, 0.0),
        (10, 3, 1.0, 1.0),
        (10, 3, 2.0, 2.0),
        (10, 3, 0.3, 3.0),
        (10, 2, 1.0, 1.0),
    ],
)
@pytest.mark.parametrize("n_clusters", [20, 200])
def test_an_interval_over_images_seeds_and_generators_covers_the_truth(
    n_seeds: int, n_generators: int, of_seeds: float, of_generators: float, n_clusters: int
) -> None:
    generator = np.random.default_rng(0)
    place = np.arange(n_seeds) % n_generators
    covered = []
    for _ in range(N_EXPERIMENTS):
        images = generator.normal(size=(n_clusters, 1))
        own = 0.5 * generator.normal(size=(n_clusters, n_seeds))
        moved = of_seeds * generator.normal(size=n_seeds) * (n_seeds / n_clusters) ** 0.5
        drawn = generator.normal(size=n_generators) * (n_generators / n_clusters) ** 0.5
        values = images + own + moved + of_generators * drawn[place]
        clusters = np.stack([values, np.ones_like(values)], axis=2)
        estimate = interval_of_mean(
            mean_score(clusters, [str(each) for each in place]),
            n_clusters,
            is_share=False,
            lowest=-np.inf,
            highest=np.inf,
        )
        covered.append(estimate.low <= 0 <= estimate.high)
    # Wider than it need be where few generators leave open how much they move the score.
    assert 0.93 <= np.mean(covered) <= 0.975


@pytest.mark.parametrize("n_images", [10, 100])
@pytest.mark.parametrize("lowest", [0.05, 0.5, 0.89, 0.9])
def test_the_interval_of_the_worst_group_covers_its_true_share_however_bad_the_worst_is(
    lowest: float, n_images: int
) -> None:
    true = np.full(200, 0.9)
    true[0] = lowest
    covered = [
        estimate.low <= lowest <= estimate.high
        for estimate in worst_groups(true, n_images, n_experiments=500)
    ]
    assert np.mean(covered) >= 0.95


def test_a_group_that_is_far_the_worst_has_a_lower_end_as_high_as_it_may_be() -> None:
    true = np.full(200, 0.95)
    true[0] = 0.5
    lower = np.array([estimate.low for estimate in worst_groups(true, 400, n_experiments=2_000)])
    assert 0.015 <= (lower > 0.5).mean() <= 0.035


def worst_groups(true: NDArray[np.float64], n_images: int, n_experiments: int) -> list[Estimate]:
    """Estimates of the worst of groups with these true shares."""
    generator = np.random.default_rng(0)
    images = np.full(len(true), n_images)
    hits = generator.binomial(n_images, true, size=(n_experiments, len(true)))
    return [worst_group_interval(np.stack([row, images], axis=1)) for row in hits]
