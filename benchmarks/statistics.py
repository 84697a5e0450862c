"""The statistics of this package for any benchmark: paired tests, power and plans.

Everything here takes predictions or numbers, and knows no suite.
"""

from __future__ import annotations

from benchmarks.comparison.files import compare_predictions, read_predictions
from benchmarks.comparison.power import (
    Design,
    ModelVariance,
    Variances,
    clusters_needed,
    difference_variances,
    minimum_detectable_effect,
    power,
)
from benchmarks.records.compare import Difference, holm, mcnemar

__all__ = [
    "Design",
    "Difference",
    "ModelVariance",
    "Variances",
    "clusters_needed",
    "compare_predictions",
    "difference_variances",
    "holm",
    "mcnemar",
    "minimum_detectable_effect",
    "power",
    "read_predictions",
]
