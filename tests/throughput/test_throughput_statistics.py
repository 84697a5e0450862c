"""Time of a bootstrap over clusters, beside SciPy's.

python -m pytest tests/throughput/test_throughput_statistics.py --benchmark-only
"""

from __future__ import annotations

import numpy as np
import pytest
from measuring import FULL
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import bootstrap as scipy_bootstrap

from benchmarks.core.statistics import RESAMPLES, bootstrap

N_IMAGES, N_CLUSTERS = (50_000, 500) if FULL else (2_000, 50)


def images() -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Clusters of images, and whether they are hits."""
    generator = np.random.default_rng(0)
    cluster = generator.integers(N_CLUSTERS, size=N_IMAGES)
    return cluster, generator.random(N_IMAGES) < generator.random(N_CLUSTERS)[cluster]


def summed(cluster: NDArray[np.int64], hits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Hits and images of each cluster."""
    counts = [np.bincount(cluster, each, N_CLUSTERS) for each in (hits, np.ones(len(hits)))]
    return np.stack(counts, axis=1).astype(int)


def ours() -> tuple[float, float]:
    estimate = bootstrap(summed(*images()))
    return estimate.low, estimate.high


def scipys() -> tuple[float, float]:
    found = scipy_bootstrap(
        tuple(summed(*images()).T),
        lambda hits, n, axis: hits.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=1_000,
        rng=0,
    )
    low, high = found.confidence_interval
    return float(low), float(high)


@pytest.mark.parametrize("form", [ours, scipys])
def test_a_bootstrap_over_clusters(form: object, benchmark: BenchmarkFixture) -> None:
    low, high = benchmark(form)
    assert (low, high) == pytest.approx(ours(), abs=5e-3)
