"""What a fit holds out of its own training images, and the join of heads that is learned there.

Nothing of a test is seen. How the images of a set weigh is decided by which factors are taken to
be nuisances, an assumption of the recipe that its name states.

Source:
    Platt, Probabilistic Outputs for Support Vector Machines, 1999; Guo et al., On Calibration of
    Modern Neural Networks, ICML 2017: confidences are corrected on images that the fit did not see.
    https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.device.precision import evaluating
from classifiers.networks.joins import PATTERNS, Alignment, Heads, mix_alignments
from classifiers.networks.small import InvariantEnsemble

SHARE = 0.1  # of the images that are held out
MOST = 5_000  # images of a set that the join is learned from, and real images held out
FEWEST_ORIGINS = 20  # of each class, so that whole ones can be held out
AT_ONCE = 500  # images classified together
ITERATIONS = 200
TRUST = 1e-3  # in the exponents as they are, in nats: decides those that no image decides


def hold_out(
    sets: Mapping[str, ImageSet], seed: int
) -> tuple[dict[str, ImageSet], dict[str, ImageSet]]:
    """Split sets of training images before a fit.

    All images of one origin, which their ids name, go to the same part in every set: a real image
    and the counterfactuals that were made of it. Where a class has few origins, as with drawings,
    images are held out whatever their origin.

    Args:
        sets: "biased", the real images, and sets of counterfactuals.
        seed: Decides the origins.

    Returns:
        The sets to fit to; and the held-out ones, about a tenth of each, less where that would be
        more than 5,000 real images.

    Raises:
        ValueError: If a set is too small to be split.

    Example:
        >>> pixels = torch.zeros(400, 3, 2, 2, dtype=torch.uint8)
        >>> labels = Factors.aligned(torch.arange(400) % 2)
        >>> sets = {"biased": ImageSet(pixels, labels, torch.arange(400))}
        >>> fitted, held_out = hold_out(sets, seed=0)
        >>> len(fitted["biased"]) + len(held_out["biased"])
        400
    """
    ranks = dict(zip(sets, _draw_ranks(sets, seed), strict=True))
    of_origins = ranks["biased"].unique()
    share = min(SHARE, MOST / len(sets["biased"]))
    threshold = of_origins[max(1, round(share * len(of_origins))) - 1]
    fitted, held_out = {}, {}
    for name, images in sets.items():
        # A set of few origins that are all of others gives one of its own.
        is_held_out = ranks[name] <= threshold.maximum(ranks[name].min())
        if is_held_out.all():
            raise ValueError(
                f"{len(images)} {name} images are too few to hold a part of them out; take more "
                "images, or the mean of the heads"
            )
        fitted[name] = images.select((~is_held_out).nonzero()[:, 0])
        held_out[name] = images.select(is_held_out.nonzero()[:, 0])
    return fitted, held_out


def _draw_ranks(sets: Mapping[str, ImageSet], seed: int) -> tuple[Tensor, ...]:
    """Draw a rank for each image of each set, the same for all of one origin, (N,) int64."""
    sizes = [len(images) for images in sets.values()]
    origins = torch.cat([images.ids for images in sets.values()])
    if _count_origins(sets["biased"]) < FEWEST_ORIGINS:
        origins = torch.arange(sum(sizes))
    known, place = origins.unique(return_inverse=True)
    ranks = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    by_set: tuple[Tensor, ...] = ranks[place].split(sizes)
    return by_set


def _count_origins(images: ImageSet) -> int:
    """Count the origins of the class that has fewest."""
    pairs = torch.stack([images.factors.shape, images.ids]).unique(dim=1)
    return int(pairs[0].unique(return_counts=True)[1].min())


def weigh_by_nuisances(factors: Factors, nuisances: Collection[str], n_classes: int) -> Tensor:
    """Weigh counterfactuals so that nuisances are independent of the shape and others follow it.

    Args:
        factors: Labels of counterfactuals, each (N,) int64.
        nuisances: Of "texture" and "background", those that tell nothing of the class.
        n_classes: C.

    Returns:
        Weights of the images, (N,) in [0, 1] with the sum 1.

    Raises:
        ValueError: If no image is as the nuisances say.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> factors = Factors(torch.zeros(4, dtype=torch.int64), labels, labels)
        >>> weigh_by_nuisances(factors, ["texture", "background"], n_classes=2)
        tensor([0.1667, 0.1667, 0.1667, 0.5000])
        >>> weigh_by_nuisances(factors, ["background"], n_classes=2)
        tensor([0.3333, 0.3333, 0.3333, 0.0000])
    """
    cell, target = torch.zeros_like(factors.shape), torch.ones(1)
    for name in ("texture", "background"):
        labels = getattr(factors, name)
        if name not in factors.known:
            continue
        follows = 1 / n_classes if name in nuisances else 1.0
        cell = 2 * cell + (labels == factors.shape)
        target = torch.cat([target * (1 - follows), target * follows])
        # The last factor is the lowest bit of a cell's number.
        target = target.view(2, -1).t().flatten()
    counts = cell.bincount(minlength=len(target)).clamp(min=1)
    weights = (target / counts)[cell]
    if not weights.any():
        raise ValueError(
            f"no held-out counterfactual has {', '.join(nuisances)} free and all else of the "
            "shape's class; take other counterfactuals or other nuisances"
        )
    return weights / weights.sum()


def learn_join(
    network: InvariantEnsemble,
    held_out: Mapping[str, ImageSet],
    nuisances: Collection[str],
    device: torch.device | str = "cpu",
) -> None:
    """Learn how heads are joined, by the likelihood of the joined answer on held-out images.

    Real images count as much as all counterfactuals, and each set of these as much as any other.

    Args:
        network: An ensemble with an `Alignment`, whose numbers are replaced.
        held_out: "biased", and sets of counterfactuals.
        nuisances: As for `weigh_by_nuisances`.
        device: Where the heads answer.

    Raises:
        ValueError: If the network's join is not learned.
    """
    join = network.join
    if not isinstance(join, Alignment):
        raise ValueError(f"the {type(join).__name__} of heads has nothing to learn")
    n_classes, n_sets = join.n_classes, len(held_out) - 1
    answers, labels, weights = [], [], []
    for name, images in held_out.items():
        some = images.select(slice(None, None, -(-len(images) // MOST)))
        answers.append(_answers(network, some, device))
        labels.append(some.factors.shape)
        if name == "biased":
            weights.append(torch.full((len(some),), 1 / len(some)))
        else:
            weights.append(weigh_by_nuisances(some.factors, nuisances, n_classes) / n_sets)
    heads = Heads(*torch.cat(answers, dim=1))
    shares, exponents = learn_alignment(heads, torch.cat(labels), torch.cat(weights), n_classes)
    join.shares.copy_(shares)
    join.exponents.copy_(exponents)


@torch.inference_mode()
def _answers(network: InvariantEnsemble, images: ImageSet, device: torch.device | str) -> Tensor:
    """Collect the logits of all heads, (3, N, C) on the CPU."""
    batches = images.batches(AT_ONCE, device=device)
    with evaluating(device):
        several = [torch.stack(network.heads(batch)).float().cpu() for batch, _ in batches]
    return torch.cat(several, dim=1)


def learn_alignment(
    heads: Heads, labels: Tensor, weights: Tensor, n_classes: int
) -> tuple[Tensor, Tensor]:
    """Find the shares of patterns, and the heads' exponents, under which labels are most likely.

    Args:
        heads: Logits of images that no head was fitted to, each (N, C).
        labels: Classes of the shapes, (N,) int64.
        weights: Of the images, (N,), at least 0.
        n_classes: C.

    Returns:
        Shares, (4,) in [0, 1] with the sum 1, and exponents, (3,) above 0; see `mix_alignments`.
        Patterns that explain the images equally well have equal shares.

    Example:
        >>> labels = torch.arange(40) % 2
        >>> says = 9 * torch.nn.functional.one_hot(labels, 2).float()
        >>> knows_nothing = torch.zeros(40, 2)
        >>> shares, _ = learn_alignment(
        ...     Heads(knows_nothing, says, knows_nothing), labels, torch.ones(40), 2
        ... )
        >>> shares.round(decimals=2)
        tensor([0.0000, 0.5000, 0.0000, 0.5000])
    """
    exact = Heads(*(logits.double() for logits in heads))
    scores = torch.zeros(len(PATTERNS), dtype=torch.float64, requires_grad=True)
    logs = torch.zeros(len(Heads._fields), dtype=torch.float64, requires_grad=True)
    weights = weights.double() / weights.sum()
    optimiser = torch.optim.LBFGS(
        [scores, logs], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        joined = mix_alignments(exact, scores.softmax(dim=0), logs.exp(), n_classes)
        loss: Tensor = (weights * cross_entropy(joined, labels, reduction="none")).sum()
        loss = loss + TRUST * logs.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return scores.detach().softmax(dim=0).float(), logs.detach().exp().float()
