"""Counterfactuals of real images: what this very image would be with another surface.

Sampling answers what images under an intervention look like; abduction, action and prediction
answer what one given image would have been.

Source:
    Pearl, Causality, Cambridge University Press 2009 (abduction, action, prediction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cgn.counterfactuals.sampling import draw_noise
from cgn.data.factors import ByClass, Factors, require_same_shape
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.device.memory import images_at_once, in_batches
from cgn.device.precision import evaluating
from cgn.device.transfer import Mailbox, sent
from cgn.models.cgn import CGN, MechanismOutputs, compose


@dataclass(frozen=True, eq=False)
class Donors:
    """Real images whose own surfaces and backgrounds go into counterfactuals of others.

    Attributes:
        images: M images.
        masks: Where their objects are, (M, 1, H, W) bool.
        texture: For each counterfactual the image whose surface it gets, (N,) int64; -1 for none.
        background: The same of backgrounds.
    """

    images: ImageSet
    masks: Tensor
    texture: Tensor
    background: Tensor

    @classmethod
    def draw(
        cls,
        images: ImageSet,
        masks: Tensor,
        factors: Factors,
        share: float,
        generator: torch.Generator,
    ) -> Donors:
        """Draw the donors of a share of counterfactuals, among images of the classes wanted."""
        uses_donor = torch.rand(len(factors.texture), generator=generator) < share
        by_class = ByClass(images.factors.shape)
        texture, background = (
            torch.where(uses_donor, by_class.draw(labels, generator), -1)
            for labels in (factors.texture, factors.background)
        )
        return cls(images, masks, texture, background)

    def resident(self, device: torch.device | str) -> Donors:
        """Lay all of it on a device, as far as the images can be."""
        images = self.images.resident(device)
        there = images.factors.shape.device
        moved = (each.to(there) for each in (self.masks, self.texture, self.background))
        return Donors(images, *moved)

    def paste_onto(self, parts: MechanismOutputs, span: slice) -> MechanismOutputs:
        """Lay what the donors show over what the mechanisms drew for some counterfactuals."""
        pasted = []
        for index, below, is_object in (
            (self.texture[span], parts.foreground, True),
            (self.background[span], parts.background, False),
        ):
            visible = (self.masks[index] == is_object) & (index >= 0)[:, None, None, None]
            real = to_images(sent(self.images.read(index), below.device))
            pasted.append(torch.where(sent(visible, below.device), real, below))
        return parts._replace(foreground=pasted[0], background=pasted[1])


@torch.inference_mode()
def intervene(
    cgn: CGN,
    images: ImageSet,
    masks: Tensor,
    factors: Factors,
    *,
    generator: torch.Generator,
    donors: Donors | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Give real images another surface or background, and leave everything else of them alone.

    A factor whose label does not change stays as it is, pixel by pixel; the mechanisms draw the
    others. If none changes, the image comes back.

    Args:
        cgn: Its mechanisms draw what is new.
        images: Real images, and the labels that their factors have now.
        masks: Where their objects are, (N, 1, H, W) bool.
        factors: What to make of them, each (N,) int64; the shape's must be that of the images.
        generator: On the CPU, decides the noise of what is new.
        donors: Images that show some of what is new; the mechanisms draw the rest.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The counterfactuals, with the ids of the images and the masks that were found.

    Raises:
        ValueError: If a shape is to change: the image does not show what lies behind its object.

    Source:
        Pearl, 2009. The original CGN only samples.
    """
    require_same_shape(images.factors, factors)
    n, size = len(images), cgn.config.image_size_px
    changed = Mailbox(torch.empty(n, 3, *images.size_px, dtype=torch.uint8))
    cgn = cgn.to(device).eval()
    donors = None if donors is None else donors.resident(device)
    noise = draw_noise(cgn, n, generator)
    old, new = (each.map(lambda own: sent(own, device)) for each in (images.factors, factors))

    def change(span: slice) -> None:
        real = to_images(sent(images.read(span), device))
        mask = sent(masks[span], device).float()
        before, after = (each.map(lambda own: own[span]) for each in (old, new))
        # A factor without a label, -1, does not change: nothing that is drawn of it is shown.
        parts = cgn.draw(noise.part(span).to(device), after.map(lambda own: own.clamp(min=0)), mask)
        if donors is not None:
            parts = donors.paste_onto(parts, span)
        foreground, background = (
            torch.where((was == label)[:, None, None, None], real, part)
            for was, label, part in (
                (before.texture, after.texture, parts.foreground),
                (before.background, after.background, parts.background),
            )
        )
        changed.put(span, to_bytes(compose(mask, foreground, background)))

    with evaluating(device):
        in_batches(n, images_at_once(device, size), change, progress)
    return ImageSet(changed.close(), factors, images.ids, masks.to(torch.uint8) * 255)


def real_image_counterfactuals(
    cgn: CGN,
    images: ImageSet,
    masks: Tensor,
    n: int,
    *,
    seed: int,
    swap_fraction: float = 0.0,
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
        swap_fraction: Share of the counterfactuals whose new surface and background are those of
            other images.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The counterfactuals; texture and background labels are uniform and independent.

    Raises:
        ValueError: If a class of the CGN has no image that could be a donor.
    """
    generator = torch.Generator().manual_seed(seed)
    repeats = -(-n // len(images))
    order = [torch.randperm(len(images), generator=generator) for _ in range(repeats)]
    index = torch.cat(order)[:n]
    free = Factors.independent(n, cgn.config.n_classes, generator)
    labels = images.factors.shape[index]
    donors = Donors.draw(images, masks, free, swap_fraction, generator) if swap_fraction else None
    return intervene(
        cgn,
        replace(images.select(index), factors=Factors.aligned(labels)),
        masks[index],
        free._replace(shape=labels),
        generator=generator,
        donors=donors,
        device=device,
        progress=progress,
    )
