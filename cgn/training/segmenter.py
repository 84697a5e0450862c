"""Where the objects of images are, learned from what a CGN draws: its masks are known.

Source:
    Voynov, Morozov and Babenko, Object Segmentation Without Labels with Large-Scale Generative
    Models, ICML 2021: a network is fitted to generated images with masks, and used on real ones.
    https://arxiv.org/abs/2006.04988
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from cgn.counterfactuals.sampling import sample
from cgn.data.image_set import ImageSet, to_images
from cgn.device.graphs import Captured
from cgn.device.memory import images_at_once, in_batches
from cgn.device.precision import evaluating, training
from cgn.device.transfer import Mailbox, sent
from cgn.models.cgn import CGN
from cgn.training.adversarial import placed
from cgn.training.loop import seeded

Progress = Callable[[int, int], None]

N_SAMPLES = 20_000  # half of them with one label for all factors, as real images have
CHANNELS = (3, 48, 48, 48, 48, 48, 48, 48, 48)
DILATIONS = (1, 1, 2, 4, 8, 4, 2, 1)  # together they see 51 pixels
STEPS, BATCH_SIZE, LEARNING_RATE = 800, 128, 3e-3


class Segmenter(nn.Sequential):
    """From images, (B, 3, H, W) in [0, 1], to logits of the object, (B, 1, H, W)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for (before, after), dilation in zip(pairwise(CHANNELS), DILATIONS, strict=True):
            layers += [
                nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.Conv2d(CHANNELS[-1], 1, 1))


def segment_by_synthesis(
    cgn: CGN,
    images: ImageSet,
    *,
    seed: int,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Fit a network to a CGN's samples and their masks, and let it look at real images.

    Args:
        cgn: Its masks are what the network learns.
        images: N real images; no label of theirs is read.
        seed: Of the samples and the network.
        steps: Optimiser steps of the network.
        device: Where it runs.
        progress: Called with steps done and steps in all.

    Returns:
        Where the objects are, (N, 1, H, W) bool, on the CPU.
    """
    sets = [
        sample(cgn, N_SAMPLES // 2, seed=seed, aligned=aligned, device=device)
        for aligned in (False, True)
    ]
    network = _fit(sets, seed, steps, torch.device(device), progress)
    masks = Mailbox(torch.empty(len(images), 1, *images.size_px, dtype=torch.bool))

    def look(span: slice) -> None:
        masks.put(span, network(to_images(sent(images.read(span), device))) > 0)

    with torch.inference_mode(), evaluating(device):
        in_batches(len(images), images_at_once(device, images.size_px[1]), look)
    return masks.close()


def _fit(
    sets: list[ImageSet], seed: int, steps: int, device: torch.device, progress: Progress | None
) -> Segmenter:
    """Fit the network to images and their masks, by cross-entropy."""
    pixels = torch.cat([images.pixels for images in sets]).to(device)
    objects = torch.cat([images.masks for images in sets if images.masks is not None]).to(device)
    # Whoever measures what a CGN does calls this where no gradients are wanted.
    gradients = torch.inference_mode(False), torch.enable_grad()
    with gradients[0], gradients[1], seeded(seed, device) as generator, training(device):
        network = placed(Segmenter(), device)
        optimiser = AdamW(network.parameters(), LEARNING_RATE, fused=True)
        schedule = OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)

        def differentiate(index: Tensor) -> Tensor:
            wanted = (objects[index] > 0).float()
            loss = binary_cross_entropy_with_logits(network(to_images(pixels[index])), wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            return loss.detach()

        differentiated = Captured(differentiate)
        for step in range(steps):
            index = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
            differentiated(sent(index, device))
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps)
    network.eval()
    return network
