"""Counterfactuals of real images: what this very image would be with another surface.

Sampling answers what images under an intervention look like; abduction, action and prediction
answer what one given image would have been. How objects are found is not here: see
`cgn.segmentation.by_colour`; how a CGN is sampled, `cgn.counterfactuals.sampling`.

Source:
    Pearl, Causality, Cambridge University Press 2009 (abduction, action, prediction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cgn.counterfactuals.sampling import draw_noise
from cgn.data.factors import ByClass, Factors
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.device.memory import images_at_once, in_batches
from cgn.device.precision import evaluating, of_cache
from cgn.device.transfer import Mailbox, sent
from cgn.io.cache import cache_key, open_or_make, sources, versions
from cgn.io.weights import load_tensors, save_tensors
from cgn.models.cgn import CGN, MechanismOutputs, compose, weights_sha256
from cgn.segmentation.by_colour import segment_by_colour


@dataclass(frozen=True, eq=False)
class Donors:
    """Real images whose own surfaces and backgrounds go into counterfactuals of others.

    Attributes:
        images: The images.
        masks: Where their objects are, (M, 1, H, W) bool.
        texture: For each counterfactual the image that lends its surface, (N,) int64; -1 for none.
        background: The same of backgrounds.
    """

    images: ImageSet
    masks: Tensor
    texture: Tensor
    background: Tensor

    def resident(self, device: torch.device | str) -> Donors:
        """Lay all of it on a device, as far as the images can be."""
        images = self.images.resident(device)
        there = images.factors.shape.device
        moved = (each.to(there) for each in (self.masks, self.texture, self.background))
        return Donors(images, *moved)

    def paste_onto(self, drawn: MechanismOutputs, span: slice) -> MechanismOutputs:
        """Lay what they show over what the mechanisms drew for some of the counterfactuals."""
        parts = []
        for index, below, is_object in (
            (self.texture[span], drawn.foreground, True),
            (self.background[span], drawn.background, False),
        ):
            lends = (self.masks[index] == is_object) & (index >= 0)[:, None, None, None]
            real = to_images(sent(self.images.read(index), below.device))
            parts.append(torch.where(sent(lends, below.device), real, below))
        return drawn._replace(foreground=parts[0], background=parts[1])


@torch.inference_mode()
def intervene(
    cgn: CGN,
    images: ImageSet,
    masks: Tensor,
    factors: Factors,
    *,
    generator: torch.Generator,
    lenders: Donors | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Give real images another surface or background, and leave everything else of them alone.

    A factor whose label does not change stays as it is, pixel by pixel; the mechanisms draw the
    others. If none changes, the image comes back.

    Args:
        cgn: Its mechanisms draw what is new.
        images: Real images, and the labels that their factors have now.
        masks: Where their objects are, (N, 1, H, W) bool, from
            `cgn.segmentation.by_colour.segment_by_colour`.
        factors: What to make of them, each (N,) int64; the shape's must be that of the images.
        generator: On the CPU, decides the noise of what is new.
        lenders: Who shows some of what is new; the mechanisms draw the rest.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The counterfactuals, with the ids of the images and the masks that were found.

    Raises:
        ValueError: If a shape is to change: the image does not show what lies behind its object.

    Source:
        Pearl, 2009. The original CGN only samples.
    """
    if not factors.shape.equal(images.factors.shape):
        raise ValueError("the shape of a real image stays; only texture and background can change")
    n, size = len(images), cgn.config.image_size_px
    made = Mailbox(torch.empty(n, 3, *images.size_px, dtype=torch.uint8))
    cgn = cgn.to(device).eval()
    lenders = None if lenders is None else lenders.resident(device)
    noise = draw_noise(cgn, n, generator)
    old, new = (each.map(lambda own: sent(own, device)) for each in (images.factors, factors))

    def make(span: slice) -> None:
        real = to_images(sent(images.read(span), device))
        mask = sent(masks[span], device).float()
        before, after = (each.map(lambda own: own[span]) for each in (old, new))
        drawn = cgn.draw(noise.part(span).to(device), after, mask)
        if lenders is not None:
            drawn = lenders.paste_onto(drawn, span)
        foreground, background = (
            torch.where((was == label)[:, None, None, None], real, part)
            for was, label, part in (
                (before.texture, after.texture, drawn.foreground),
                (before.background, after.background, drawn.background),
            )
        )
        made.put(span, to_bytes(compose(mask, foreground, background)))

    with evaluating(device):
        in_batches(n, images_at_once(device, size), make, progress)
    return ImageSet(made.close(), factors, images.ids, masks.to(torch.uint8) * 255)


def real_image_counterfactuals(
    cgn: CGN,
    images: ImageSet,
    masks: Tensor,
    n: int,
    *,
    seed: int,
    lent: float = 0.0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Make counterfactuals of real images: their shapes, with any surface and any background.

    What is new is drawn by the mechanisms, or abducted too: the surface of another real image, and
    the background of a third, as far as their own objects let them be seen; beyond, the mechanisms
    go on.

    Args:
        cgn: Its mechanisms draw what is new.
        images: Real images. Of their labels only the shape's is read: texture and background are
            taken to be those of the class.
        masks: Where their objects are, (N, 1, H, W) bool.
        n: Number of counterfactuals; each image is used about as often as any other.
        seed: Fixes images, labels and noise.
        lent: Share of the counterfactuals whose new surface and background are those of other
            images.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The counterfactuals; texture and background labels are uniform and independent.

    Raises:
        ValueError: If a class of the CGN has no image that could lend.
    """
    generator = torch.Generator().manual_seed(seed)
    turns = -(-n // len(images))
    order = [torch.randperm(len(images), generator=generator) for _ in range(turns)]
    index = torch.cat(order)[:n]
    free = Factors.independent(n, cgn.config.n_classes, generator)
    labels = images.factors.shape[index]
    return intervene(
        cgn,
        replace(images.select(index), factors=Factors.aligned(labels)),
        masks[index],
        free._replace(shape=labels),
        generator=generator,
        lenders=_donors(images, masks, free, lent, generator) if lent else None,
        device=device,
        progress=progress,
    )


def _donors(
    images: ImageSet, masks: Tensor, factors: Factors, share: float, generator: torch.Generator
) -> Donors:
    """Draw who lends to a share of counterfactuals, among images of the classes these will have."""
    uses_donor = torch.rand(len(factors.texture), generator=generator) < share
    by_class = ByClass(images.factors.shape)
    texture, background = (
        torch.where(uses_donor, by_class.draw(labels, generator), -1)
        for labels in (factors.texture, factors.background)
    )
    return Donors(images, masks, texture, background)


def segment_by_colour_cached(
    images: ImageSet, cache: Path, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Find the objects of a training set once: later calls open the file.

    Args:
        images: The set.
        cache: Folder for the masks; the file's name is a hash of all that went in.
        device: As for `segment_by_colour`.

    Returns:
        As from `segment_by_colour`, (N, 1, H, W) bool.
    """
    parts: dict[str, object] = {"train": images.fingerprint()}
    parts |= of_cache(device) | versions("scipy", "torch")
    key = cache_key(parts, sources("cgn.segmentation.by_colour"))

    def make(path: Path) -> None:
        masks = segment_by_colour(images.pixels, images.factors.shape, device=device)
        save_tensors(path, {"masks": masks}, parts)

    return open_or_make(
        cache / f"masks-{key}.safetensors",
        lambda path: load_tensors(path, "masks")[0]["masks"],
        make,
    )


def real_image_counterfactuals_cached(
    weights: Path,
    images: ImageSet,
    n: int,
    *,
    seed: int,
    cache: Path,
    lent: float = 0.0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Make counterfactuals of real images once and keep them: later calls open the file.

    Args:
        weights: A file written by `CGN.save`.
        images: As for `real_image_counterfactuals`.
        n: Number of counterfactuals.
        seed: Fixes them.
        cache: Folder for masks and counterfactuals.
        lent: As for `real_image_counterfactuals`.
        device: Where the mechanisms run, if they have to.
        progress: Called with images done and images in all.

    Raises:
        ValueError: If the weights cannot be read.
    """
    cgn, _ = CGN.load(weights)
    parts: dict[str, object] = {
        "weights_sha256": weights_sha256(cgn),
        "config": asdict(cgn.config),
        "train": images.fingerprint(),
        "n": n,
        "seed": seed,
        "lent": lent,
    }
    parts |= of_cache(device) | versions("scipy", "torch")
    key = cache_key(parts, sources(__name__))

    def make(path: Path) -> None:
        masks = segment_by_colour_cached(images, cache, device=device)
        made = real_image_counterfactuals(
            cgn, images, masks, n, seed=seed, lent=lent, device=device, progress=progress
        )
        made.save(path, parts)

    n_bytes = n * 4 * cgn.config.image_size_px**2  # of colours and masks
    return open_or_make(cache / f"{key}.safetensors", ImageSet.load, make, n_bytes=n_bytes)
