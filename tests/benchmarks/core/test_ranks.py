"""Sets of ranks hold the true rank, and are as small as the data allow."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.core.ranks import rank_sets
from benchmarks.core.variance import MeanScore, mean_score


def models(generator: np.random.Generator, shares: list[float], n: int) -> list[MeanScore]:
    """Models that are right about so many of the same images, which are as hard for all."""
    common = generator.random(n)
    hits = [common + 0.2 * generator.random(n) < share + 0.1 for share in shares]
    return [mean_score(np.stack([hit, np.ones(n)], axis=1)[:, None] * 1) for hit in hits]


def test_models_far_apart_have_one_rank_each() -> None:
    best, worst = rank_sets(models(np.random.default_rng(0), [0.3, 0.9, 0.6], 500))
    assert best.tolist() == worst.tolist() == [3, 1, 2]


def test_models_that_answer_alike_share_all_their_ranks() -> None:
    one, other = (models(np.random.default_rng(0), [share], 500)[0] for share in (0.6, 0.2))
    best, worst = rank_sets([one, one, other])
    assert list(zip(best.tolist(), worst.tolist(), strict=True)) == [(1, 2), (1, 2), (3, 3)]


def test_an_undefined_score_comes_last() -> None:
    one, other = models(np.random.default_rng(0), [0.6, 0.9], 500)
    best, worst = rank_sets([one._replace(value=np.nan), other])
    assert (best.tolist(), worst.tolist()) == ([2, 1], [2, 1])


def test_seeds_far_apart_leave_the_rank_open() -> None:
    images = np.ones((400, 3))
    wild = np.array([0.2, 0.5, 0.9]) * images
    calm = np.array([0.69, 0.7, 0.71]) * images
    noise = 0.1 * np.random.default_rng(0).normal(size=(400, 1))
    means = [mean_score(np.stack([each + noise, images], axis=2)) for each in (wild, calm)]
    best, worst = rank_sets(means)
    assert (best.tolist(), worst.tolist()) == ([1, 1], [2, 2])


@pytest.mark.parametrize("shares", [[0.5, 0.5, 0.5, 0.5], [0.5, 0.52, 0.54, 0.56]])
def test_the_set_of_a_model_holds_its_true_rank_in_95_of_100_experiments(
    shares: list[float],
) -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        best, worst = rank_sets(models(generator, shares, 400))
        n_better = sum(share > shares[0] for share in shares)
        covered.append(best[0] <= 1 + n_better <= worst[0])
    assert np.mean(covered) >= 0.93
