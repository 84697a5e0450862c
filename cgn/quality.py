"""How good counterfactuals are, measured on the images and not on their use.

Source:
    Monteiro et al., Measuring axiomatic soundness of counterfactual image models, ICLR 2023
    (effectiveness). https://arxiv.org/abs/2303.01274
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021 (mean mask area).
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cgn.counterfactuals import BATCH_SIZE, sample
from cgn.images import Factors, to_images
from cgn.model import CGN

Classify = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@torch.inference_mode()
def quality(cgn: CGN, classify: Classify, *, n: int = 2_000, seed: int = 0) -> dict[str, float]:
    """Measure counterfactuals with independent factor classifiers.

    Args:
        cgn: What draws them.
        classify: From images (B, 3, H, W) in [0, 1] to logits for shape, texture and background,
            each (B, C), of classifiers fitted on true images with independent factors.
        n: Number of counterfactuals.
        seed: Fixes them.

    Returns:
        By name: `mask_area`, its mean as a share of the image; `mask_area_sd` over images;
        `<factor>_effectiveness`, how often that factor's classifier finds the label that its
        mechanism was given, in [0, 1], 1 being best; and `<factor>_leakage`, how much more
        often than by chance it finds the label of another mechanism, mean over the two, 0 being
        best.
    """
    images = sample(cgn, n, seed=seed)
    batches = images.pixels.split(BATCH_SIZE)
    logits = zip(*(classify(to_images(batch)) for batch in batches), strict=True)
    found = Factors(*(torch.cat(each).argmax(dim=1) for each in logits))
    assert images.masks is not None  # `sample` keeps them
    area = to_images(images.masks).mean(dim=(1, 2, 3))
    scores = {"mask_area": area.mean().item(), "mask_area_sd": area.std().item()}
    for name, answer in found._asdict().items():
        hits = {k: (answer == v).float().mean().item() for k, v in images.factors._asdict().items()}
        scores[f"{name}_effectiveness"] = hits.pop(name)
        leaked = [hit - 1 / cgn.config.n_classes for hit in hits.values()]
        scores[f"{name}_leakage"] = sum(leaked) / len(leaked)
    return {name: round(score, 4) for name, score in scores.items()}
