"""Predicted power is met, and variances are found where they were put."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.comparison.power import (
    Design,
    ModelVariance,
    Variances,
    clusters_needed,
    difference_variances,
    mcnemar_power,
    minimum_detectable_effect,
    model_variance,
    power,
)
from benchmarks.core.variance import critical_value, difference_parts, mean_score
from benchmarks.records.compare import mcnemar

Counts = NDArray[np.int64]
STILL = ModelVariance(0.0, 0.0, 0.0)
FLAT = Variances(clusters=0.25, models=(STILL, STILL))


def simulated(
    difference: float, clusters: int, images: int, seeds: int, n_generators: int, seed: int
) -> tuple[Counts, Counts]:
    """Two models whose images, seeds and generators of the first vary; counts of each."""
    rng = np.random.default_rng(seed)
    sizes = (clusters, images)
    ease = rng.normal(0, 1, (clusters, 1, 1, 1)) + rng.normal(0, 0.5, (*sizes, 1, 1))
    own = rng.normal(0, 0.5, (clusters, 1, 2, 1))
    of_seeds = 0.1 if seeds > 1 else 0.0  # one seed is a model of its own
    shift = rng.normal(0, of_seeds, (2, seeds))
    if n_generators:
        shift[0] += rng.normal(0, 0.1, n_generators)[np.arange(seeds) % n_generators]
    total = np.sqrt(2.5 + of_seeds**2 + np.array([0.01 * bool(n_generators), 0]))
    level = norm.ppf([0.6 + difference / 2, 0.6 - difference / 2]) * total
    hits = ease + own + shift + rng.normal(0, 1, (*sizes, 2, seeds)) + level[:, None] > 0
    sums = hits.sum(axis=1)
    first, second = (np.stack([sums[:, m], np.full_like(sums[:, m], images)], -1) for m in (0, 1))
    return first, second


def in_turn(seeds: int, n_generators: int) -> list[str]:
    return [str(place % n_generators) for place in range(seeds)] if n_generators else []


def is_found(first: Counts, second: Counts, generators: list[str], is_exact: bool) -> bool:
    if is_exact:
        return mcnemar(np.stack([first[:, 0, 0], second[:, 0, 0]], axis=1)) < 0.05
    one, other = mean_score(first, generators), mean_score(second)
    parts = difference_parts(one, other)
    deviation = sum(part.variance for part in parts) ** 0.5
    return bool(abs(one.value - other.value) > critical_value(parts) * deviation)


@pytest.mark.parametrize("difference", [0.04, 0.07, 0.1])
@pytest.mark.parametrize(
    ("clusters", "images", "seeds", "n_generators"),
    [(400, 1, 1, 0), (60, 10, 1, 0), (400, 1, 3, 0), (60, 10, 5, 0), (400, 1, 6, 3)],
)
def test_the_predicted_power_is_met_within_five_points(
    difference: float, clusters: int, images: int, seeds: int, n_generators: int
) -> None:
    many = 1 if seeds == 1 else 40
    pilot = simulated(difference, 4_000, images, many, 20 if n_generators else 0, seed=1)
    is_exact = seeds == images == 1
    names = in_turn(many, 20) if n_generators else []
    variances = difference_variances(*pilot, (names, []), is_exact=is_exact)
    design = Design(clusters=clusters, seeds=(seeds, seeds), generators=(n_generators, 0))
    generators = in_turn(seeds, n_generators)
    sizes = (clusters, images, seeds, n_generators)
    found = [
        is_found(*simulated(difference, *sizes, seed=draw), generators, is_exact)
        for draw in range(100, 600)
    ]
    assert np.mean(found) == pytest.approx(power(difference, variances, design), abs=0.05)


def test_variances_are_found_where_they_were_put() -> None:
    rng = np.random.default_rng(0)
    seeds, of_generators = 0.03 * rng.standard_normal(400), 0.05 * rng.standard_normal(100)
    score = 0.5 + seeds + np.repeat(of_generators, 4)
    counts = np.stack([np.tile(1_000 * score, (2, 1)), np.full((2, 400), 1_000.0)], axis=-1)
    found = model_variance(counts, [str(place // 4) for place in range(400)])
    assert math.sqrt(found.seeds) == pytest.approx(0.03, rel=0.1)
    assert math.sqrt(found.generators) == pytest.approx(0.05, rel=0.15)
    assert found.interaction == pytest.approx(0, abs=1e-12)


def test_one_seed_says_nothing_of_others() -> None:
    counts, _ = simulated(0.0, 50, 1, 1, 0, seed=0)
    found = model_variance(counts)
    assert math.isnan(found.seeds)
    assert math.isnan(found.interaction)


def test_images_needed_have_the_power_and_one_less_has_not() -> None:
    needed = int(clusters_needed(0.05, FLAT, (1, 1)))
    at, below = (power(0.05, FLAT, Design(clusters=n, seeds=(1, 1))) for n in (needed, needed - 1))
    assert at >= 0.8 > below


def test_more_images_do_not_help_against_seeds() -> None:
    restless = ModelVariance(0.05**2, 0.0, 0.0)
    variances = Variances(clusters=0.25, models=(restless, restless))
    assert clusters_needed(0.05, variances, (3, 3)) == math.inf
    assert clusters_needed(0.05, variances, (100, 100)) < math.inf
    many = Design(clusters=10**6, seeds=(3, 3))
    assert minimum_detectable_effect(variances, many) > 0.05
    restless = ModelVariance(0.0, 0.05**2, 0.0)
    variances = Variances(clusters=0.25, models=(restless, STILL))
    assert clusters_needed(0.02, variances, (100, 100), (3, 0)) == math.inf


def test_the_smallest_detectable_difference_is_found_in_four_cases_of_five() -> None:
    design = Design(clusters=500, seeds=(3, 3))
    variances = Variances(clusters=0.2, models=(ModelVariance(1e-4, 0.0, 0.1),) * 2)
    smallest = minimum_detectable_effect(variances, design)
    assert power(smallest, variances, design) == pytest.approx(0.8, abs=0.01)


def test_mcnemars_power_is_the_sum_over_all_outcomes() -> None:
    n, only_first, only_second = 12, 0.5, 0.1
    total = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            ways = math.comb(n, a) * math.comb(n - a, b)
            likelihood = ways * only_first**a * only_second**b * 0.4 ** (n - a - b)
            hits = np.array([[1, 0]] * a + [[0, 1]] * b + [[0, 0]] * (n - a - b)).reshape(n, 2)
            total += likelihood * (mcnemar(hits) <= 0.05)
    assert mcnemar_power(0.4, 0.6, n) == pytest.approx(total)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1, "seeds": (1, 1)}, "at least two clusters"),
        ({"clusters": 9, "seeds": (2, 2), "generators": (3, 0)}, "cannot be more generators"),
    ],
)
def test_impossible_designs_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Design(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="difference of 0"):
        clusters_needed(0.0, FLAT, (1, 1))
