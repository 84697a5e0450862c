"""What a CGN is trained on: pure functions from tensors to a scalar.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
    Lim and Ye, Geometric GAN, 2017. https://arxiv.org/abs/1705.02894
    Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014.
    https://arxiv.org/abs/1312.6114
    Gatys, Ecker and Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, hardtanh


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
    m = hardtanh(probability, 1e-4, 1 - 1e-4)  # the gradient of H is infinite at 0 and 1
    # H is the cross-entropy of m with itself, and changes with m as that does with its target.
    return binary_cross_entropy(m.detach(), m) / math.log(2)


def reconstruction(logits: Tensor, outlines: Tensor) -> Tensor:
    """How far drawn outlines are from those that their noise was inferred from.

    Binary cross-entropy; with `divergence`, the negative evidence lower bound.

    Args:
        logits: What the shape mechanism drew, (B, 1, S, S), any real numbers.
        outlines: The outlines, (B, 1, S, S) in {0, 1}.

    Returns:
        Scalar in [0, inf), in nats per pixel.

    Source:
        Kingma and Welling, 2014. Differs: the original CGN for MNIST reconstructs nothing, and
        as colour gives the class away, nothing asks it for the shape of that class.

    Example:
        >>> reconstruction(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor(0.6931)
    """
    return binary_cross_entropy_with_logits(logits, outlines)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Kullback-Leibler divergence of inferred noise from a standard normal distribution.

    Args:
        mean: (B, Z).
        deviation: Standard deviation, (B, Z), above 0.

    Returns:
        Scalar in [0, inf), in nats: the sum over the noise, the mean over the images.

    Source:
        Kingma and Welling, 2014.

    Example:
        >>> divergence(torch.ones(1, 4), torch.ones(1, 4))
        tensor(2.)
    """
    squares = torch.cat([mean, deviation], dim=1).square() - 1
    return (0.5 * (squares.sum() + mean.numel()) - deviation.log().sum()) / len(mean)


def colours(drawn: Tensor, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """How far textures' colours are from those of parts of real images of their class.

    Distributions over a class are compared, not single images: the k-th smallest value among the
    drawn textures with the k-th smallest among the real ones, for textures must differ from each
    other as much as the real ones do. Both are seen through the same masks: the less one sees of
    a texture, the more its colours differ from one look to the next.

    Args:
        drawn: Textures, f, b or both, (..., B, 3, H, W) in [0, 1].
        images: Real images, (B, 3, H, W) in [0, 1].
        masks: Which part of them each texture is for: the object for f, all else for b,
            (..., B, 1, H, W) in {0, 1}.
        labels: Classes of both, (B,) int64.

    Returns:
        (...) in [0, 1]: mean absolute difference, Wasserstein's distance, of the colours' mean and
        standard deviation over the pixels.

    Source:
        Takes the place of the original's background loss, which needs a saliency network.

    Example:
        >>> images = torch.zeros(1, 3, 8, 8)
        >>> images[..., 3:5, 3:5] = 1
        >>> mask, white = images[:, :1], torch.ones(1, 3, 8, 8)
        >>> colours(white, images, mask, torch.tensor([0]))
        tensor(0.)
    """
    share = masks / masks.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
    drawn_colours, real_colours = _colours(drawn, share), _colours(images, share)
    drawn_ranked, real_ranked = _ranked(torch.stack([drawn_colours, real_colours]), labels)
    difference: Tensor = (drawn_ranked - real_ranked).abs().mean(dim=(-2, -1))
    return difference


def _ranked(values: Tensor, labels: Tensor) -> Tensor:
    """Sort each column of values (..., B, 6) in [0, 1] within each class, class after class."""
    order = (values.detach() + 2 * labels[:, None]).argsort(dim=-2)
    return values.gather(-2, order)


def _colours(images: Tensor, share: Tensor) -> Tensor:
    """Mean and standard deviation of each channel, (..., B, 6), by each pixel's share in them."""
    mean = (images * share).sum(dim=(-2, -1), keepdim=True)
    variance = ((images - mean) ** 2 * share).sum(dim=(-2, -1))
    # A standard deviation of 0 has an infinite gradient; 1e-3 is a quarter of a byte's step.
    return torch.cat([mean.flatten(-3), (variance + 1e-6).sqrt()], dim=-1)


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


def style(maps: Sequence[Tensor]) -> Tensor:
    """Difference in texture between generated and real images of the same labels.

    Args:
        maps: Feature maps, coarser and coarser, each (2 B, K, H, W): first of real images, then of
            generated ones; real image i has the label of generated image i.

    Returns:
        Scalar in [0, inf): mean absolute difference of Gram matrices, summed over the layers,
        each relative to the real one's mean size, so that no layer drowns the others.

    Source:
        Texture loss. Differs: the original compares each generated image with a real one of
        another, random class.

    Example:
        >>> style([torch.rand(1, 3, 4, 4).repeat(2, 1, 1, 1)])
        tensor(0.)
    """
    terms = []
    for each in maps:
        real, fake = gram(each).chunk(2)
        size = real.detach().abs().mean().clamp(min=1e-8)
        terms.append((fake - real.detach()).abs().mean() / size)
    return torch.stack(terms).sum()


def difference(drawn: Tensor, real: Tensor) -> Tensor:
    """How far drawn images are from those they should be, pixel by pixel.

    Args:
        drawn: (B, 3, H, W) in [0, 1].
        real: The same.

    Returns:
        Scalar in [0, 2]: the mean absolute difference of images in [-1, 1], for which the paper's
        weight was chosen.

    Source:
        Reconstruction loss, first term.

    Example:
        >>> difference(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
        tensor(2.)
    """
    return 2 * (drawn - real).abs().mean()


def perceptual(drawn: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """How far the textures of drawn images are from those of real ones, in absolute terms.

    Args:
        drawn: Feature maps, each (B, K, H, W).
        real: The same of the images they should look like.

    Returns:
        Scalar in [0, inf): mean absolute difference of Gram matrices divided by K, summed over
        the maps.

    Source:
        Reconstruction loss, second term, and texture loss, with the scale of the authors' code,
        for which the paper's weights were chosen. `style` is relative instead.

    Example:
        >>> perceptual([torch.ones(1, 2, 4, 4)], [torch.zeros(1, 2, 4, 4)])
        tensor(0.5000)
    """
    terms = [
        (gram(fake) - gram(target)).abs().mean() / fake.shape[1]
        for fake, target in zip(drawn, real, strict=True)
    ]
    return torch.stack(terms).sum()


def mask_area(mask: Tensor, least: float = 0.1, most: float = 0.9) -> Tensor:
    """How far the object's share of the image is from where it may be.

    Args:
        mask: m, (B, 1, H, W) in [0, 1].
        least: The least share of the object, in [0, 1].
        most: The largest share of the object, in [0, 1].

    Returns:
        Scalar in [0, 1], as a share of the image area; mean over images.

    Source:
        Shape loss, second term; margin tau.

    Example:
        >>> mask_area(torch.zeros(1, 1, 4, 4)), mask_area(torch.full((1, 1, 4, 4), 0.5))
        (tensor(0.1000), tensor(0.))
    """
    area = mask.mean(dim=(1, 2, 3))
    return (torch.relu(least - area) + torch.relu(area - most)).mean()


def mask_edge(mask: Tensor, edge_px: int) -> Tensor:
    """How much of the image's edge the object covers.

    Args:
        mask: m, (B, 1, H, W) in [0, 1].
        edge_px: Width of the edge in pixels, at least 1.

    Returns:
        Scalar in [0, 1]: mean over the pixels of the edge and the images.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., 0, :] = 1  # 4 of the 12 outer pixels
        >>> mask_edge(mask, 1)
        tensor(0.3333)
    """
    inner = mask[..., edge_px:-edge_px, edge_px:-edge_px]
    covered = mask.sum(dim=(1, 2, 3)) - inner.sum(dim=(1, 2, 3))
    return (covered / (mask[0].numel() - inner[0].numel())).mean()


def mask_outline(mask: Tensor) -> Tensor:
    """How long the object's outline is: the mask's total variation.

    Args:
        mask: m, (B, 1, H, W) in [0, 1].

    Returns:
        Scalar in [0, 2]: mean over the pixels of the difference to the next one in either
        direction.

    Source:
        Rudin, Osher and Fatemi, Nonlinear Total Variation Based Noise Removal Algorithms, Physica D
        1992.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., 1:3, 1:3] = 1  # an outline of 8 pixels' sides
        >>> mask_outline(mask)
        tensor(0.5000)
    """
    down = (mask[..., 1:, :] - mask[..., :-1, :]).abs().sum()
    across = (mask[..., 1:] - mask[..., :-1]).abs().sum()
    return (down + across) / mask.numel()


def background_saliency(saliency: Tensor) -> Tensor:
    """How much of an object is still in the background.

    Args:
        saliency: Of the background image, (B, 1, H, W) in [0, 1].

    Returns:
        Scalar in [0, 1].

    Source:
        Background loss.

    Example:
        >>> background_saliency(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
        tensor(0.5000)
    """
    return saliency.mean()
