"""How much drawn images look like real ones, and whether a mask is where the object is.

Source:
    Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016 (inception score).
    https://arxiv.org/abs/1606.03498
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017 (FID).
    https://arxiv.org/abs/1706.08500
    Binkowski et al., Demystifying MMD GANs, ICLR 2018 (KID). https://arxiv.org/abs/1801.01401
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021 (mean mask area).
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cgn.data.image_set import ImageSet, to_bytes, to_images

N_SPLITS = 2  # as others reproduced the paper's inception scores, of 2,000 images
INCEPTION_PX = 299
OBJECT = 0.5  # a pixel is the object's if its mask is above


def inception_score(probabilities: Tensor, n_splits: int = N_SPLITS) -> tuple[float, float]:
    """How surely images are of one class, and how many classes there are of them.

    IS = exp(mean KL(p(y | x) || p(y)))

    Args:
        probabilities: p(y | x) of each image, (N, C).
        n_splits: The score is the mean over as many parts of the images, in order.

    Returns:
        Mean and standard deviation over the parts, each in [1, C]; the more, the better. The
        deviation of one part is 0.

    Raises:
        ValueError: If there are fewer images than parts.

    Example:
        >>> inception_score(torch.eye(4), n_splits=1)
        (4.0, 0.0)
        >>> inception_score(torch.full((4, 4), 0.25), n_splits=2)
        (1.0, 0.0)
    """
    if len(probabilities) < n_splits:
        raise ValueError(f"{len(probabilities)} images cannot make {n_splits} parts")
    scores = []
    for part in probabilities.double().tensor_split(n_splits):
        mean = part.mean(dim=0, keepdim=True)
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, mean)).sum(dim=1)
        scores.append(divergence.mean().exp())
    each = torch.stack(scores)
    return each.mean().item(), each.std(correction=0).item()


class InceptionProbabilities(nn.Module):
    """torchvision's Inception-v3: from images to the probabilities of ImageNet's classes."""

    def __init__(self, weights: str | None = "IMAGENET1K_V1") -> None:
        """Load weights that torchvision knows, fetched once; None draws random ones."""
        super().__init__()
        from torchvision.models import inception_v3  # seconds to import

        network = inception_v3(weights=weights, transform_input=True, init_weights=False)
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities, (B, 1000), of images (B, 3, H, W) in [0, 1]."""
        size = (INCEPTION_PX, INCEPTION_PX)
        large = interpolate(images, size=size, mode="bilinear", antialias=True)
        probabilities: Tensor = self.network(2 * large - 1).softmax(dim=1)
        return probabilities


@torch.inference_mode()
def distances(
    drawn: Iterable[Tensor],
    real: Iterable[Tensor],
    *,
    features: nn.Module | int = 2048,
    subset_size: int = 1_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """How far the features of drawn images are from those of real ones, all together.

    Args:
        drawn: Batches (B, 3, H, W) in [0, 1].
        real: The same of real images.
        features: A module from bytes (B, 3, H, W) to features (B, K), or 64, 192, 768 or 2048 for
            maps of the published Inception, whose weights are fetched once.
        subset_size: Images that are compared at once for KID; both sets must have as many.
        seed: Fixes the subsets.
        device: Where the features are computed.

    Returns:
        `fid` in [0, inf), `kid` and `kid_sd`, over subsets; 0 is best. Mind the number of images:
        FID falls with it, KID does not.

    Raises:
        ValueError: If the extra is not installed, or there are too few images.
    """
    try:
        from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance
    except ModuleNotFoundError as error:
        raise ValueError(
            f"FID and KID need more packages ({error}): pip install 'cgn-bench[fidelity]'"
        ) from None
    own = [torch.device(device)] if torch.device(device).type == "cuda" else []
    # Both draw numbers, one when it is made and one when it chooses subsets.
    with torch.random.fork_rng(own), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore", UserWarning)  # KID keeps all features: 8 kB an image
        fid = FrechetInceptionDistance(features).to(device)
        kid = KernelInceptionDistance(features, subset_size=subset_size).to(device)
        for batches, are_real in ((drawn, False), (real, True)):
            for batch in batches:
                for metric in (fid, kid):
                    metric.update(to_bytes(batch).to(device), real=are_real)
        mean, deviation = kid.compute()
        values = {"fid": fid.compute(), "kid": mean, "kid_sd": deviation}
    return {name: value.item() for name, value in values.items()}


def mask_iou(masks: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of masks, (B, 1, H, W) bool; 1 where both are empty.

    Example:
        >>> half = torch.tensor([True, False]).view(1, 1, 1, 2)
        >>> mask_iou(half, torch.ones(1, 1, 1, 2, dtype=torch.bool))
        tensor([0.5000])
    """
    shared, union = (m.sum(dim=(1, 2, 3)) for m in (masks & others, masks | others))
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


@torch.inference_mode()
def fidelity(
    images: ImageSet,
    probabilities: Callable[[Tensor], Tensor],
    segment: Callable[[Tensor], Tensor] | None = None,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    n_splits: int = N_SPLITS,
) -> dict[str, float]:
    """Measure a set of drawn images and the masks they were composed with.

    Args:
        images: What `cgn.counterfactuals.sampling.sample` drew, with masks.
        probabilities: From images (B, 3, H, W) in [0, 1] to probabilities (B, C).
        segment: A second segmenter, from images to masks (B, 1, H, W) in [0, 1].
        batch_size: Images at once.
        device: Where both run.
        n_splits: Of the inception score.

    Returns:
        By name: `n`, `inception_score`, `inception_score_sd` and `inception_splits`; `mask_area`,
        the mean mu_mask as a share of the image; `mask_iou`, how well the second segmenter finds
        the masks in the images, if there is one.

    Raises:
        ValueError: If the set has no masks.
    """
    if images.masks is None:
        raise ValueError("the masks of these images are not known")
    predicted, agreement = [], []
    for index in torch.arange(len(images)).split(batch_size):
        batch = images.images(index).to(device)
        predicted.append(probabilities(batch).cpu())
        if segment is not None:
            masks = to_images(images.masks[index]) > OBJECT
            agreement.append(mask_iou(masks, segment(batch).cpu() > OBJECT))
    score, deviation = inception_score(torch.cat(predicted), n_splits)
    scores = {
        "n": float(len(images)),
        "inception_score": score,
        "inception_score_sd": deviation,
        "inception_splits": float(n_splits),
        "mask_area": to_images(images.masks).mean().item(),
    }
    return scores | ({"mask_iou": torch.cat(agreement).mean().item()} if agreement else {})


def segmenter(weights: str | None = "DEFAULT") -> Callable[[Tensor], Tensor]:
    """Return a second segmenter, which has nothing in common with U²-Net: DeepLab on a ResNet.

    It maps images (B, 3, H, W) in [0, 1] to the probability that a pixel is of any of its 20
    classes of objects, (B, 1, H, W). Its weights are fetched once; None draws random ones.
    """
    from torchvision.models.segmentation import deeplabv3_resnet50  # seconds to import

    network = deeplabv3_resnet50(weights=weights, weights_backbone=None)
    network = network.eval().requires_grad_(False)

    def segment(images: Tensor) -> Tensor:
        from cgn.segmentation.u2net import DEVIATION, MEAN

        mean, deviation = (images.new_tensor(each).view(3, 1, 1) for each in (MEAN, DEVIATION))
        logits = network.to(images.device)((images - mean) / deviation)["out"]
        background: Tensor = logits.softmax(dim=1)[:, :1]
        return 1 - background

    return segment
