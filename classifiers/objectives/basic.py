"""Cross-entropies that classifiers minimise: pure functions of a network and its batches.

Batches are named after their set: "biased", "counterfactual", "unbiased".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cgn.data.factors import Factors
from classifiers.networks.joins import Heads
from classifiers.networks.small import as_ensemble

UNKNOWN = -1  # label of a factor that an image does not have

Batches = Mapping[str, tuple[Tensor, Factors]]
Objective = Callable[[nn.Module, Batches], Tensor]


def shape_cross_entropy(network: nn.Module, batches: Batches) -> Tensor:
    """Cross-entropy with the shape label: empirical risk minimisation.

    Args:
        network: From images to logits, (B, C).
        batches: Images (B, 3, H, W) in [0, 1] and labels, by set.

    Returns:
        Scalar in [0, inf), in nats: the mean over the sets of the mean over the images.

    Example:
        >>> batch = torch.zeros(2, 3, 2, 2), Factors.aligned(torch.tensor([0, 1]))
        >>> shape_cross_entropy(nn.Flatten(), {"biased": batch})  # 12 equal logits: ln 12
        tensor(2.4849)
    """
    terms = [cross_entropy(network(images), factors.shape) for images, factors in batches.values()]
    return torch.stack(terms).mean()


def invariant(network: nn.Module, batches: Batches) -> Tensor:
    """Losses of the invariant ensemble: the answer on real images, each head on counterfactuals.

    Args:
        network: An `InvariantEnsemble`.
        batches: A "biased" batch, and one or more of counterfactuals of any name.

    Returns:
        Scalar in [0, inf), in nats: cross-entropy of the deployed output with the label, plus
        that of each head with the label of its own factor, the mean over sets of counterfactuals.

    Source:
        Sauer and Geiger, ICLR 2021, invariant classifier ensemble. Differs: where real images have
        no background, its head does not take part in the answer, from which it would learn to
        read the object.
    """
    real, loss = _split_heads(network, batches)
    factors = batches["biased"][1]
    known = (factors.background != UNKNOWN)[:, None]
    real = real._replace(background=torch.where(known, real.background, 0.0))
    return loss + cross_entropy(as_ensemble(network).join(real), factors.shape)


def _split_heads(network: nn.Module, batches: Batches) -> tuple[Heads, Tensor]:
    """Answer all batches in one pass: heads on real images, and their loss on counterfactuals."""
    images = [batch for batch, _ in batches.values()]
    heads = as_ensemble(network).heads(torch.cat(images))
    of_sets = zip(
        *(logits.split([len(batch) for batch in images]) for logits in heads), strict=True
    )
    by_name = {name: Heads(*own) for name, own in zip(batches, of_sets, strict=True)}
    real = by_name.pop("biased")
    terms = [
        cross_entropy(logits, labels)
        for name, own in by_name.items()
        for logits, labels in zip(own, batches[name][1], strict=True)
    ]
    return real, torch.stack(terms).sum() / len(by_name)


def every_factor(network: nn.Module, batches: Batches) -> Tensor:
    """Cross-entropy of each head of an ensemble with its own factor, unknown labels left out.

    Returns:
        Scalar in [0, inf), in nats: the sum over the factors that are known, the mean over sets.
    """
    terms = []
    for images, factors in batches.values():
        heads = as_ensemble(network).heads(images)
        for logits, labels in zip(heads, factors, strict=True):
            terms.append(known_cross_entropy(logits, labels))
    return torch.stack(terms).sum() / len(batches)


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the images whose label is known, without asking a GPU for a count.

    Args:
        logits: (B, C).
        labels: (B,) int64, -1 where unknown.

    Returns:
        Scalar in [0, inf), in nats; 0 if no label is known.

    Example:
        >>> known_cross_entropy(torch.zeros(2, 4), torch.tensor([3, -1]))
        tensor(1.3863)
    """
    n_known = (labels >= 0).sum().clamp(min=1)
    return cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum") / n_known
