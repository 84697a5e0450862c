"""The CGN of ImageNet: three BigGANs, one of which draws what a saliency network turns to masks.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgn.data.factors import Factors
from cgn.io.schema import checked
from cgn.io.weights import load_tensors, save_tensors
from cgn.models.cgn import MechanismOutputs
from cgn.models.imagenet.biggan import BigGAN, BigGANConfig
from cgn.segmentation.u2net import WIDTH, U2Net

MASK_MARGIN = 1e-4  # no pixel is wholly the object's or the background's: entropy needs a gradient


@dataclass(frozen=True, kw_only=True)
class ImageNetConfig:
    """Everything that fixes the shape of an ImageNet CGN's weights."""

    n_classes: int = 1000
    image_size_px: int = 256
    width: int = 128  # channels of the mechanisms' last maps
    noise_size: int = 128  # numbers in u
    saliency_width: int = WIDTH  # channels of the saliency network's first maps
    swapped_statistics: bool = False  # see `cgn.models.imagenet.biggan.interpolate_statistics`

    @property
    def biggan(self) -> BigGANConfig:
        """What fixes the shape of each mechanism's weights."""
        return BigGANConfig(
            resolution_px=self.image_size_px,
            width=self.width,
            n_classes=self.n_classes,
            noise_size=self.noise_size,
            swapped_statistics=self.swapped_statistics,
        )


def truncated_noise(
    n: int, size: int, generator: torch.Generator | None, truncation: float = 1.0
) -> Tensor:
    """Draw u from a normal distribution cut at 2 and -2, times the truncation.

    Args:
        n: How many.
        size: Numbers in each, Z.
        generator: On the CPU, decides.
        truncation: In [0, 1]: the less, the more alike and the better the images.

    Returns:
        (n, Z) in [-2, 2] times the truncation.

    Source:
        Brock et al., ICLR 2019, section 3.1.

    Example:
        >>> noise = truncated_noise(1000, 8, torch.Generator().manual_seed(0), truncation=0.5)
        >>> bool((noise.abs() <= 1).all()), round(noise.std().item(), 1)
        (True, 0.4)
    """
    noise = torch.empty(n, size)
    return nn.init.trunc_normal_(noise, a=-2.0, b=2.0, generator=generator) * truncation


class ImageNetCGN(nn.Module):
    """Three mechanisms, each a BigGAN with a label of its own; the noise they share.

    Attributes:
        config: What fixes the shape of the weights.
        shape: Draws an image in which the saliency network sees the mask.
        texture: Draws the foreground.
        background: Draws the background.
        saliency: Finds the object, always the same.
        truncation: Of the noise, where nothing else is asked for.
    """

    def __init__(self, config: ImageNetConfig) -> None:
        super().__init__()
        self.config = config
        self.shape = BigGAN(config.biggan)
        self.texture = BigGAN(config.biggan)
        self.background = BigGAN(config.biggan)
        self.saliency = U2Net(config.saliency_width).requires_grad_(False)
        self.truncation = 1.0

    def mechanisms(self) -> dict[str, BigGAN]:
        """Return what learns."""
        return {"shape": self.shape, "texture": self.texture, "background": self.background}

    def train(self, mode: bool = True) -> ImageNetCGN:
        """Set the mode; the saliency network is always in evaluation mode."""
        super().train(mode)
        self.saliency.eval()
        return self

    def forward(
        self,
        factors: Factors,
        generator: torch.Generator | None = None,
        *,
        truncation: float | None = None,
    ) -> MechanismOutputs:
        """Draw one image for each triple of labels.

        Args:
            factors: Labels of the three mechanisms, each (B,) int64, or shares of classes, each
                (B, C) in [0, 1].
            generator: On the CPU, decides the noise, so that the same state gives the same
                images on any device; None takes PyTorch's global generator.
            truncation: Of the noise; None takes the CGN's own.

        Returns:
            The parts of B images. Mask and `probability` are the same: it is not binary.
        """
        n, device = len(factors.shape), factors.shape.device
        truncation = self.truncation if truncation is None else truncation
        noise = truncated_noise(n, self.config.noise_size, generator, truncation).to(device)
        return self.draw(noise, factors, truncation)

    def draw(self, noise: Tensor, factors: Factors, truncation: float = 1.0) -> MechanismOutputs:
        """Draw one image for each row of noise, (B, Z), and triple of labels."""
        mask = self.mask(noise, factors.shape, truncation)
        return MechanismOutputs(
            mask,
            self.texture(noise, factors.texture, truncation),
            self.background(noise, factors.background, truncation),
            mask,
        )

    def mask(self, noise: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """Draw the mask alone, (B, 1, H, W) in [0.0001, 0.9999]."""
        found = self.salient(self.shape(noise, labels, truncation))
        return found.clamp(MASK_MARGIN, 1 - MASK_MARGIN)

    def salient(self, images: Tensor) -> Tensor:
        """Find the object in drawn images, (B, 3, H, W) in [0, 1]; returns (B, 1, H, W).

        They are not normalised as the saliency network learned it: f_shape adapts to it, and so
        did the published weights.
        """
        return self.saliency(2 * images - 1)  # type: ignore[no-any-return]

    def for_sampling(
        self, dtype: torch.dtype = torch.bfloat16, truncation: float = 1.0
    ) -> ImageNetCGN:
        """Return a frozen copy that draws the same images faster.

        Args:
            dtype: Of convolutions and maps.
            truncation: Of the noise, where nothing else is asked for.
        """
        frozen = copy.copy(self)
        frozen.truncation = truncation
        frozen._modules = {
            name: module.fused(dtype)
            for name, module in self.named_children()
            if isinstance(module, (BigGAN, U2Net))
        }
        return frozen.eval()

    def save(self, path: Path, metadata: dict[str, Any]) -> None:
        """Write weights, config and metadata to one safetensors file, atomically.

        Weights are written in half precision. What was counted or iterated is not, for variances
        may lie outside the numbers that it has.
        """
        tensors = self.state_dict()
        tensors |= {name: weight.half() for name, weight in self.named_parameters()}
        save_tensors(path, tensors, {"imagenet_cgn": asdict(self.config)} | metadata)

    @classmethod
    def load(cls, path: Path) -> tuple[ImageNetCGN, dict[str, Any]]:
        """Read a CGN written by `save`, with its metadata.

        Raises:
            ValueError: If the file holds no such CGN, or weights of another shape than its config.
        """
        tensors, metadata = load_tensors(path)
        if "imagenet_cgn" not in metadata:
            raise ValueError(f"{path} holds no ImageNet CGN; `train cgn-imagenet` makes one")
        config = checked(ImageNetConfig, metadata["imagenet_cgn"], f"the header of {path}")
        wide = {
            name: tensor.float() if tensor.dtype == torch.float16 else tensor
            for name, tensor in tensors.items()
        }
        try:
            model = on_meta(config)
            model.load_state_dict(wide, assign=True)
        except (KeyError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: weights and config differ: {reason}") from None
        return set_trainable(model), metadata


def on_meta(config: ImageNetConfig) -> ImageNetCGN:
    """Make a CGN without memory, whose weights will be assigned; to draw them takes seconds."""
    with torch.device("meta"):
        return ImageNetCGN(config)


def set_trainable(model: ImageNetCGN) -> ImageNetCGN:
    """Let the mechanisms of a CGN learn, and nothing else, after its tensors were assigned."""
    for mechanism in model.mechanisms().values():
        mechanism.requires_grad_(True)
    model.saliency.requires_grad_(False)
    return model.eval()
