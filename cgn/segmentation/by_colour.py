"""Where the objects of images are, from colours and classes alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cgn.segmentation.free_border import free_border_posterior
from cgn.segmentation.histograms import histogram_bins, histograms

BORDER_PX = 2  # what is nearer to the image's edge than this is background, to begin with
SHARE = 0.9  # of the pixels away from the border that may be background, to begin with
ROUNDS = 4  # of expectation and maximisation; the last half looks at neighbours too
CROWD = 1 / 3  # of its mean cover: objects that cover more than this next to the border are cut
SPECK = 0.006  # smaller parts of object or background are noise, as a share of the image area


def segment_by_colour(
    pixels: Tensor, labels: Tensor, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Tell objects from backgrounds by colour, class by class.

    A class's background has the colours of its images' borders; colours that are more frequent
    away from the border belong to its object. Expectation and maximisation refine this: each
    pixel is of the object with a probability that follows from both colour histograms and from
    how often the class's objects reach there; the object's histogram and reach follow from these
    probabilities.

    The border is background at first. Where the objects of a class crowd next to it, they are
    cut by it, and the class is segmented again without that assumption.

    Args:
        pixels: Images, (N, 3, H, W) uint8.
        labels: Their classes, (N,) int64.
        device: Where images are looked at pixel by pixel; histograms are smoothed, and specks left
            out, on the CPU. CUDA adds up histograms in any order: a mask may differ by a pixel.

    Returns:
        Where the objects are, (N, 1, H, W) bool, on the CPU.

    Source:
        Takes the place of the original's pretrained saliency network. The assumption is that
        objects cover the image's edge less often than its inside.

    Example:
        >>> pixels = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
        >>> pixels[:, :, 5:9, 5:9] = 200
        >>> masks = segment_by_colour(pixels, torch.tensor([0, 1]))
        >>> masks.sum(dim=(1, 2, 3)), masks[0, 0, 5:9, 5:9].all()
        (tensor([16, 16]), tensor(True))
    """
    n_classes = int(labels.max()) + 1
    pixels, labels = pixels.to(device), labels.to(device)
    posterior = _inner_posterior(pixels, labels, n_classes)
    for label in _crowded_classes(posterior, labels, n_classes):
        of_class = labels == label
        posterior[of_class] = free_border_posterior(pixels[of_class], BORDER_PX)
    return torch.from_numpy(_remove_small_components((posterior > 0.5).cpu().numpy()))[:, None]


def _inner_posterior(pixels: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Probability that a pixel is the object's, (N, H, W), where the border is background."""
    cells = histogram_bins(pixels, labels)
    inside = torch.zeros(pixels.shape[2:], device=pixels.device)
    inside[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = 1
    background = histograms(cells, (1 - inside).expand(cells.shape), n_classes)
    anything = histograms(cells, inside.expand(cells.shape), n_classes)
    surplus = (1 - SHARE * background / anything.clamp(min=1e-12)).clamp(min=0)
    posterior = surplus[cells] * inside
    prior = _spatial_prior(posterior, labels, n_classes) * inside
    for round_ in range(ROUNDS):
        likely = prior * histograms(cells, posterior, n_classes)[cells]
        posterior = likely / (likely + (1 - prior) * background[cells] + 1e-12)
        prior = _spatial_prior(posterior, labels, n_classes)
        if round_ >= ROUNDS // 2:
            # Next to the object is the object, more often than elsewhere.
            prior = (prior + F.avg_pool2d(posterior[:, None], 3, 1, 1)[:, 0]) / 2
        prior = prior * inside
    return posterior


def _crowded_classes(posterior: Tensor, labels: Tensor, n_classes: int) -> list[int]:
    """List the classes whose objects, as far as they are known, pile up next to the border."""
    near = torch.zeros_like(posterior[0], dtype=torch.bool)
    near[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    near[2 * BORDER_PX : -2 * BORDER_PX, 2 * BORDER_PX : -2 * BORDER_PX] = False
    cover = torch.stack([(posterior * near).sum(dim=(1, 2)) / near.sum(), posterior.mean((1, 2))])
    at_border, anywhere = posterior.new_zeros(2, n_classes).index_add_(1, labels, cover)
    return [int(label) for label in (at_border > CROWD * anywhere).nonzero()]


def _spatial_prior(posterior: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """How often the objects of each image's class cover each pixel, (N, H, W)."""
    sums = posterior.new_zeros(n_classes, *posterior.shape[1:])
    sums.index_add_(0, labels, posterior)
    means = sums / labels.bincount(minlength=n_classes).clamp(min=1)[:, None, None]
    return means.clamp(0.02, 0.98)[labels]  # nothing is certain before it was looked at


def _remove_small_components(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give small islands and small holes, (N, H, W), to what surrounds them."""
    within_an_image = np.zeros((3, 3, 3), dtype=bool)
    within_an_image[1] = ndimage.generate_binary_structure(2, 1)
    smallest = SPECK * masks[0].size
    for side in (True, False):
        parts, n_parts = ndimage.label(masks == side, within_an_image)
        is_speck = np.bincount(parts.ravel(), minlength=n_parts + 1) < smallest
        is_speck[0] = False  # number 0 is the other side
        masks = masks ^ is_speck[parts]
    return masks
