"""What a CGN is trained on: pure functions from tensors to a scalar.

How they are weighed against each other is not here: see `cgn.train`.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
    Lim and Ye, Geometric GAN, 2017. https://arxiv.org/abs/1705.02894
    Gatys, Ecker and Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def adversarial(fake_scores: Tensor) -> Tensor:
    """Hinge loss of the generator: how far the critic is from taking its images for real.

    Args:
        fake_scores: The critic's scores of generated images, (B,).

    Returns:
        Scalar, any real number; the lower, the more real.

    Source:
        Lim and Ye, 2017. Differs: the original CGN uses least squares.

    Example:
        >>> adversarial(torch.tensor([1.0, 3.0]))
        tensor(-2.)
    """
    return -fake_scores.mean()


def critic_hinge(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Hinge loss of the critic.

    Args:
        real_scores: Scores of real images, (B,).
        fake_scores: Scores of generated images, (B,).

    Returns:
        Scalar in [0, inf): 0 when every real image scores above 1 and every fake below -1.

    Source:
        Lim and Ye, 2017.

    Example:
        >>> critic_hinge(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, -2.0]))
        tensor(0.5000)
    """
    return torch.relu(1 - real_scores).mean() + torch.relu(1 + fake_scores).mean()


def mask_entropy(probability: Tensor) -> Tensor:
    """Mean binary entropy of the mask: how far it is from being decided.

    H(m) = -m log2(m) - (1 - m) log2(1 - m)

    Args:
        probability: m before it is made binary, (B, 1, H, W) in [0, 1].

    Returns:
        Scalar in [0, 1], in bits per pixel.

    Source:
        Shape loss, first term.

    Example:
        >>> mask_entropy(torch.tensor([0.0, 0.5, 1.0, 0.5]).view(1, 1, 2, 2)).round(decimals=2)
        tensor(0.5000)
    """
    m = probability.clamp(1e-4, 1 - 1e-4)  # the gradient of H is infinite at 0 and 1
    return (-m * m.log2() - (1 - m) * (1 - m).log2()).mean()


def mask_area(mask: Tensor, low: float, high: float) -> Tensor:
    """How far each mask's area lies outside an interval: a prior on which side is the object.

    Args:
        mask: m, (B, 1, H, W) in [0, 1].
        low: Smallest area that costs nothing, as a share of the image area.
        high: Largest area that costs nothing.

    Returns:
        Scalar in [0, 1].

    Source:
        Shape loss, second term, where the interval is [0.1, 0.9].

    Example:
        >>> mask_area(torch.ones(1, 1, 4, 4), 0.1, 0.75)
        tensor(0.2500)
    """
    area = mask.mean(dim=(1, 2, 3))
    return (torch.relu(low - area) + torch.relu(area - high)).mean()


def mask_edge(mask: Tensor, border_px: int = 2) -> Tensor:
    """Share of the image's border that the mask covers: an object seldom touches the edge.

    Without it nothing tells a mask from its inverse, and classes swap object and background
    one by one.

    Args:
        mask: m, (B, 1, H, W) in [0, 1].
        border_px: Width of the border, in pixels.

    Returns:
        Scalar in [0, 1].

    Example:
        >>> inside = torch.zeros(1, 1, 8, 8)
        >>> inside[..., 2:6, 2:6] = 1
        >>> mask_edge(inside), mask_edge(1 - inside)
        (tensor(0.), tensor(1.))
    """
    inner = mask[..., border_px:-border_px, border_px:-border_px]
    border_area = mask[0].numel() - inner[0].numel()
    return (mask.sum(dim=(1, 2, 3)) - inner.sum(dim=(1, 2, 3))).mean() / border_area


def mask_spread(mask: Tensor, high: float) -> Tensor:
    """How far each mask's pixels lie from their own centre, beyond what a compact object does.

    A frame around the object, or a mask turned inside out, has the area of an object but twice
    its spread: 1/6 for a full image, about 0.06 for a digit.

    Args:
        mask: m, (B, 1, H, W) in [0, 1].
        high: Largest variance of the pixels' places that costs nothing, rows and columns
            together, with the image's side as unit.

    Returns:
        Scalar in [0, 0.5]; empty masks cost nothing.

    Example:
        >>> corners = torch.zeros(1, 1, 8, 8)
        >>> corners[..., ::7, ::7] = 1
        >>> mask_spread(corners, 0.1), mask_spread(torch.ones(1, 1, 8, 8), 0.1)
        (tensor(0.2828), tensor(0.0641))
    """
    height, width = mask.shape[2:]
    rows = (torch.arange(height, device=mask.device) + 0.5)[:, None] / height
    columns = (torch.arange(width, device=mask.device) + 0.5) / width
    area = mask.sum(dim=(1, 2, 3)).clamp(min=1)
    spread = torch.zeros_like(area)
    for place in (rows, columns):
        mean = (mask * place).sum(dim=(1, 2, 3)) / area
        spread = spread + (mask * place**2).sum(dim=(1, 2, 3)) / area - mean**2
    return torch.relu(spread - high).mean()


def background(drawn: Tensor, images: Tensor, labels: Tensor, border_px: int = 3) -> Tensor:
    """How far backgrounds are from what lies along the borders of real images of their class.

    Means over a class are compared, not single images, so that backgrounds may differ from each
    other as much as the real ones do. An object drawn into a background shows in the spread.

    Args:
        drawn: b, (B, 3, H, W) in [0, 1].
        images: Real images, (B, 3, H, W) in [0, 1].
        labels: Classes of both, (B,) int64.
        border_px: Width of the border, in pixels.

    Returns:
        Scalar in [0, 1]: mean absolute difference of the colours' mean and standard deviation.

    Source:
        Takes the place of the original's background loss, which needs a saliency network. The
        assumption is that of `mask_edge`: an object seldom touches the edge.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 0.5)
        >>> images[..., 3:5, 3:5] = 1  # an object in the middle does not count
        >>> background(torch.full((1, 3, 8, 8), 0.5), images, torch.tensor([0]))
        tensor(0.)
    """
    top, rest = images.tensor_split([border_px], dim=2)
    middle, bottom = rest.tensor_split([-border_px], dim=2)
    sides = torch.cat([middle[..., :border_px], middle[..., -border_px:]], dim=3)
    border = torch.cat([part.flatten(2) for part in (top, sides, bottom)], dim=2)
    same_class = (labels[:, None] == labels).to(images)
    weights = same_class / same_class.sum(dim=1, keepdim=True)
    difference = _colours(drawn.flatten(2)) - _colours(border)
    return (weights @ difference).abs().mean()


def _colours(pixels: Tensor) -> Tensor:
    """Mean and standard deviation of each channel, (B, 6), of pixels (B, 3, P)."""
    # A standard deviation of 0 has an infinite gradient.
    deviation = (pixels.var(dim=2, correction=0) + 1e-4).sqrt()
    return torch.cat([pixels.mean(dim=2), deviation], dim=1)


def gram(maps: Tensor) -> Tensor:
    """Correlations of feature maps over the image: texture without place.

    Args:
        maps: (B, K, H, W).

    Returns:
        (B, K, K), the mean product over pixels.

    Example:
        >>> gram(torch.tensor([[[[1.0, 1.0]], [[2.0, 0.0]]]]))
        tensor([[[1., 1.],
                 [1., 2.]]])
    """
    flat = maps.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def style(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Difference in texture between generated and real images of the same labels.

    Args:
        fake: Feature maps of generated images, coarser and coarser, each (B, K, H, W).
        real: The same of real images; image i has the label of the generated image i.

    Returns:
        Scalar in [0, inf): mean absolute difference of Gram matrices, summed over the layers,
        each relative to the real one's mean size, so that no layer drowns the others.

    Source:
        Texture loss. Differs: the original compares each generated image with a real one of
        another, random class.

    Example:
        >>> maps = [torch.rand(2, 3, 4, 4)]
        >>> style(maps, maps)
        tensor(0.)
    """
    terms = []
    for fake_maps, real_maps in zip(fake, real, strict=True):
        target = gram(real_maps.detach())
        terms.append((gram(fake_maps) - target).abs().mean() / target.abs().mean().clamp(min=1e-8))
    return torch.stack(terms).sum()
