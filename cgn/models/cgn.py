"""The CGN: three mechanisms joined analytically, and its weights saved with their config.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cgn.data.factors import Factors
from cgn.device.transfer import sent
from cgn.io.schema import checked
from cgn.io.weights import fill_described, load_tensors, read_state, save_tensors
from cgn.models import released
from cgn.models.mechanisms import ShapeMechanism, TextureMechanism

LARGEST_PX = 4_096  # side of an image; weights don't tell it, so a file might ask for any


def compose(mask: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Paste the foreground onto the background through the mask.

    x = m * f + (1 - m) * b

    Args:
        mask: Where the object is, m, (B, 1, H, W) in [0, 1].
        foreground: What it is made of, f, (B, 3, H, W) in [0, 1].
        background: What is behind it, b, (B, 3, H, W) in [0, 1].

    Returns:
        Images x, (B, 3, H, W) in [0, 1].

    Source:
        Composition mechanism.

    Example:
        >>> mask = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)  # all object, all background
        >>> white, black = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
        >>> compose(mask, white, black).mean(dim=(1, 2, 3))
        tensor([1., 0.])
    """
    return mask * foreground + (1 - mask) * background


def binarise(probability: Tensor) -> Tensor:
    """Round to 0 or 1 and pass the gradient straight through.

    With a half-transparent mask the texture mechanisms could draw the shape; a binary mask
    leaves shape to the shape mechanism.

    Args:
        probability: Any shape, in [0, 1].

    Returns:
        The same shape, in {0, 1}; its gradient is that of `probability`.

    Example:
        >>> p = torch.tensor([0.2, 0.9], requires_grad=True)
        >>> binarise(p)
        tensor([0., 1.], grad_fn=<AddBackward0>)
        >>> torch.autograd.grad(binarise(p).sum(), p)
        (tensor([1., 1.]),)
    """
    return (probability > 0.5).to(probability) + (probability - probability.detach())


class Noise(NamedTuple):
    """What chance decides of a batch of images, but for their labels.

    Attributes:
        units: u of shape, texture and background, (3, B, Z), standard normal.
        origins: Row and column where the tiles of texture and background begin, (2, B, 2) int64.
        exemplars: Which code and which pose the shapes have, (B, 2) int64.
    """

    units: Tensor
    origins: Tensor
    exemplars: Tensor

    def to(self, device: torch.device | str) -> Noise:
        """Move to a device; the host does not wait for a GPU to have it."""
        return Noise(*(sent(each, device) for each in self))

    def part(self, span: slice) -> Noise:
        """Return that of some of the images."""
        return Noise(self.units[:, span], self.origins[:, span], self.exemplars[span])

    @classmethod
    def joined(cls, blocks: Sequence[Noise]) -> Noise:
        """Put that of several batches into one."""
        units, origins, exemplars = zip(*blocks, strict=True)
        return cls(torch.cat(units, dim=1), torch.cat(origins, dim=1), torch.cat(exemplars))


class MechanismOutputs(NamedTuple):
    """What the three mechanisms drew.

    Attributes:
        mask: m, (B, 1, H, W) in [0, 1]; {0, 1} unless the weights are the original authors'.
        foreground: f, (B, 3, H, W) in [0, 1].
        background: b, (B, 3, H, W) in [0, 1].
        probability: The mask before it was made binary, (B, 1, H, W) in [0, 1].
    """

    mask: Tensor
    foreground: Tensor
    background: Tensor
    probability: Tensor

    def image(self) -> Tensor:
        """Join the parts to images x, (B, 3, H, W) in [0, 1]."""
        return compose(self.mask, self.foreground, self.background)


@dataclass(frozen=True, kw_only=True)
class CGNConfig:
    """Everything that fixes the shape of a CGN's weights."""

    n_classes: int
    image_size_px: int
    width: int = 24  # channels of the last but one map
    noise_size: int = 32  # numbers in u
    tile_px: int = 32  # size of the texture that is repeated over the image
    canvas_px: int = 32  # size at which outlines are drawn
    n_exemplars: int = 256  # codes and poses of each class that shapes are drawn from
    released: bool = False  # the original authors' mechanisms, whose masks are not binary

    def __post_init__(self) -> None:
        for name in ("image_size_px", "tile_px", "canvas_px"):
            if not 1 <= getattr(self, name) <= LARGEST_PX:
                raise ValueError(
                    f"{name} must lie between 1 and {LARGEST_PX}, got {getattr(self, name)}"
                )


class CGN(nn.Module):
    """Three mechanisms, each driven by noise and a label of its own.

    Attributes:
        config: What fixes the shape of the weights.
        shape: Draws the mask.
        texture: Draws the foreground.
        background: Draws the background.
    """

    def __init__(self, config: CGNConfig) -> None:
        super().__init__()
        self.config = config
        self.shape: nn.Module
        self.texture: nn.Module
        self.background: nn.Module
        if config.released:
            self.shape, self.texture = released.ReleasedShape(), released.ReleasedTexture()
            self.background = released.ReleasedTexture()
            return
        n_classes, size_px = config.n_classes, config.image_size_px
        size = {"width": config.width, "noise_size": config.noise_size}
        self.shape = ShapeMechanism(
            n_classes, size_px, **size, canvas_px=config.canvas_px, n_exemplars=config.n_exemplars
        )
        self.texture = TextureMechanism(n_classes, size_px, **size, tile_px=config.tile_px)
        self.background = TextureMechanism(n_classes, size_px, **size, tile_px=config.tile_px)

    def forward(
        self,
        factors: Factors,
        generator: torch.Generator | None = None,
        probability: Tensor | None = None,
    ) -> MechanismOutputs:
        """Draw one image for each triple of labels.

        Args:
            factors: Labels of the three mechanisms, each (B,) int64. Equal labels give images
                like the training data, independent labels counterfactual images.
            generator: On the CPU, decides noise, exemplars and origins, so that the same state
                gives the same images on any device; None takes PyTorch's global generator.
            probability: What the shape mechanism drew, (B, 1, H, W) in [0, 1], if it has drawn
                already.

        Returns:
            The parts of B images; noise is drawn for each mechanism on its own.
        """
        noise = self.draw_noise(len(factors.shape), generator).to(factors.shape.device)
        return self.draw(noise, factors, probability)

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> Noise:
        """Draw on the CPU what chance decides of `n` images."""
        of = self.config
        return Noise(
            torch.randn(3, n, of.noise_size, generator=generator),
            torch.randint(of.tile_px, (2, n, 2), generator=generator),
            torch.randint(of.n_exemplars, (n, 2), generator=generator),
        )

    def draw(
        self, noise: Noise, factors: Factors, probability: Tensor | None = None
    ) -> MechanismOutputs:
        """Draw one image for each triple of labels from noise on their device."""
        if probability is None:
            probability = self.shape(noise.units[0], factors.shape, noise.exemplars)
        return MechanismOutputs(
            probability if self.config.released else binarise(probability),
            self.texture(noise.units[1], factors.texture, noise.origins[0]),
            self.background(noise.units[2], factors.background, noise.origins[1]),
            probability,
        )

    def save(self, path: Path, metadata: dict[str, Any]) -> None:
        """Write weights, config and metadata to one safetensors file, weights in half precision.

        Half precision is finer than a byte of a pixel and halves the file.
        """
        tensors = {name: tensor.half() for name, tensor in self.state_dict().items()}
        save_tensors(path, tensors, {"cgn": asdict(self.config)} | metadata)

    @classmethod
    def load(cls, path: Path) -> tuple[CGN, dict[str, Any]]:
        """Read a CGN written by `save`, with its metadata.

        Raises:
            ValueError: If the file holds no CGN, or weights of another shape than its config.
        """
        tensors, metadata = load_tensors(path)
        if "cgn" not in metadata:
            raise ValueError(f"{path} holds no CGN; `train cgn` makes one")
        config = checked(CGNConfig, metadata["cgn"], f"the header of {path}")
        wide = {name: tensor.float() for name, tensor in tensors.items()}
        return fill_described(lambda: cls(config), wide, path).eval(), metadata


def load_released(path: Path) -> CGN:
    """Load the MNIST weights that the original authors published.

    Args:
        path: A `ckp.pth` of the original repository.

    Returns:
        A CGN that samples like any other, in evaluation mode.

    Raises:
        ValueError: If the file is cut short or holds something else.
    """
    config = CGNConfig(n_classes=10, image_size_px=32, released=True)
    try:
        renamed = released.rename(read_state(path))
        return fill_described(lambda: CGN(config), renamed, path).eval()
    except ValueError as error:
        raise ValueError(f"{path} is no MNIST CGN of the original authors: {error}") from None
