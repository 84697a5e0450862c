"""The three independent mechanisms, small enough to train from scratch.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn.models.poses import place

CHANNELS_A_GROUP = 8  # that are normalised together


class Mechanism(nn.Module):
    """A generator of one factor: from noise u and a label y of its own to a map of numbers.

    Both enter twice: as the first 8 x 8 map, and as gain and offset of every later layer, which
    lets few channels draw many classes.

    Attributes:
        noise_size: Numbers in u, Z.
    """

    def __init__(
        self,
        n_classes: int,
        size_px: int,
        out_channels: int,
        *,
        width: int,
        noise_size: int,
        wraps: bool,
    ) -> None:
        super().__init__()
        if size_px < 16 or size_px & (size_px - 1):
            raise ValueError(f"a mechanism draws 16, 32, 64, … pixels, got {size_px}")
        self.noise_size = noise_size
        condition = 2 * noise_size
        self.embedding = nn.Embedding(n_classes, noise_size)
        self.first = nn.Linear(condition, 2 * width * 8 * 8)
        widths = [2 * width]
        while 8 * 2 ** (len(widths) - 1) < size_px:
            widths.append(max(width // 2 ** (len(widths) - 1), 16))
        self.blocks = nn.ModuleList(
            UpBlock(before, after, condition, wraps=wraps) for before, after in pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], out_channels, 1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Draw one map an image, unbounded.

        Args:
            noise: u, (B, Z), standard normal.
            labels: y, (B,) int64.

        Returns:
            (B, out_channels, H, W), any real numbers.
        """
        return self._draw(*self._conditions(noise, labels, self._conditioned()))

    def _conditioned(self) -> list[nn.Linear]:
        """List the layers that see noise and label: of the first map, and of each block."""
        return [self.first, *(block.modulate for block in self.blocks)]  # type: ignore[list-item]

    def _conditions(
        self, noise: Tensor, labels: Tensor, layers: list[nn.Linear]
    ) -> tuple[Tensor, ...]:
        """Compute what each layer makes of u, (B, Z), and y, (B,): one product for all."""
        condition = torch.cat([noise, self.embedding(labels)], dim=1)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        sizes = [layer.out_features for layer in layers]
        products: tuple[Tensor, ...] = F.linear(condition, weight, bias).split(sizes, dim=1)
        return products

    def _draw(self, first: Tensor, *modulations: Tensor) -> Tensor:
        """Draw maps from what the layers made of noise and labels."""
        maps = first.unflatten(1, (-1, 8, 8))
        for block, modulation in zip(self.blocks, modulations, strict=True):
            maps = block(maps, modulation)
        return self.last(maps)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Double the size by a transposed convolution, normalise, and modulate by the condition."""

    def __init__(self, before: int, after: int, condition: int, *, wraps: bool) -> None:
        super().__init__()
        self.wraps = wraps
        # On a CPU 2.5 times as fast, forth and back, as nearest upsampling and a 3 x 3
        # convolution.
        padding = 3 if wraps else 1
        self.convolution = nn.ConvTranspose2d(
            before, after, 4, stride=2, padding=padding, bias=False
        )
        self.modulate = nn.Linear(condition, 2 * after)

    def forward(self, maps: Tensor, modulation: Tensor) -> Tensor:
        """Return maps of twice the height and width.

        Args:
            maps: (B, before, H, W).
            modulation: What `modulate` makes of the condition, (B, 2 after).
        """
        maps = self.convolution(wrapped(maps) if self.wraps else maps)
        gain, offset = modulation.chunk(2, dim=1)
        # Within an image, not over the batch: a sample must not depend on its neighbours. As if all
        # images' channels were one image's, each has a gain and an offset of its own.
        flat = maps.reshape(1, -1, *maps.shape[2:])
        n_groups = flat.shape[1] // CHANNELS_A_GROUP
        flat = F.group_norm(flat, n_groups, (1 + gain).flatten(), offset.flatten())
        return F.leaky_relu_(flat, 0.2).view(maps.shape)


def wrapped(maps: Tensor) -> Tensor:
    """Pad maps, (B, K, H, W), by one pixel on all sides with what lies on the other side."""
    if not torch.is_grad_enabled():  # on a CPU twice as fast as joining maps
        return F.pad(maps, (1, 1, 1, 1), mode="circular")
    padded: Tensor = Wrapped.apply(maps)
    return padded


class Wrapped(torch.autograd.Function):
    """What `nn.functional.pad` does with "circular", forth and back in a quarter of its kernels."""

    @staticmethod
    def forward(context: Any, maps: Tensor) -> Tensor:
        """Return (B, K, H + 2, W + 2)."""
        for dim in (2, 3):
            n = maps.shape[dim]
            maps = torch.cat([maps.narrow(dim, n - 1, 1), maps, maps.narrow(dim, 0, 1)], dim)
        return maps

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """Add to each pixel's gradient that of its copies."""
        for dim in (3, 2):
            n = gradient.shape[dim] - 2
            inner = gradient.narrow(dim, 1, n).clone(memory_format=torch.preserve_format)
            inner.narrow(dim, n - 1, 1).add_(gradient.narrow(dim, 0, 1))
            inner.narrow(dim, 0, 1).add_(gradient.narrow(dim, n + 1, 1))
            gradient = inner
        return gradient


class ShapeMechanism(Mechanism):
    """Draws the mask m: where the object is.

    It draws an outline on a small canvas and places that in the image. The noise of one normal
    distribution would fall between the kinds of shape that a class has, a bird's and a swan's; so
    u varies one of K codes that training images of the class were found to have, and the pose is
    that of one of K training images, chosen on its own.

    Attributes:
        size_px: Height and width of the image.
        codes: Means of u, (C, K, Z), in the beginning 0.
        deviations: Standard deviations of u, (C, K, Z), in the beginning 1.
        poses: See `cgn.models.poses`, (C, K, 3), in the beginning that of a large, central object.

    Source:
        Norouzi, Fleet and Norouzi, Exemplar VAE, NeurIPS 2020. https://arxiv.org/abs/2004.04795
    """

    codes: Tensor
    deviations: Tensor
    poses: Tensor

    def __init__(
        self,
        n_classes: int,
        size_px: int,
        *,
        width: int,
        noise_size: int,
        canvas_px: int,
        n_exemplars: int,
    ) -> None:
        super().__init__(n_classes, canvas_px, 1, width=width, noise_size=noise_size, wraps=False)
        self.size_px = size_px
        shape = n_classes, n_exemplars, noise_size
        self.register_buffer("codes", torch.zeros(shape))
        self.register_buffer("deviations", torch.ones(shape))
        self.register_buffer("poses", torch.tensor([0.0, 0.0, 0.75]).repeat(*shape[:2], 1))

    def forward(self, noise: Tensor, labels: Tensor, exemplars: Tensor | None = None) -> Tensor:
        """Draw the probability that each pixel belongs to the object.

        Args:
            noise: u before it is put in its place, (B, Z), standard normal.
            labels: y, (B,) int64.
            exemplars: Which code and which pose, (B, 2) int64 in [0, K); None for the first.

        Returns:
            (B, 1, H, W) in (0, 1).
        """
        if exemplars is None:
            exemplars = torch.zeros(len(labels), 2, dtype=torch.int64, device=labels.device)
        code, pose = exemplars.unbind(1)
        noise = self.codes[labels, code] + self.deviations[labels, code] * noise
        return self.place(self.outline(noise, labels), self.poses[labels, pose])

    def outline(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Draw outlines on canvases, logits (B, 1, S, S), from u (B, Z) and y (B,) int64."""
        return super().forward(noise, labels)

    def place(self, outlines: Tensor, poses: Tensor) -> Tensor:
        """Turn outlines, logits (B, 1, S, S), into probabilities (B, 1, H, W) at poses (B, 3)."""
        return place(outlines, poses, self.size_px).sigmoid()


class TextureMechanism(Mechanism):
    """Draws a texture that knows no place: the object's surface f, or the background b.

    The texture is a tile without seams (its convolutions wrap around), repeated over the image
    from a random origin. Whatever shape it held would be cut anywhere, so it holds none.

    Differs: the original repeats a tile that has seams and takes a random crop.
    """

    def __init__(
        self, n_classes: int, size_px: int, *, width: int, noise_size: int, tile_px: int
    ) -> None:
        super().__init__(n_classes, tile_px, 3, width=width, noise_size=noise_size, wraps=True)
        if size_px % tile_px:
            raise ValueError(f"tiles of {tile_px} px do not fill {size_px} px")
        self.repeats = size_px // tile_px
        # Normalised maps always vary over the image: a plain colour needs a way around them.
        self.plain = nn.Linear(2 * noise_size, 2 * 3)

    def forward(self, noise: Tensor, labels: Tensor, origin: Tensor | None = None) -> Tensor:
        """Draw a texture.

        Args:
            noise: u, (B, Z), standard normal.
            labels: y, (B,) int64.
            origin: Row and column where the tile begins, (B, 2) int64; None for 0, 0.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        *maps, plain = self._conditions(noise, labels, [*self._conditioned(), self.plain])
        colour, contrast = plain[:, :, None, None].chunk(2, dim=1)
        pattern = self._draw(*maps)
        # A sigmoid alone is flat where colours are pure, and would draw white and black all alike.
        tile: Tensor = F.hardtanh(
            1.1 * (colour + (1 + contrast) * pattern).sigmoid() - 0.05, 0.0, 1.0
        )
        if origin is not None:
            tile = roll(tile, origin)
        return tile.repeat(1, 1, self.repeats, self.repeats) if self.repeats > 1 else tile


def roll(tile: Tensor, origin: Tensor) -> Tensor:
    """Shift each image of a batch around its own borders.

    Args:
        tile: (B, C, H, W), H = W.
        origin: Rows and columns to shift up and left by, (B, 2) int64.

    Returns:
        The same numbers in other places.

    Example:
        >>> roll(torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[0, 1]])).flatten()
        tensor([1., 0., 3., 2.])
    """
    batch, size_px = len(tile), tile.shape[-1]
    steps = torch.arange(max(batch, size_px), device=tile.device)
    rows, columns = ((steps[:size_px] + origin[:, :, None]) % size_px).unbind(1)
    image = steps[:batch, None, None]
    return tile.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
