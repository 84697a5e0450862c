"""Effective robustness: what a network scores on shifted images beyond what its clean score says.

The facts are in `effective_robustness.csv`, one row a fit: its coefficients, on how many networks
it stands, how widely they lie around it, and the clean accuracies of the worst and the best of
them whose scores are known here. All are fractions.

Source:
    Taori et al., Measuring Robustness to Natural Distribution Shifts in Image Classification,
    NeurIPS 2020. https://arxiv.org/abs/2007.00644
    Interval of a difference: Zou and Donner, Construction of confidence limits about effect
    measures, Statistics in Medicine 2008.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from benchmarks.core.statistics import Estimate
from benchmarks.core.suite import Suite
from benchmarks.records.runs import newest

FACTS = Path(__file__).with_name("effective_robustness.csv")
CLEAN = "imagenet"  # the suite that has all clean scores
# A network differs from the standard ones if it lies further from the fit than most of them.
FAR = 2.0
_RUN = ["source", "model", "weights_sha256", "seed"]


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """What standard networks score on shifted images, given their score on clean ones.

    logit(y) = b0 + b1 logit(x)

    Attributes:
        suite: The suite of shifted images.
        score: Key of its score, y.
        clean_score: Key of the score on clean images, x.
        b0: Offset.
        b1: Slope.
        n: How many networks it was fitted to.
        r2: Share of the variance that it explains, on the logit scale.
        spread: Standard deviation of the networks' y around it.
        lowest: The lowest x of these networks whose scores are known here.
        highest: The highest x of them. The fit may reach further, for not all are known.
        source: Where it comes from.
    """

    suite: str
    score: str
    clean_score: str
    b0: float
    b1: float
    n: int
    r2: float
    spread: float
    lowest: float
    highest: float
    source: str

    def expected(self, clean: float) -> float:
        """What a standard network with this clean accuracy scores, in [0, 1].

        Example:
            >>> sketch = fits()[0]
            >>> round(sketch.expected(0.7613), 3)  # a ResNet-50
            0.244
        """
        return float(expit(self.b0 + self.b1 * logit(clean)))

    def effective(self, shifted: Estimate, clean: Estimate) -> Estimate:
        """How much higher a network scores than a standard one with its clean accuracy.

        y - expected(x)

        Args:
            shifted: Its score on shifted images, y.
            clean: Its score on other, clean images, x.

        Returns:
            A value in [-1, 1]: 0 is as good as standard networks, above is better. The interval is
            over both sets of images; that the fit is uncertain too is not in it, but in `spread`.

        Example:
            >>> sketch = Estimate(0.3006, 0.297, 0.305, 50_889)  # a ResNet-50 trained on SIN
            >>> clean = Estimate(0.602, 0.598, 0.606, 50_000)
            >>> round(fits()[0].effective(sketch, clean).value, 2)
            0.17
        """
        middle, low, high = (self.expected(x) for x in clean[:3])
        value = shifted.value - middle
        below = np.hypot(shifted.value - shifted.low, high - middle)
        above = np.hypot(shifted.high - shifted.value, middle - low)
        return Estimate(value, float(value - below), float(value + above), shifted.n)


def fits() -> list[LinearFit]:
    """Read the fits that are on record."""
    rows = pd.read_csv(FACTS).to_dict("records")
    return [LinearFit(**{str(name): cell for name, cell in row.items()}) for row in rows]


def effective_robustness(
    runs: pd.DataFrame, suites: Mapping[str, Suite], names: Collection[str]
) -> pd.DataFrame:
    """Hold each network's score on shifted images against what its clean score lets expect.

    Args:
        runs: From `benchmarks.records.runs.read_runs`.
        suites: The suites of the fits and of the clean images, by name, as published.
        names: Of the suites that are asked for; that of the clean images asks for all.

    Returns:
        One row a run that has both scores on the same kind of source: suite, model, seed, source,
        clean, shifted, expected, value, low, high, spread, and verdict, in words.
    """
    keyed = newest(runs).assign(key=runs["variant"] + "_" + runs["metric"])
    rows: list[dict[str, object]] = []
    for fit in fits():
        if fit.suite not in names and CLEAN not in names:
            continue
        shifted = _estimates(keyed, suites[fit.suite], fit.score)
        clean = _estimates(keyed, suites[CLEAN], fit.clean_score)
        rows += [_row(fit, run, shifted[run], clean[run]) for run in shifted if run in clean]
    return pd.DataFrame(rows)


def _estimates(runs: pd.DataFrame, suite: Suite, key: str) -> dict[tuple[object, ...], Estimate]:
    """The estimates of one score, by run."""
    own = (runs["suite"] == suite.name) & (runs["protocol"] == suite.protocol)
    rows = runs[own & (runs["key"] == key)].set_index(_RUN)
    return {run: Estimate(*each) for run, *each in rows[["value", "low", "high", "n"]].itertuples()}


def _row(
    fit: LinearFit, run: tuple[object, ...], shifted: Estimate, clean: Estimate
) -> dict[str, object]:
    """One network beside the fit."""
    effective = fit.effective(shifted, clean)
    return {
        "suite": fit.suite,
        "model": run[1],
        "seed": run[3],
        "source": run[0],
        "clean": clean.value,
        "shifted": shifted.value,
        "expected": fit.expected(clean.value),
        **effective._asdict(),
        "spread": fit.spread,
        "verdict": verdict(fit, effective, clean.value),
    }


def verdict(fit: LinearFit, effective: Estimate, clean: float) -> str:
    """Say in words what `LinearFit.effective` means, and warn where the fit says nothing.

    Example:
        >>> verdict(fits()[0], Estimate(0.03, 0.02, 0.04, 9), 0.7)
        'as standard networks'
        >>> verdict(fits()[0], Estimate(0.17, 0.16, 0.18, 9), 0.5)
        'better than standard networks; clean accuracy outside 56.5-78.3 %, where the fit is known'
    """
    far = FAR * fit.spread
    words = "as standard networks"
    if effective.low > far or effective.high < -far:
        words = f"{'better' if effective.value > 0 else 'worse'} than standard networks"
    if not fit.lowest <= clean <= fit.highest:
        ends = f"{100 * fit.lowest:.1f}-{100 * fit.highest:.1f} %"
        words += f"; clean accuracy outside {ends}, where the fit is known"
    return words
