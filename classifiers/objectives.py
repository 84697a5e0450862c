"""What classifiers minimise: pure functions of a network and its batches.

Batches come by the name of the set they are from: "biased", "counterfactual", "unbiased".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cgn.images import Factors
from classifiers.networks import Heads, InvariantEnsemble, join_heads

Batches = Mapping[str, tuple[Tensor, Factors]]
Objective = Callable[[nn.Module, Batches], Tensor]


def shape_cross_entropy(network: nn.Module, batches: Batches) -> Tensor:
    """Cross-entropy with the shape label: empirical risk minimisation on whatever it is given.

    Args:
        network: From images to logits, (B, C).
        batches: Images (B, 3, H, W) in [0, 1] and labels, by set.

    Returns:
        Scalar in [0, inf), in nats: the mean over the sets of the mean over the images.

    Example:
        >>> even = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
        >>> batch = torch.rand(2, 3, 8, 8), Factors.tied(torch.tensor([0, 1]))
        >>> shape_cross_entropy(even, {"biased": batch}).shape
        torch.Size([])
    """
    terms = [cross_entropy(network(images), factors.shape) for images, factors in batches.values()]
    return torch.stack(terms).mean()


def invariant(network: nn.Module, batches: Batches) -> Tensor:
    """Losses of the invariant ensemble: the answer on real images, each head on counterfactuals.

    Args:
        network: An `InvariantEnsemble`.
        batches: A "biased" and a "counterfactual" batch.

    Returns:
        Scalar in [0, inf), in nats: cross-entropy of the deployed output with the label, plus
        that of each head with the label of its own factor.

    Source:
        Sauer and Geiger, invariant classifier ensemble.
    """
    images, factors = batches["biased"]
    counterfactuals, targets = batches["counterfactual"]
    if not isinstance(network, InvariantEnsemble):
        raise ValueError(f"the invariant objective needs three heads, not {type(network).__name__}")
    heads = network.heads(torch.cat([images, counterfactuals]))
    real = Heads(*(logits[: len(images)] for logits in heads))
    loss = cross_entropy(join_heads(real), factors.shape)
    for logits, labels in zip(heads, targets, strict=True):
        loss = loss + cross_entropy(logits[len(images) :], labels)
    return loss
