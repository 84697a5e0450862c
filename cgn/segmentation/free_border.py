"""Where objects are that the border of their images cuts.

Nothing is known to be background: the border and the inside are two mixtures of object and
background, in different shares.

Source:
    Katz-Samuels, Blanchard and Scott, Decontamination of Mutual Contamination Models, JMLR 2019
    (two mixtures tell their parts if each part has something of its own).
    https://arxiv.org/abs/1710.01167
    Rother, Kolmogorov and Blake, GrabCut, SIGGRAPH 2004 (colours of one image, and neighbours
    that belong together unless there is an edge).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn.segmentation.histograms import histogram_bins, histograms

ROUNDS = 6  # of expectation and maximisation
FILTERS_FROM, OWN_COLOURS_FROM = 2, 3  # rounds that look at filter responses; at one image, too
OBJECT_END, BACKGROUND_END = 0.05, 0.6  # pure quantiles of how frequent colours are at the border
COARSE = 8  # cells of an image's own histogram, along each of three axes
CLASS_PX = 50  # pixels of an image that count as much as its class in its own histograms
SURROUNDINGS_PX = 11
LEVELS = 8  # of cover that surroundings are told apart by; of how often objects reach a pixel, 6
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to half the neighbours of a pixel


def free_border_posterior(pixels: Tensor, border_px: int) -> Tensor:
    """Probability that a pixel is the object's, where objects may reach over the edge.

    Args:
        pixels: Images of one class, (N, 3, H, W) uint8, on the device to use.
        border_px: Width of the border, which objects cover less often than the inside.

    Returns:
        (N, H, W) in [0, 1].

    Example:
        >>> pixels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
        >>> pixels[:, :, 5:, 5:9] = 200
        >>> posterior = free_border_posterior(pixels, border_px=2)
        >>> bool((posterior[:, 5:, 5:9] > 0.5).all()), bool((posterior[:, :5] > 0.5).any())
        (True, False)
    """
    labels = pixels.new_zeros(len(pixels), dtype=torch.int64)
    colours, filters = (histogram_bins(each, labels) for each in (pixels, _responses(pixels)))
    own = _image_bins(pixels)
    links = _links(pixels)
    posterior = _unmixed(colours, border_px)
    reach = _reach(posterior)
    for round_ in range(ROUNDS):
        sides = []
        for weight in (posterior, 1 - posterior):
            density = histograms(colours, weight, 1)[colours]
            if round_ >= FILTERS_FROM:  # responses and colours depend: a root counts them less
                density = density * (histograms(filters, weight, 1)[filters] + 1e-7).sqrt()
            if round_ >= OWN_COLOURS_FROM:
                density = density * _own_share(own, weight)
            sides.append(density)
        prior = reach
        if round_ >= OWN_COLOURS_FROM:
            prior = _prior_from_surroundings(posterior, reach, links)
        likely = prior * sides[0]
        posterior = likely / (likely + (1 - prior) * sides[1] + 1e-20)
        reach = _reach(posterior)
    return posterior


def _unmixed(cells: Tensor, border_px: int) -> Tensor:
    """Share of the object in each pixel's colour, from its frequencies at the border and inside."""
    border = cells.new_ones(cells.shape[1:], dtype=torch.float32)
    border[border_px:-border_px, border_px:-border_px] = 0
    outer, inner = (histograms(cells, w.expand(cells.shape), 1) for w in (border, 1 - border))
    ratio = (outer / inner.clamp(min=1e-12)).clamp(max=10)
    order = ratio.argsort()
    mass = inner[order].cumsum(0)
    ends = mass[-1] * mass.new_tensor([OBJECT_END, BACKGROUND_END])
    place = torch.searchsorted(mass, ends).clamp(max=len(mass) - 1)
    low, high = ratio[order][place].unbind()
    share = ((high - ratio) / (high - low).clamp(min=1e-3)).clamp(0, 1)
    return share.where(inner > 0, 0.0)[cells]


def _responses(pixels: Tensor) -> Tensor:
    """Local strength of horizontal and vertical edges, and of spots, (N, 3, H, W) in [0, 255]."""
    gray = pixels.float().mean(dim=1, keepdim=True)
    across = F.pad((gray[..., 2:] - gray[..., :-2]).abs(), (1, 1, 0, 0), mode="replicate")
    down = F.pad((gray[..., 2:, :] - gray[..., :-2, :]).abs(), (0, 0, 1, 1), mode="replicate")
    spot = 128 + 2 * (_mean(gray, 3) - gray)
    return torch.cat([_mean(across, 3), _mean(down, 3), spot], dim=1).clamp(0, 255)


def _mean(maps: Tensor, side_px: int) -> Tensor:
    """Mean of each pixel's square, edges repeated, (N, C, H, W)."""
    margin = side_px // 2
    padded = F.pad(maps, (margin,) * 4, mode="replicate")
    return F.avg_pool2d(padded, side_px, stride=1)


def _reach(posterior: Tensor) -> Tensor:
    """How often objects cover each pixel, (N, H, W)."""
    return posterior.mean(dim=0).clamp(0.02, 0.98).expand(posterior.shape)


def _image_bins(pixels: Tensor) -> Tensor:
    """Number each pixel's coarse cell in the histogram of its image, (N, H * W) int64."""
    red, green, blue = (pixels.long() * COARSE // 256).unbind(1)
    return ((red * COARSE + green) * COARSE + blue).flatten(1)


def _own_share(own: Tensor, weight: Tensor) -> Tensor:
    """How much more frequent a pixel's coarse colour is in its image than in the class."""
    counts = weight.new_zeros(len(own), COARSE**3).scatter_add_(1, own, weight.flatten(1))
    of_class = counts.sum(dim=0)
    of_class = of_class / of_class.sum().clamp(min=1e-9)
    of_image = (counts + CLASS_PX * of_class) / (counts.sum(dim=1, keepdim=True) + CLASS_PX)
    ratio = (of_image + 1e-9) / (of_class + 1e-9)
    return ratio.gather(1, own).view(weight.shape)


def _shifted(maps: Tensor, down: int, right: int, fill: float = 0.0) -> Tensor:
    """The neighbour of each pixel, (..., H, W), and the fill beyond the edge."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (1, 1, 1, 1), value=fill)
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _links(pixels: Tensor) -> list[Tensor]:
    """How alike each pixel and its neighbours are, in [0, 1], a map for each of `STEPS`."""
    colours = pixels.float()
    steps = [((_shifted(colours, *s, torch.nan) - colours) ** 2).sum(dim=1) for s in STEPS]
    contrast = torch.stack([each.nan_to_num().mean(dim=(1, 2)) for each in steps]).mean(dim=0)
    return [(-each / (contrast[:, None, None] + 1)).exp().nan_to_num() for each in steps]


def _smooth(maps: Tensor, links: list[Tensor]) -> Tensor:
    """Mean over alike neighbours, (N, H, W)."""
    total, sums = torch.full_like(maps, 2e-3), 1e-3 * maps
    for (down, right), link in zip(STEPS, links, strict=True):
        total = total + link + _shifted(link, -down, -right)
        sums = sums + link * _shifted(maps, down, right) + _shifted(link * maps, -down, -right)
    return sums / total


def _prior_from_surroundings(posterior: Tensor, reach: Tensor, links: list[Tensor]) -> Tensor:
    """Mean cover of pixels whose place, alike neighbours and surroundings are covered alike."""
    size = SURROUNDINGS_PX**2
    around = (_mean(posterior[:, None], SURROUNDINGS_PX)[:, 0] * size - posterior) / (size - 1)
    near = _smooth(_smooth(posterior, links), links)
    bins = torch.zeros_like(posterior, dtype=torch.int64)
    for each, levels in ((reach, 6), (around, LEVELS), (near, LEVELS)):
        bins = bins * levels + (each * levels).long().clamp(0, levels - 1)
    length = 6 * LEVELS**2
    count = torch.bincount(bins.flatten(), minlength=length)
    cover = torch.bincount(bins.flatten(), posterior.flatten(), minlength=length)
    return ((cover + 1) / (count + 5)).clamp(0.01, 0.99)[bins].float()
