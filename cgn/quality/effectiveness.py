"""Whether drawn images have the labels that they were made with, and how far they reach.

Source:
    Monteiro et al., Measuring axiomatic soundness of counterfactual image models, ICLR 2023
    (effectiveness). https://arxiv.org/abs/2303.01274
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021 (mean mask area).
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_images
from cgn.device.memory import images_at_once
from cgn.device.precision import evaluating
from cgn.device.transfer import sent
from cgn.quality.verification import Classify, accept_mask

NEIGHBOURS = 5  # the authors' choice for coverage


@torch.inference_mode()
def sample_quality(
    images: ImageSet,
    classify: Classify,
    verifier: Classify | None = None,
    *,
    factors: tuple[str, ...] = Factors._fields,
    n_classes: int,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure counterfactuals with independent factor classifiers.

    Args:
        images: Counterfactuals with independent labels, and the masks they were composed with if
            there are any.
        classify: From images (B, 3, H, W) in [0, 1] to logits for shape, texture and background,
            each (B, C), of classifiers fitted on true images with independent factors.
        verifier: As for `accept_mask`; it and `classify` must know nothing of each other.
        factors: Names of the factors that true images have.
        n_classes: Number of classes.
        device: Where the classifiers are.

    Returns:
        By name: `mask_area`, its mean as a share of the image, and `mask_area_sd` over images,
        where there are masks; `<factor>_effectiveness`, how often that factor's classifier finds
        the label that the image was made with, in [0, 1], 1 being best; and `<factor>_leakage`,
        how much more often than by chance it finds the label of another factor, mean over the
        others, 0 being best. With a verifier also `verified_share`, how many it accepts, and
        `verified_<name>`, the last two of the accepted ones, if there are any.
    """
    scores = {}
    if images.masks is not None:
        area = to_images(images.masks).mean(dim=(1, 2, 3))
        scores = {"mask_area": area.mean().item(), "mask_area_sd": area.std().item()}
    scores |= _effectiveness(images, classify, factors, n_classes, device)
    if verifier is None:
        return rounded(scores)
    accepted = accept_mask(images, verifier, factors, device=device)
    scores["verified_share"] = accepted.float().mean().item()
    if accepted.any():
        of_accepted = _effectiveness(images.select(accepted), classify, factors, n_classes, device)
        scores |= {f"verified_{name}": score for name, score in of_accepted.items()}
    return rounded(scores)


@torch.inference_mode()
def accuracy(
    images: ImageSet, classify: Classify, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Measure the factor classifiers themselves: no effectiveness can show more than they see.

    Args:
        images: True images with independent factors, on which they were not fitted.
        classify: As for `sample_quality`.
        device: Where the classifiers are.

    Returns:
        `<factor>_judge` for each factor of the images: how often its label is found, in [0, 1].

    Example:
        >>> pixels = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
        >>> images = ImageSet(pixels, Factors.aligned(torch.tensor([0, 0, 0, 1])), torch.arange(4))
        >>> always_first = torch.tensor([1.0, 0.0])
        >>> accuracy(images, lambda batch: [always_first.expand(len(batch), 2)] * 3)["shape_judge"]
        0.75
    """
    predictions, true = _predict(images, classify, device), images.factors
    hits = {name: getattr(predictions, name) == getattr(true, name) for name in true.known}
    return rounded({f"{name}_judge": hit.float().mean().item() for name, hit in hits.items()})


@torch.inference_mode()
def coverage_and_diversity(
    drawn: ImageSet,
    real: ImageSet,
    features: Callable[[Tensor], Tensor],
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure whether counterfactuals reach as far as true images, and lie as far apart.

    Args:
        drawn: Counterfactuals with independent labels.
        real: As many true images with independent labels: both measures depend on the number.
        features: From images (B, 3, H, W) in [0, 1] to features (B, K) of a network that was fitted
            to neither.
        device: Where it is.

    Returns:
        `coverage`: share of the true images that have a drawn one nearer than their fifth true
        neighbour, in [0, 1]; of true images drawn anew it would be 0.97. `diversity`: mean
        distance of two drawn images of one shape, relative to that of true ones, 1 being as
        diverse.

    Raises:
        ValueError: If there are not more than five true images.

    Source:
        Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020
        (coverage). https://arxiv.org/abs/2002.09797
    """
    if len(real) <= NEIGHBOURS:
        raise ValueError(f"coverage needs more than {NEIGHBOURS} true images, got {len(real)}")
    of_drawn, of_real = (features_of(each, features, device) for each in (drawn, real))
    # Each image is its own nearest neighbour.
    reach = torch.cdist(of_real, of_real).kthvalue(NEIGHBOURS + 1, dim=1).values
    covered = torch.cdist(of_real, of_drawn).min(dim=1).values < reach
    spread = _spread(of_drawn, drawn.factors.shape) / _spread(of_real, real.factors.shape)
    return rounded({"coverage": covered.float().mean().item(), "diversity": spread})


def _spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance of two images of a class, the mean over classes."""
    of_class = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    means = [torch.pdist(features[sent(index, features.device)]).mean() for index in of_class]
    return torch.stack(means).mean().item()


def features_of(
    images: ImageSet, features: Callable[[Tensor], Tensor], device: torch.device | str
) -> Tensor:
    """Compute the features of all images, (N, K)."""
    return torch.cat([features(batch) for batch, _ in _batches(images, device)])


def _batches(images: ImageSet, device: torch.device | str) -> Iterator[tuple[Tensor, Factors]]:
    """Show a network on a device all images, as many at once as suit it."""
    at_once = images_at_once(device, images.size_px[1])
    with evaluating(device):
        yield from images.batches(at_once, device=device)


def _predict(images: ImageSet, classify: Classify, device: torch.device | str) -> Factors:
    """Return the labels that the factor classifiers find, each (N,) int64."""
    logits = zip(*(classify(batch) for batch, _ in _batches(images, device)), strict=True)
    return Factors(*(torch.cat(each).argmax(dim=1).cpu() for each in logits))


def _effectiveness(
    images: ImageSet,
    classify: Classify,
    factors: tuple[str, ...],
    n_classes: int,
    device: torch.device | str,
) -> dict[str, float]:
    """Compute effectiveness and leakage of each factor."""
    predictions, scores = _predict(images, classify, device), {}
    for name in factors:
        answer = getattr(predictions, name)
        hits = {k: (answer == getattr(images.factors, k)).float().mean().item() for k in factors}
        scores[f"{name}_effectiveness"] = hits.pop(name)
        leaked = [hit - 1 / n_classes for hit in hits.values()]
        scores[f"{name}_leakage"] = sum(leaked) / len(leaked)
    return scores


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Round to what is worth reading."""
    return {name: round(score, 4) for name, score in scores.items()}
