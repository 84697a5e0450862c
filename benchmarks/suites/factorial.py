"""Scores of a full factorial: what each factor and each combination of factors does to the answer.

In the unchanged images all factors are of one class. Every other cell of the design changes some of
the factors to other classes, and what is read is how sure the model is of the original class. All
effects are sums of the cells with fixed weights.

Source:
    Box, Hunter and Hunter, Statistics for Experimenters, Wiley 2005 (factorial effects).
    Shapley, A value for n-person games, 1953, in Contributions to the Theory of Games II.
    Pearl, Causality, Cambridge University Press 2009 (interventions, average causal effect).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from math import factorial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.core.scores import Score, shares
from cgn.data.factors import Factors

Cell = frozenset[str]  # the factors that a cell of the design changes
Weights = Mapping[Cell, float]
BASE = "base"
PROBABILITY = "p_class"
LOG_ODDS = "log_odds"
DIGITS = 1_000  # as many as files keep
FLOOR = 0.1  # total effect on the probability below which shares are noise over noise


def cell_name(changed: Cell, factors: Sequence[str]) -> str:
    """Name the variant in which some factors are changed.

    Example:
        >>> cell_name(frozenset(["background", "shape"]), ["shape", "texture", "background"])
        'do_shape_background'
        >>> cell_name(frozenset(), ["shape", "texture"])
        'base'
    """
    if not changed:
        return BASE
    return "_".join(["do", *(factor for factor in factors if factor in changed)])


def cells(factors: Sequence[str]) -> list[Cell]:
    """List all cells of a design, the unchanged one first.

    Example:
        >>> len(cells(["shape", "texture", "background"]))
        8
    """
    sizes = range(len(factors) + 1)
    return [*map(frozenset, chain.from_iterable(combinations(factors, size) for size in sizes))]


def effect_weights(of: Sequence[str], factors: Sequence[str]) -> dict[Cell, float]:
    """Weigh the cells for a main effect, or an interaction.

    Args:
        of: One factor for its main effect: the unchanged minus the changed cells, averaged over
            what the other factors are. Several for their interaction: how much the effect of one
            of them is larger where the others are unchanged.
        factors: All of the design.

    Example:
        >>> weights = effect_weights(["shape"], ["shape", "texture"])
        >>> weights[frozenset()], weights[frozenset(["shape"])], weights[frozenset(["texture"])]
        (0.5, -0.5, 0.5)
    """
    share = 0.5 ** (len(factors) - len(of))
    return {cell: share * (-1) ** len(cell & {*of}) for cell in cells(factors)}


def shapley_weights(factor: str, factors: Sequence[str]) -> dict[Cell, float]:
    """Weigh the cells for the Shapley value of one factor.

    It is the mean effect of changing the factor over all orders in which the factors are changed;
    the values of all factors add up to the total effect.

    Example:
        >>> weights = shapley_weights("shape", ["shape", "texture"])
        >>> weights[frozenset()], weights[frozenset(["shape"])], weights[frozenset(["texture"])]
        (0.5, -0.5, 0.5)
    """
    n = len(factors)

    def of_cell(cell: Cell) -> float:
        before = len(cell - {factor})
        share = factorial(before) * factorial(n - before - 1) / factorial(n)
        return -share if factor in cell else share

    return {cell: of_cell(cell) for cell in cells(factors)}


def total_weights(factors: Sequence[str]) -> dict[Cell, float]:
    """Weigh the cells for the total effect: no factor changed minus all of them changed."""
    return {frozenset(): 1.0, frozenset(factors): -1.0}


def total_effect(factors: Sequence[str], column: str = PROBABILITY) -> Score:
    """How much less sure of the original class the model is when all factors change.

    E[p(y) | all factors are y] - E[p(y) | all factors are of other classes]

    Args:
        factors: Of the design.
        column: `PROBABILITY`, or `LOG_ODDS` for log p(y) / (1 - p(y)) in its place.

    Returns:
        A score in [-1, 1]; 0 for a model that guesses.
    """
    return _contrast(BASE, "total_effect", total_weights(factors), factors, column, True)


def shapley_value(factor: str, factors: Sequence[str], column: str = PROBABILITY) -> Score:
    """Part of the total effect that one factor has, see `shapley_weights`.

    Args:
        factor: One of the design.
        factors: Of the design.
        column: As for `total_effect`.

    Returns:
        A score in [-1, 1]: the total effect if the factor alone decides, 0 if it has no part.
    """
    weights = shapley_weights(factor, factors)
    return _contrast(f"do_{factor}", "shapley_value", weights, factors, column, factor == "shape")


def main_effect(factor: str, factors: Sequence[str]) -> Score:
    """Average causal effect of a factor on the probability of the original class.

    Args:
        factor: One of the design.
        factors: Of the design.

    Returns:
        A score in [-1, 1], averaged over what the other factors are.
    """
    weights = effect_weights([factor], factors)
    is_shape = factor == "shape"
    return _contrast(f"do_{factor}", "main_effect", weights, factors, PROBABILITY, is_shape)


def interaction(of: Sequence[str], factors: Sequence[str]) -> Score:
    """How much the effect of one factor depends on another, or on two others.

    Args:
        of: Two factors of the design or more.
        factors: Of the design.

    Returns:
        A score on probabilities: 0 if effects add up; above 0 if the model needs the factors
        together, below 0 if one of them is enough. Lower counts as better: a model that follows
        shape alone has 0.
    """
    variant = cell_name(frozenset(of), factors)
    weights = effect_weights(of, factors)
    return _contrast(variant, "interaction", weights, factors, PROBABILITY, False)


def share(factor: str, factors: Sequence[str], column: str = PROBABILITY) -> Score:
    """Share of the total effect that one factor has: its Shapley value over the total effect.

    The shares of all factors add up to 1.

    Args:
        factor: One of the design.
        factors: Of the design.
        column: As for `total_effect`.

    Returns:
        A score, 1 if the factor alone decides, 0 if it has no part; chance can put it a little
        beyond either. NaN where the total effect on the probability is below `FLOOR`: what is then
        divided is noise.
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        total = total_weights(factors)
        both = [shapley_weights(factor, factors), total]
        ids, (parts, whole) = _combined(predictions, both, factors, column)
        certain = whole
        if column != PROBABILITY:
            certain = _combined(predictions, [total], factors, PROBABILITY)[1][0]
        is_shown = float(certain.mean() >= FLOOR)
        return pd.DataFrame({"hits": parts * is_shown, "images": whole * is_shown}, ids)

    return Score(
        variant=BASE,
        metric=f"{_prefix(column)}{factor}_share",
        count=count,
        higher_is_better=factor == "shape",
        chance=np.nan,  # guessing follows no factor
        lowest=-np.inf,
        highest=np.inf,
    )


def flip_rate(factor: str) -> Score:
    """Share of images whose prediction changes when one factor alone is changed.

    Args:
        factor: "shape", "texture" or "background". That shape changes it is good, that another
            factor does is not.
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        ids, (before, after) = _by_id(predictions, [BASE, f"do_{factor}"], "prediction")
        return shares((before != after).astype(int)).set_axis(ids)

    return Score(
        variant=f"do_{factor}",
        metric="flip_rate",
        count=count,
        higher_is_better=factor == "shape",
        chance=0.0,
    )


def factorial_scores(factors: Sequence[str]) -> tuple[Score, ...]:
    """List the scores of a design, the share of shape first.

    Args:
        factors: Those of the world, "shape" among them.
    """
    several = [of for size in range(2, len(factors) + 1) for of in combinations(factors, size)]
    return (
        *(share(factor, factors) for factor in factors),
        total_effect(factors),
        *(shapley_value(factor, factors) for factor in factors),
        *(main_effect(factor, factors) for factor in factors),
        *(interaction(of, factors) for of in several),
        *(share(factor, factors, LOG_ODDS) for factor in factors),
        total_effect(factors, LOG_ODDS),
        *(shapley_value(factor, factors, LOG_ODDS) for factor in factors),
        *(flip_rate(factor) for factor in factors),
    )


def class_probability(logits: Tensor, labels: Factors) -> Tensor:
    """Give the probability of the class that an object had before any change.

    Args:
        logits: (B, C).
        labels: Of the unchanged images, each (B,) int64.

    Returns:
        (B,) in [0, 1].

    Example:
        >>> logits, label = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1])
        >>> class_probability(logits, Factors.aligned(label))
        tensor([0.7500])
    """
    return logits.softmax(dim=1).gather(1, labels.shape[:, None])[:, 0]


def class_log_odds(logits: Tensor, labels: Factors) -> Tensor:
    """Give the log-odds of the class that an object had before any change.

    log p / (1 - p), which saturates nowhere.

    Args:
        logits: (B, C).
        labels: Of the unchanged images, each (B,) int64.

    Returns:
        (B,), of any size.

    Example:
        >>> logits, label = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1])
        >>> class_log_odds(logits, Factors.aligned(label)).exp()
        tensor([3.])
    """
    own = labels.shape[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, own)[:, 0] - others


COLUMNS = {PROBABILITY: class_probability, LOG_ODDS: class_log_odds}


def _contrast(
    variant: str,
    metric: str,
    weights: Weights,
    factors: Sequence[str],
    column: str,
    higher_is_better: bool,
) -> Score:
    """Build the score that is the mean of a weighted sum of cells."""

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        ids, sums = _combined(predictions, [weights], factors, column)
        return shares(sums[0]).set_axis(ids)

    most = float(sum(abs(weight) for weight in weights.values()) / 2)
    bound = most if column == PROBABILITY else np.inf
    return Score(
        variant=variant,
        metric=_prefix(column) + metric,
        count=count,
        higher_is_better=higher_is_better,
        chance=0.0,
        lowest=-bound,
        highest=bound,
    )


def _prefix(column: str) -> str:
    """What begins the names of scores that are not on probabilities."""
    return "" if column == PROBABILITY else f"{column}_"


def _combined(
    predictions: pd.DataFrame, weights: Sequence[Weights], factors: Sequence[str], column: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sum one column over the cells with weights, or with each of several, by id.

    Args:
        predictions: On all cells.
        weights: Of the same cells or of a part of those of the first.
        factors: Of the design.
        column: As for `total_effect`.

    Returns:
        The ids, (N,), and the sums, (weights, N).

    Raises:
        ValueError: If images are missing, or the column is.
    """
    if column not in predictions:
        raise ValueError(f"these predictions lack {column}; run the model on the suite again")
    names = [BASE, *(cell_name(cell, factors) for cell in weights[0])]
    ids, values = _by_id(predictions, names, column)
    scale = factorial(len(factors)) * 2 ** len(factors)
    # Whole numbers: what cancels leaves exactly 0.
    parts = np.array(
        [[round(scale * each.get(cell, 0)) for cell in weights[0]] for each in weights]
    )
    sums = parts @ (DIGITS * values[1:].astype(float)).round()
    return ids, sums / (scale * DIGITS)


def _by_id(
    predictions: pd.DataFrame, variants: Sequence[str], column: str
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The ids of objects, (N,), and a column of each of several variants, (variants, N), by id.

    Raises:
        ValueError: If the variants do not show the same objects.
    """
    codes, names = pd.factorize(predictions["variant"])
    code_of = {name: code for code, name in enumerate(names)}
    ids, values = predictions["id"].to_numpy(), predictions[column].to_numpy()
    places: list[NDArray[np.intp]] = []
    for variant in variants:
        there = np.flatnonzero(codes == code_of.get(variant, len(names)))
        places.append(there[np.argsort(ids[there], kind="stable")])
        if not np.array_equal(ids[places[-1]], ids[places[0]]):
            raise ValueError(f"{variants[0]} and {variant} are not predictions on the same objects")
    return ids[places[0]], values[np.stack(places)]
