"""Which images a recipe goes through in one round, and how often: pure functions to indices.

In which order is not here: see `classifiers.fit`.

Source:
    Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020.
    https://arxiv.org/abs/1911.08731
    Liu et al., Just Train Twice, ICML 2021. https://arxiv.org/abs/2107.09044
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cgn.data.factors import Factors
from classifiers.objectives.debiasing import agrees

# From labels (N,) and what an earlier network predicted, (N,) int64 or None if there was none, to
# indices into the set, (M,) int64; an image may stand there several times.
Sampling = Callable[[Factors, Tensor | None], Tensor]

# How often an error counts: the factor of the authors' command for Waterbirds, the paper's first
# data set. They choose it on validation images with group labels, which we do not have.
UPWEIGHT = 100


def uniform(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Take each image once.

    Example:
        >>> uniform(Factors.aligned(torch.tensor([4, 2, 4])), None)
        tensor([0, 1, 2])
    """
    return torch.arange(len(factors.shape))


def balanced_environments(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Repeat images until those that agree with their class are as many as the others.

    Args:
        factors: Labels, each (N,) int64.
        predictions: Not used.

    Returns:
        Indices, (M,) int64; each image once if all are of one kind.

    Source:
        Arjovsky et al. weigh environments alike; see `classifiers.objectives.debiasing`.

    Example:
        >>> shape, texture = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0])
        >>> balanced_environments(Factors(shape, texture, shape), None)
        tensor([3, 3, 3, 0, 1, 2])
    """
    return _balanced(agrees(factors).long())


def balanced_groups(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Repeat images until each group that exists is as large as the largest.

    The groups are class by class the images that agree with it, and the others.

    Args:
        factors: Labels, each (N,) int64.
        predictions: Not used.

    Returns:
        Indices, (M,) int64.

    Source:
        Sagawa et al., group-balanced batches.

    Example:
        >>> shape, texture = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
        >>> balanced_groups(Factors(shape, texture, shape), None)
        tensor([2, 2, 0, 1, 3, 3])
    """
    return _balanced(2 * factors.shape + agrees(factors).long())


def balanced_classes(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Repeat images until each class has as many as the largest.

    Args:
        factors: Labels, each (N,) int64.
        predictions: Not used.

    Returns:
        Indices, (M,) int64.

    Example:
        >>> balanced_classes(Factors.aligned(torch.tensor([0, 0, 1])), None)
        tensor([0, 1, 2, 2])
    """
    return _balanced(factors.shape)


def _balanced(groups: Tensor) -> Tensor:
    """Go round each group until all have as many indices as the largest, (M,) int64."""
    members = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
    turns = torch.arange(max(map(len, members)))
    return torch.cat([index[turns % len(index)] for index in members])


def upweighted_errors(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Take each image once, and those that the first network got wrong a hundred times.

    Args:
        factors: Labels, each (N,) int64.
        predictions: Classes that the first network saw, (N,) int64.

    Returns:
        Indices, (M,) int64.

    Raises:
        ValueError: If there was no first network.

    Source:
        Liu et al., algorithm 1.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> upweighted_errors(Factors.aligned(labels), torch.tensor([0, 1, 0])).bincount()
        tensor([  1,   1, 100])
    """
    if predictions is None:
        raise ValueError("errors are upweighted after a first network; name one in the recipe")
    times = torch.where(predictions == factors.shape, 1, UPWEIGHT)
    return torch.arange(len(times)).repeat_interleave(times)
