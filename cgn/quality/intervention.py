"""What an intervention on real images does to them, measured against the true counterfactuals.

Source:
    Monteiro et al., Measuring axiomatic soundness of counterfactual image models, ICLR 2023
    (composition, reversibility). https://arxiv.org/abs/2303.01274
    Melistas et al., Benchmarking Counterfactual Image Generation, NeurIPS 2024 (ten cycles of
    composition; minimality). https://arxiv.org/abs/2403.20287
    Sanchez and Tsaftaris, Diffusion Causal Models for Counterfactual Estimation, CLeaR 2022
    (counterfactual latent divergence). https://arxiv.org/abs/2202.10166
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cgn.counterfactuals.generators import SupportsIntervention, SupportsSegmentation
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.quality.effectiveness import features_of, rounded
from cgn.quality.fidelity import mask_iou

CYCLES = 10  # null interventions in a row, as Melistas et al. have it
TOO_FAR, TOO_NEAR = 0.8, 0.2  # weights of the two parts of minimality, from the authors' code


def minimality(divergence: Tensor, to_counterfactual: Tensor, to_factual: Tensor) -> Tensor:
    """Counterfactual latent divergence: does an intervention change more than it has to?

    CLD = log(0.8 exp(P(S_cf <= d)) + 0.2 exp(P(S_f >= d)))

    Args:
        divergence: d, distance of each counterfactual from its image, (N,).
        to_counterfactual: S_cf, distances of each image from real images that have the label of
            its counterfactual, (N, M), inf for others.
        to_factual: S_f, the same for real images that have its own label, (N, K), inf for others.

    Returns:
        (N,) in [0, 1], lower being better: 0 if the counterfactual is nearer to its image than
        any real image of its new label is, and farther than all of the old one. NaN without
        real images of one of the labels.

    Source:
        Sanchez and Tsaftaris; weights and direction are those of the code of Melistas et al.

    Example:
        >>> near, far = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 5.0]])
        >>> minimality(torch.tensor([3.0]), to_counterfactual=far, to_factual=near)
        tensor([0.])
        >>> minimality(torch.tensor([6.0]), to_counterfactual=far, to_factual=near).exp()
        tensor([2.3746])
    """

    def share(distances: Tensor, counted: Tensor) -> Tensor:
        known = distances.isfinite()
        return (counted & known).sum(dim=1) / known.sum(dim=1)

    far = share(to_counterfactual, to_counterfactual <= divergence[:, None])
    near = share(to_factual, to_factual >= divergence[:, None])
    return (TOO_FAR * far.exp() + TOO_NEAR * near.exp()).log()


@dataclass(frozen=True)
class Reference:
    """Real images that minimality is held against.

    Attributes:
        images: True images with independent factors.
        features: From images (B, 3, H, W) in [0, 1] to features (B, K) of a network that was
            fitted to none of them.
    """

    images: ImageSet
    features: Callable[[Tensor], Tensor]


@torch.inference_mode()
def intervention_quality(
    generator: SupportsIntervention,
    images: ImageSet,
    exact: Mapping[str, ImageSet],
    reference: Reference,
    *,
    true_masks: Tensor | None,
    n_classes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure interventions on real images.

    Args:
        generator: What makes the counterfactuals.
        images: Real images whose factors all follow the class, as the generator may see them.
        exact: True counterfactuals of the same images, by action, `do_texture` and
            `do_background`: the factor has the label of the next class, and all else is as it
            was. Empty where they are not known.
        reference: For minimality.
        true_masks: Where the objects are, (N, 1, H, W) bool; None where it is not known.
        n_classes: Number of classes.
        seed: Fixes what chance decides.
        device: Where the network of the reference is.

    Returns:
        By name, images on the scale [0, 1]: `mask_iou`, intersection over union of found and
        true masks, mean over images, and `mask_iou_worst_class`, the lowest mean of a class, where
        the generator segments and the truth is known; `composition` and `composition_10`, mean
        absolute change of an image after one and ten interventions that change no label; and for
        each action `<action>_minimality`, as of `minimality` with L1 distances of features;
        `<action>_reversibility`, mean absolute difference between the image and what the action
        and its reverse make of it; and, where the true counterfactual is known, `<action>_error`,
        mean absolute difference to it, and `<action>_untouched`, that of the image itself, for
        scale.
    """
    aligned = images.factors
    scores = {}
    if true_masks is not None and isinstance(generator, SupportsSegmentation):
        scores = _overlap(generator.segment(images), true_masks, aligned.shape)
    same = images
    for cycle in range(CYCLES):
        same = act(generator, same, aligned, seed=seed + cycle)
        if cycle == 0:
            scores["composition"] = _difference(same, images)
    scores[f"composition_{CYCLES}"] = _difference(same, images)
    latent = features_of(images, reference.features, device)
    of_reference = features_of(reference.images, reference.features, device)
    distances = torch.cdist(latent, of_reference, p=1)
    for factor in (name for name in aligned.known if name != "shape"):
        action, old = f"do_{factor}", getattr(aligned, factor)
        new = (old + 1) % n_classes
        changed = act(generator, images, aligned._replace(**{factor: new}), seed=seed)
        back = act(generator, changed, aligned, seed=seed)
        scores[f"{action}_reversibility"] = _difference(back, images)
        divergence = (features_of(changed, reference.features, device) - latent).abs().sum(dim=1)
        real = getattr(reference.images.factors, factor)
        of_new, of_old = (_of_label(distances, real, labels) for labels in (new, old))
        least = minimality(divergence, of_new, of_old)
        scores[f"{action}_minimality"] = least.mean().item()
        if action in exact:
            scores[f"{action}_error"] = _difference(changed, exact[action])
            scores[f"{action}_untouched"] = _difference(images, exact[action])
    return rounded(scores)


def free_counterfactuals(
    generator: SupportsIntervention, images: ImageSet, n: int, *, n_classes: int, seed: int
) -> ImageSet:
    """Make counterfactuals of real images with independent textures and backgrounds.

    Args:
        generator: What makes them.
        images: Real images whose factors all follow the class; they are taken in turn.
        n: Number of counterfactuals.
        n_classes: Number of classes.
        seed: Fixes labels and what chance decides.

    Returns:
        The counterfactuals; factors that the images have no label of have none here either.
    """
    order = torch.arange(n) % len(images)
    chosen = images.select(order)
    free = Factors.independent(n, n_classes, torch.Generator().manual_seed(seed))
    factors = free._replace(shape=chosen.factors.shape).only(images.factors.known)
    return act(generator, chosen, factors, seed=seed)


def act(
    generator: SupportsIntervention, images: ImageSet, factors: Factors, *, seed: int
) -> ImageSet:
    """Let a generator intervene on images, and label them as asked.

    Raises:
        ValueError: If it returns more or fewer images, or images of another size.
    """
    changed = generator.intervene(images, factors, seed=seed)
    if len(changed) != len(images) or changed.size_px != images.size_px:
        raise ValueError(
            f"an intervention on {len(images)} images of {images.size_px} pixels returned "
            f"{len(changed)} of {changed.size_px}"
        )
    return replace(changed, factors=factors)


def _overlap(masks: Tensor, true_masks: Tensor, labels: Tensor) -> dict[str, float]:
    """Compare found masks with true ones, both (N, 1, H, W) bool."""
    overlap = mask_iou(masks.cpu(), true_masks)
    of_class = [overlap[labels == label].mean() for label in labels.unique()]
    worst = torch.stack(of_class).min().item()
    return {"mask_iou": overlap.mean().item(), "mask_iou_worst_class": worst}


def _of_label(distances: Tensor, real: Tensor, labels: Tensor) -> Tensor:
    """Keep the distances, (N, M), of each image to real images of a label, inf for the others."""
    same = (real == labels[:, None]).to(distances.device)
    return distances.masked_fill(~same, torch.inf)


def _difference(one: ImageSet, other: ImageSet) -> float:
    """Mean absolute difference of the pixels of two sets, on the scale [0, 1]."""
    return (one.images() - other.images()).abs().mean().item()
