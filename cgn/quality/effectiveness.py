"""How good counterfactuals are, measured on the images and not on their use.

Source:
    Monteiro et al., Measuring axiomatic soundness of counterfactual image models, ICLR 2023
    (composition, effectiveness, reversibility). https://arxiv.org/abs/2303.01274
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021 (mean mask area).
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cgn.counterfactuals.abduction import intervene, real_image_counterfactuals
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_images
from cgn.device.memory import images_at_once
from cgn.device.precision import evaluating
from cgn.device.transfer import sent
from cgn.models.cgn import CGN
from cgn.quality.fidelity import mask_iou
from cgn.quality.verification import Classify, accept_mask
from cgn.segmentation.by_colour import segment_by_colour

NEIGHBOURS = 5  # the authors' choice for coverage


@torch.inference_mode()
def quality(
    cgn: CGN,
    classify: Classify,
    verifier: Classify | None = None,
    *,
    factors: tuple[str, ...] = Factors._fields,
    n: int = 2_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure counterfactuals with independent factor classifiers.

    Args:
        cgn: What draws them.
        classify: From images (B, 3, H, W) in [0, 1] to logits for shape, texture and background,
            each (B, C), of classifiers fitted on true images with independent factors.
        verifier: As for `accept_mask`; it and `classify` must know nothing of each other.
        factors: Names of the factors that true images have.
        n: Number of counterfactuals.
        seed: Fixes them.
        device: Where the mechanisms run, and where the classifiers are.

    Returns:
        By name: `mask_area`, its mean as a share of the image; `mask_area_sd` over images;
        `<factor>_effectiveness`, how often that factor's classifier finds the label that its
        mechanism was given, in [0, 1], 1 being best; and `<factor>_leakage`, how much more
        often than by chance it finds the label of another mechanism, mean over the others, 0 being
        best. With a verifier also `verified_share`, how many it accepts, and `verified_<name>`,
        the last two of the accepted ones, if there are any.
    """
    images = sample(cgn, n, seed=seed, device=device)
    assert images.masks is not None  # `sample` keeps them
    area = to_images(images.masks).mean(dim=(1, 2, 3))
    scores = {"mask_area": area.mean().item(), "mask_area_sd": area.std().item()}
    scores |= _label_scores(images, classify, verifier, factors, cgn.config.n_classes, device)
    return _rounded(scores)


@torch.inference_mode()
def accuracy(
    images: ImageSet, classify: Classify, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Measure the factor classifiers themselves: no effectiveness can show more than they see.

    Args:
        images: True images with independent factors, on which they were not fitted.
        classify: As for `quality`.
        device: Where the classifiers are.

    Returns:
        `<factor>_judge` for each factor of the images: how often its label is found, in [0, 1].
    """
    predictions, true = _predict(images, classify, device), images.factors
    hits = {name: getattr(predictions, name) == getattr(true, name) for name in true.known}
    return _rounded({f"{name}_judge": hit.float().mean().item() for name, hit in hits.items()})


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
    of_drawn, of_real = (
        torch.cat([features(batch) for batch, _ in _batches(each, device)])
        for each in (drawn, real)
    )
    # Each image is its own nearest neighbour.
    reach = torch.cdist(of_real, of_real).kthvalue(NEIGHBOURS + 1, dim=1).values
    covered = torch.cdist(of_real, of_drawn).min(dim=1).values < reach
    spread = _spread(of_drawn, drawn.factors.shape) / _spread(of_real, real.factors.shape)
    return _rounded({"coverage": covered.float().mean().item(), "diversity": spread})


def _spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance of two images of a class, the mean over classes."""
    of_class = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    means = [torch.pdist(features[sent(index, features.device)]).mean() for index in of_class]
    return torch.stack(means).mean().item()


def _batches(images: ImageSet, device: torch.device | str) -> Iterator[tuple[Tensor, Factors]]:
    """Show a network on a device all images, as many at once as suit it."""
    at_once = images_at_once(device, images.size_px[1])
    with evaluating(device):
        yield from images.batches(at_once, device=device)


def _predict(images: ImageSet, classify: Classify, device: torch.device | str) -> Factors:
    """Return the labels that the factor classifiers find, each (N,) int64."""
    logits = zip(*(classify(batch) for batch, _ in _batches(images, device)), strict=True)
    return Factors(*(torch.cat(each).argmax(dim=1).cpu() for each in logits))


def _label_scores(
    images: ImageSet,
    classify: Classify,
    verifier: Classify | None,
    factors: tuple[str, ...],
    n_classes: int,
    device: torch.device | str,
) -> dict[str, float]:
    """Compute effectiveness and leakage of all counterfactuals, and of the accepted ones."""
    scores = _effectiveness(images, classify, factors, n_classes, device)
    if verifier is None:
        return scores
    accepted = accept_mask(images, verifier, factors, device=device)
    scores["verified_share"] = accepted.float().mean().item()
    if not accepted.any():
        return scores
    of_accepted = _effectiveness(images.select(accepted), classify, factors, n_classes, device)
    return scores | {f"verified_{name}": score for name, score in of_accepted.items()}


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


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    """Round to what is worth reading."""
    return {name: round(score, 4) for name, score in scores.items()}


@torch.inference_mode()
def abduction_quality(
    cgn: CGN,
    classify: Classify,
    images: ImageSet,
    masks: Tensor,
    exact: Mapping[str, ImageSet],
    verifier: Classify | None = None,
    *,
    n: int = 2_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure counterfactuals of real images, also against the true ones.

    Args:
        cgn: What draws surfaces and backgrounds.
        classify: As for `quality`.
        images: Real images whose factors all follow the class, with their true masks.
        masks: Where their objects were found, (N, 1, H, W) bool.
        exact: True counterfactuals of the same images under `do_texture`, `do_background` or
            both: the factor has another class's label, the same for all images of a class, and
            all else is as it was.
        verifier: As for `quality`; it must not have been fitted to these images.
        n: Number of counterfactuals with independent labels, at least as many as images.
        seed: Fixes labels and noise.
        device: As for `quality`.

    Returns:
        By name, images on the scale [0, 1]: `mask_iou`, intersection over union of found and
        true masks, mean over images, and `mask_iou_worst_class`, the lowest mean of a class;
        `composition`, mean absolute change of an image on which nobody acts; for each true
        counterfactual `<action>_error`, mean absolute difference to it, `<action>_untouched`,
        that of the image itself, for scale, and `<action>_reversibility`, to the image after the
        action and its reverse, with the object found anew in between; and effectiveness and
        leakage as from `quality`, of counterfactuals with independent labels, verified ones too.

    Raises:
        ValueError: If the true masks are not known.
    """
    if images.masks is None:
        raise ValueError("the true masks of these images are not known")
    generator = torch.Generator().manual_seed(seed)
    labels, factors = images.factors.shape, images.factors.known
    overlap = mask_iou(masks, images.masks > 0)
    of_class = [overlap[labels == label].mean() for label in labels.unique()]
    aligned = Factors.aligned(labels)
    images = replace(images, factors=aligned)
    do = partial(intervene, cgn, generator=generator, device=device)
    same = do(images, masks, aligned)
    scores = {
        "mask_iou": overlap.mean().item(),
        "mask_iou_worst_class": torch.stack(of_class).min().item(),
        "composition": _difference(same, images),
    }
    for action, truth in exact.items():
        factor = action.removeprefix("do_")
        target = getattr(truth.factors, factor)
        made = do(images, masks, aligned._replace(**{factor: target}))
        again = segment_by_colour(made.pixels, labels, device=device)
        back = do(made, again, aligned)
        scores[f"{action}_error"] = _difference(made, truth)
        scores[f"{action}_untouched"] = _difference(images, truth)
        scores[f"{action}_reversibility"] = _difference(back, images)
    free = real_image_counterfactuals(
        cgn, images, masks, max(n, len(images)), seed=seed, device=device
    )
    scores |= _label_scores(free, classify, verifier, factors, cgn.config.n_classes, device)
    return _rounded(scores)


def _difference(one: ImageSet, other: ImageSet) -> float:
    """Mean absolute difference of the pixels of two sets, on the scale [0, 1]."""
    return (one.images() - other.images()).abs().mean().item()
