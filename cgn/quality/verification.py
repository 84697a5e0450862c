"""Counterfactuals that an independent verifier accepts.

A mechanism now and then draws what nobody would call by the label it was given: an ambiguous digit,
a surface that could be another class's. A network that names all three labels with confidence
tells such images from the rest. It is fitted without one image whose true factors are free.

Source:
    Razavi, van den Oord and Vinyals, Generating Diverse High-Fidelity Images with VQ-VAE-2, NeurIPS
    2019 (classifier-based rejection sampling). https://arxiv.org/abs/1906.00446
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, concatenate
from cgn.device.memory import images_at_once
from cgn.device.precision import evaluating
from cgn.models.cgn import CGN

Classify = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
CONFIDENCE = 0.99  # that the verifier must have in every label


def verifier_training_set(
    cgn: CGN,
    images: ImageSet,
    masks: Tensor,
    n: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """Make images to fit a verifier to: true surfaces and backgrounds, real and drawn shapes.

    Args:
        cgn: Its mechanisms draw what no image shows.
        images: Real images; none of those whose counterfactuals will be verified.
        masks: Where their objects are, (N, 1, H, W) bool.
        n: How many; a third are samples.
        seed: Fixes them.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The images. Factors that the real ones don't have, with label -1, have none here either.

    Raises:
        ValueError: If a class of the CGN has no image.
    """
    n_joined = n - n // 3
    joined = real_image_counterfactuals(
        cgn,
        images,
        masks,
        n_joined,
        seed=seed,
        swap_fraction=1.0,
        device=device,
        progress=lambda done, _: progress(done, n),
    )
    sampled = sample(
        cgn, n // 3, seed=seed, device=device, progress=lambda done, _: progress(n_joined + done, n)
    )
    both = concatenate([joined, sampled])
    return replace(both, factors=both.factors.only(images.factors.known))


@torch.inference_mode()
def accept_mask(
    images: ImageSet,
    verifier: Classify,
    factors: tuple[str, ...] = Factors._fields,
    *,
    confidence: float = CONFIDENCE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Tell which counterfactuals a verifier gives all labels that they were made with.

    Args:
        images: N counterfactuals.
        verifier: From images (B, 3, H, W) in [0, 1] to logits for shape, texture and background,
            each (B, C), of classifiers that were fitted to `verifier_training_set`.
        factors: Names of the factors that it must confirm.
        confidence: The least probability that it must give to each label.
        device: Where the verifier is.

    Returns:
        (N,) bool, on the CPU.

    Example:
        >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
        >>> labels = Factors.aligned(torch.tensor([0, 0]))
        >>> def by_brightness(images):
        ...     bright = images.mean(dim=(1, 2, 3))
        ...     return [20 * torch.stack([0.5 - bright, bright - 0.5], dim=1)] * 3
        >>> accept_mask(ImageSet(pixels, labels, torch.arange(2)), by_brightness)
        tensor([ True, False])
    """
    accepted, at_once = [], images_at_once(device, images.size_px[1])
    with evaluating(device):
        for batch, labels in images.batches(at_once, device=device):
            logits = dict(zip(Factors._fields, verifier(batch), strict=True))
            sure = [
                logits[name].softmax(dim=1).gather(1, getattr(labels, name)[:, None])
                for name in factors
            ]
            accepted.append((torch.cat(sure, dim=1) >= confidence).all(dim=1))
    return torch.cat(accepted).cpu()
