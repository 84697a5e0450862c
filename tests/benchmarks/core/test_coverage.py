"""Each kind of interval covers the truth in about 95 of 100 experiments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import benchmarks.core.statistics
import benchmarks.records.compare
from benchmarks.core.scores import Score
from benchmarks.core.statistics import Estimate, bootstrap, mean, proportion, worst_group_interval
from benchmarks.records.compare import compare

N_EXPERIMENTS = 2_000
Bits = NDArray[np.bool_]
# Low end, high end, truth.
Experiment = Callable[[np.random.Generator], tuple[float, float, float]]

COUNTED = Score(
    variant="v", metric="accuracy", count=lambda table: table[["hits", "images"]], chance=0.1
)


def is_count(*hits: Bits) -> NDArray[np.int64]:
    """Hits and images of objects with one image in each variant, (objects, 2 * variants)."""
    return np.stack([column for hit in hits for column in (hit, np.ones_like(hit))], axis=1) * 1


def table_of(hits: Bits) -> pd.DataFrame:
    return pd.DataFrame(is_count(hits), columns=["hits", "images"]).assign(variant="v")


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
    estimate = bootstrap(np.stack([hits, np.full(100, 5)], axis=1))
    return estimate.low, estimate.high, 0.5


def of_a_shape_bias(generator: np.random.Generator) -> tuple[float, float, float]:
    answer = generator.choice(3, size=400, p=[0.15, 0.45, 0.4])  # shape, texture, neither
    estimate = bootstrap(np.stack([answer == 0, answer < 2], axis=1) * 1)
    return estimate.low, estimate.high, 0.25


def of_a_gap(generator: np.random.Generator) -> tuple[float, float, float]:
    estimate = bootstrap(is_count(*alike(generator, 300)))
    return estimate.low, estimate.high, 0.1


def of_a_difference_between_models(generator: np.random.Generator) -> tuple[float, float, float]:
    tables = ([table_of(hits)] for hits in alike(generator, 200))
    found = compare(COUNTED, *tables, seed=int(generator.integers(1 << 30)))
    return found.low, found.high, 0.1


def of_a_mean_of_probabilities(generator: np.random.Generator) -> tuple[float, float, float]:
    estimate = mean(generator.beta(0.5, 0.2, size=200))  # most near 1, many near 0
    return estimate.low, estimate.high, 0.5 / 0.7


def of_a_share_of_effects(generator: np.random.Generator) -> tuple[float, float, float]:
    shape, texture = generator.beta(0.5, 0.2, size=100), generator.beta(0.2, 0.5, size=100)
    estimate = bootstrap(np.stack([shape, shape + texture], axis=1))
    return estimate.low, estimate.high, 0.5 / 0.7


def of_a_mean_over_seeds(generator: np.random.Generator) -> tuple[float, float, float]:
    estimate = mean(generator.normal(0.7, 0.02, size=3))
    return estimate.low, estimate.high, 0.7


def of_a_difference_over_seeds_and_images(
    generator: np.random.Generator,
) -> tuple[float, float, float]:
    common = generator.random(300)  # how hard images are, for both models and all seeds

    def model(share: float) -> list[pd.DataFrame]:
        bars = share + generator.normal(0, 0.03, size=3)
        return [table_of(common < bar) for bar in bars]

    found = compare(COUNTED, model(0.7), model(0.6), seed=int(generator.integers(1 << 30)))
    return found.low, found.high, 0.1


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
        of_a_mean_over_seeds,
        of_a_difference_over_seeds_and_images,
    ],
)
def test_an_interval_covers_the_truth_in_93_to_97_of_100_experiments(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (benchmarks.core.statistics, benchmarks.records.compare):
        monkeypatch.setattr(module, "RESAMPLES", 1_000)  # ten times as fast, and enough for this
    generator = np.random.default_rng(0)
    low, high, truth = np.array([experiment(generator) for _ in range(N_EXPERIMENTS)]).T
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


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
