"""Tables of comparisons beyond the stored results: files of predictions, and planned runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.comparison.plan import Pilot, Plan
from benchmarks.core.scores import Score
from benchmarks.records.compare import Difference, verdict
from benchmarks.report.table import NONE, Cell, Table, fraction, interval


def predictions_table(
    first: str, second: str, score: Score, difference: Difference, margin: float | None = None
) -> Table:
    """Lay out the difference between two files of predictions.

    Args:
        first: Name of the first.
        second: Name of the second.
        score: What is compared.
        difference: From `benchmarks.comparison.files.compare_predictions`.
        margin: In points: how much worse would not matter, for the verdict.
    """
    table = Table(
        ["score", first, second, "difference", "p", "detectable", "n", "verdict"],
        f"{first} against {second}",
        "percent and points with 95 % interval over images and seeds; detectable: "
        "the smallest difference that would be found in 4 cases of 5",
    )
    return table.add(
        score.metric,
        fraction(difference.first),
        fraction(difference.second),
        interval(difference.value, difference.low, difference.high),
        Cell(f"{difference.p_value:.2g}", difference.p_value),
        fraction(difference.minimum_detectable_effect),
        difference.n,
        verdict(
            score,
            first,
            second,
            difference,
            difference.p_value,
            None if margin is None else margin / 100,
        ),
    )


def variances_table(suite: str, pilot: Pilot) -> Table:
    """Lay out where the variance of a difference comes from.

    Args:
        suite: Name of the suite.
        pilot: From `benchmarks.comparison.plan.pilot`.
    """
    first, second = pilot.models
    table = Table(
        ["varies between", "sd, points", "stored"],
        f"{suite}, {pilot.score.key.replace('_', ' ')}: {first} against {second}, "
        f"difference {100 * pilot.difference:+.1f}",
        "sd of one unit; a run's variance is each sd squared over the number of its units; "
        "not known from one seed",
    )
    clusters = pilot.design.clusters
    objects = f"{clusters} of {pilot.images_per_cluster:.3g} images"
    table.add("objects, the difference", _sd(pilot.variances.clusters), objects)
    each = zip(
        pilot.models,
        pilot.variances.models,
        pilot.design.seeds,
        pilot.design.generators,
        strict=True,
    )
    for model, variance, seeds, generators in each:
        table.add(f"seeds of {model}", _sd(variance.seeds), seeds)
        if generators:
            table.add(f"generators of {model}", _sd(variance.generators), generators)
        table.add(f"objects within a seed of {model}", _sd(variance.interaction), None)
    return table


def plans_table(difference: float, wanted: float, plans: Sequence[Plan]) -> Table:
    """Lay out what runs of several sizes can see.

    Args:
        difference: That is to be found, a fraction.
        wanted: The power.
        plans: From `benchmarks.comparison.plan.make_plans`.
    """
    points, percent = f"{100 * difference:g}", f"{100 * wanted:g} %"
    table = Table(
        ["seeds", "generators", "images", "detectable", "power", f"images for {points} points"],
        f"What it takes to see {points} points",
        f"detectable: the smallest difference, in points, found with power {percent}; power: how "
        f"likely {points} points are found; the last column: images needed for power {percent}",
    )
    for plan in plans:
        possible = np.isfinite(plan.images_needed)
        needed = f"{plan.images_needed:,.0f}" if possible else "never: add seeds"
        table.add(
            plan.seeds,
            plan.generators or None,
            plan.images,
            fraction(plan.detectable) if np.isfinite(plan.detectable) else "none",
            fraction(plan.power),
            Cell(needed, plan.images_needed),
        )
    return table


def _sd(variance: float) -> Cell:
    """A standard deviation in points; NaN as a dash."""
    return Cell(NONE, None) if pd.isna(variance) else fraction(float(np.sqrt(variance)))
