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

    Attributes:
        difference: Of pixels' differences to BigGAN's image.
        perceptual: Of its textures' differences.
        mask_entropy: Of undecided masks.
        mask_area: Of objects that are too small or too large.
        texture: Of the difference of drawn textures to the object's.
        background_saliency: Of what is left of an object in the background.
    """

    difference: float = 100.0
    perceptual: float = 5**2 * 5e3
    mask_entropy: float = 300.0
    mask_area: float = 500.0
    texture: float = 5**2 * 5e3
    background_saliency: float = 2_000.0


@dataclass(frozen=True, kw_only=True)
class ImageNetTrainConfig:
    """Everything that fixes a training run, but for the weights it starts from.

    Attributes:
        steps: Of the optimiser.
        images_per_step: Images in a step, over all processes.
        batch_size: Images at once in each process; 0 means as many as fit, on a CPU one.
        shape_learning_rate: Of the shape mechanism.
        texture_learning_rate: Of the texture mechanism.
        background_learning_rate: Of the background mechanism.
        truncation: Of the noise, in (0, 1].
        seed: Of all random numbers.
        ema_decay: Of the averaged weights that sampling uses.
        bfloat16: Maps in bfloat16; weights, losses and gradients' sums in float32.
        checkpoint_steps: Steps between checkpoints at least.
        checkpoint_minutes: Minutes between checkpoints at least.
        graph: On CUDA, launch a pass as one graph.
        weights: How much each loss counts.
    """

    steps: int = 50
    images_per_step: int = 2_048
    batch_size: int = 0
    shape_learning_rate: float = 8e-6
    texture_learning_rate: float = 1e-5
    background_learning_rate: float = 1e-5
    truncation: float = 1.0
    seed: int = 0
    ema_decay: float = 0.9
    bfloat16: bool = True
    checkpoint_steps: int = 1
    checkpoint_minutes: float = 10.0
    graph: bool = True
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
