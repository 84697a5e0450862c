"""What classifiers minimise: pure functions of a network and its batches.

Batches come by the name of the set they are from: "biased", "counterfactual", "unbiased".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cgn.data.factors import Factors
from classifiers.networks.small import Heads, as_ensemble

UNKNOWN = -1  # label of a factor that an image does not have

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
        >>> batch = torch.rand(2, 3, 8, 8), Factors.aligned(torch.tensor([0, 1]))
        >>> shape_cross_entropy(even, {"biased": batch}).shape
        torch.Size([])
    """
    terms = [cross_entropy(network(images), factors.shape) for images, factors in batches.values()]
    return torch.stack(terms).mean()


def invariant(network: nn.Module, batches: Batches) -> Tensor:
    """Losses of the invariant ensemble: the answer on real images, each head on counterfactuals.

    Args:
        network: An `InvariantEnsemble`.
        batches: A "biased" batch, and one of counterfactuals, whatever their set is called.

    Returns:
        Scalar in [0, inf), in nats: cross-entropy of the deployed output with the label, plus
        that of each head with the label of its own factor.

    Source:
        Sauer and Geiger, invariant classifier ensemble.
    """
    images, factors = batches["biased"]
    ((counterfactuals, targets),) = (batch for name, batch in batches.items() if name != "biased")
    ensemble = as_ensemble(network)
    heads = ensemble.heads(torch.cat([images, counterfactuals]))
    real = Heads(*(logits[: len(images)] for logits in heads))
    loss = cross_entropy(ensemble.join(real), factors.shape)
    for logits, labels in zip(heads, targets, strict=True):
        loss = loss + cross_entropy(logits[len(images) :], labels)
    return loss


def every_factor(network: nn.Module, batches: Batches) -> Tensor:
    """Cross-entropy of each head with its own factor, unknown labels left out.

    Args:
        network: An `InvariantEnsemble`.
        batches: Images whose factors vary on their own, by set.

    Returns:
        Scalar in [0, inf), in nats: the sum over the factors that are known, the mean over sets.
    """
    terms = []
    for images, factors in batches.values():
        heads = as_ensemble(network).heads(images)
        for logits, labels in zip(heads, factors, strict=True):
            n_known = (labels >= 0).sum().clamp(min=1)  # nobody asks a GPU how many, and waits
            total = cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
            terms.append(total / n_known)
    return torch.stack(terms).sum() / len(batches)
