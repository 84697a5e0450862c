"""What fixes the training of an ImageNet CGN, but for the weights it starts from.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, appendix, and the authors'
    code. https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from cgn.io.schema import require_in_range
from cgn.training.loop import Weights

# The paper's names of the parts of the loss, for ablations.
PARTS = {
    "shape": ("mask_entropy", "mask_area"),
    "texture": ("texture",),
    "background": ("background_saliency",),
    "reconstruction": ("difference", "perceptual"),
}


@dataclass(frozen=True, kw_only=True)
class ImageNetLossWeights(Weights):
    """How much each loss counts; the defaults are the paper's.

    The two weights of Gram matrices are lambda squared times 5,000, as the authors' code has it.
    """

    difference: float = 100.0
    perceptual: float = 5**2 * 5e3
    mask_entropy: float = 300.0
    mask_area: float = 500.0
    texture: float = 5**2 * 5e3
    background_saliency: float = 2_000.0


@dataclass(frozen=True, kw_only=True)
class ImageNetTrainConfig:
    """Everything that fixes a training run, but for the weights it starts from."""

    steps: int = 50  # of the optimiser
    images_per_step: int = 2_048  # of all processes together
    batch_size: int = 0  # images at once in each process; 0: as many as fit, on a CPU one
    shape_learning_rate: float = 8e-6
    texture_learning_rate: float = 1e-5
    background_learning_rate: float = 1e-5
    truncation: float = 1.0  # of the noise
    seed: int = 0
    ema_decay: float = 0.9  # of the averaged weights that sampling uses
    bfloat16: bool = True  # maps in bfloat16; weights, losses and gradients' sums in float32
    checkpoint_steps: int = 1  # steps between checkpoints at least
    checkpoint_minutes: float = 10.0  # minutes between them at least
    graph: bool = True  # on CUDA, launch a pass as one graph
    weights: ImageNetLossWeights = field(default_factory=ImageNetLossWeights)

    def __post_init__(self) -> None:
        require_in_range(self, but=() if self.batch_size else ("batch_size",))

    @property
    def dtype(self) -> torch.dtype:
        """Of the maps."""
        return torch.bfloat16 if self.bfloat16 else torch.float32


# The schedule of "paper" is that of the authors' config file, with which others reproduced it;
# "code" is what their command line does.
IMAGENET_PRESETS = {
    "paper": ImageNetTrainConfig(),
    "code": ImageNetTrainConfig(
        steps=300,
        images_per_step=4_000,
        texture_learning_rate=3e-5,
        weights=ImageNetLossWeights(perceptual=4**2 * 5e3),
    ),
}


def without(config: ImageNetTrainConfig, part: str) -> ImageNetTrainConfig:
    """Switch off a part of the loss: shape, texture, background or reconstruction.

    Example:
        >>> without(ImageNetTrainConfig(), "texture").weights.texture
        0.0
    """
    return replace(config, weights=replace(config.weights, **dict.fromkeys(PARTS[part], 0.0)))
