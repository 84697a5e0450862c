"""BigGAN-deep: the class-conditional generator that the ImageNet mechanisms start from.

Layers have the names of the published files.

Source:
    Brock, Donahue and Simonyan, Large Scale GAN Training for High Fidelity Natural Image
    Synthesis, ICLR 2019. https://arxiv.org/abs/1809.11096
    Published weights: https://github.com/huggingface/pytorch-pretrained-BigGAN
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

from cgn.models.imagenet.spectral import (
    EPSILON,
    FrozenSigma,
    FusedLayer,
    JointLinear,
    Layer,
    SpectralLayer,
    spectral_layers,
)
from cgn.models.imagenet.upsampling import add_upsampled, upsample

# Channels of the maps of 4 x 4, 8 x 8, … pixels, in units of the width. The published networks
# are those of 128 pixels and more; the small ones are for tests and for toys.
MULTIPLIERS = {
    16: (4, 2, 1),
    32: (4, 4, 2, 1),
    64: (8, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
N_STATISTICS = 51  # truncations 0, 0.02, …, 1 of which means and variances are known
REDUCTION = 4  # a block's inner maps have a quarter of the channels of its input
N_COLOURS = 3  # of the last layer's channels; the others are not used


@dataclass(frozen=True, kw_only=True)
class BigGANConfig:
    """Everything that fixes the shape of a BigGAN's weights.

    Raises:
        ValueError: If there is no BigGAN of that size.
    """

    resolution_px: int = 256
    width: int = 128  # channels of the last map
    n_classes: int = 1000
    noise_size: int = 128  # numbers in u, and in a class's embedding
    swapped_statistics: bool = False  # as the published code interpolates between truncations

    def __post_init__(self) -> None:
        if self.resolution_px not in MULTIPLIERS:
            raise ValueError(
                f"BigGAN draws {', '.join(map(str, MULTIPLIERS))} pixels, not {self.resolution_px}"
            )
        if self.width < REDUCTION or self.width % REDUCTION:
            raise ValueError(f"width must be a multiple of {REDUCTION}, got {self.width}")

    @property
    def attention_px(self) -> int:
        """Size of the map that attention is applied to."""
        return min(64, self.resolution_px // 2)


class BatchNorm(nn.Module):
    """Parameters of a normalisation, which `Generator` applies: it computes those of all layers.

    Attributes:
        running_means: Mean of each channel at truncations 0, 0.02, …, 1, (51, channels).
        running_vars: The same of variances.
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, n_channels: int, condition_size: int | None = None) -> None:
        super().__init__()
        self.register_buffer("running_means", torch.zeros(N_STATISTICS, n_channels))
        self.register_buffer("running_vars", torch.ones(N_STATISTICS, n_channels))
        if condition_size is None:
            self.weight = nn.Parameter(torch.ones(n_channels))
            self.bias = nn.Parameter(torch.zeros(n_channels))
        else:
            self.scale = SpectralLayer(nn.Linear(condition_size, n_channels, bias=False))
            self.offset = SpectralLayer(nn.Linear(condition_size, n_channels, bias=False))


def interpolate_statistics(
    statistics: Tensor, truncation: float, *, swapped: bool = False
) -> Tensor:
    """Interpolate statistics linearly between the truncations they are known for.

    Args:
        statistics: At truncations 0, 0.02, …, 1, (51, channels).
        truncation: In [0, 1].
        swapped: Give each neighbour the weight of the other, as the published code does.

    Returns:
        (channels,).

    Raises:
        ValueError: If the truncation is not within [0, 1].

    Example:
        >>> statistics = torch.arange(51.0)[:, None]
        >>> interpolate_statistics(statistics, 0.5), interpolate_statistics(statistics, 0.505)
        (tensor([25.]), tensor([25.2500]))
        >>> interpolate_statistics(statistics, 0.505, swapped=True)
        tensor([25.7500])
    """
    if not 0 <= truncation <= 1:
        raise ValueError(f"truncation must lie in [0, 1], got {truncation:g}")
    if swapped:  # to the bit: 0.3 / 0.02 is a little less than 15, which swaps 14 and 15
        far, below = math.modf(truncation / (1 / (N_STATISTICS - 1)))
        far = 1 - far if far else far
    else:
        far, below = math.modf(round(truncation * (N_STATISTICS - 1), 9))
    if far == 0:
        return statistics[int(below)]
    return statistics[int(below)].lerp(statistics[int(below) + 1], far)


class Modulation(NamedTuple):
    """What normalised maps are multiplied by and what is added, both (B, channels, 1, 1)."""

    gain: Tensor
    shift: Tensor

    @classmethod
    def of(
        cls, gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, missing_bias: Tensor
    ) -> Modulation:
        """Combine normalisation and modulation of maps without biases, each (…, channels)."""
        gain = gain * (variance + EPSILON).rsqrt()
        return cls(gain, torch.addcmul(offset, missing_bias - mean, gain))

    def split(self, sizes: list[int], dtype: torch.dtype) -> list[Modulation]:
        """Split into those of single layers, in the maps' dtype."""
        parts = (each.to(dtype)[..., None, None].split(sizes, dim=-3) for each in self)
        return [Modulation(*each) for each in zip(*parts, strict=True)]

    def apply(self, maps: Tensor) -> Tensor:
        """Modulate maps, (B, channels, H, W), and set what is below 0 to 0."""
        return torch.relu_(torch.addcmul(self.shift, maps, self.gain))


class Attention(nn.Module):
    """Self-attention, with keys and values at half the height and width."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        inner, values = max(1, n_channels // 8), n_channels // 2
        self.snconv1x1_theta = _convolution(n_channels, inner, 1, bias=False)
        self.snconv1x1_phi = _convolution(n_channels, inner, 1, bias=False)
        self.snconv1x1_g = _convolution(n_channels, values, 1, bias=False)
        self.snconv1x1_o_conv = _convolution(values, n_channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor, missing_bias: Tensor) -> Tensor:
        """Add to maps, (B, channels, H, W), their missing biases, and the attended values."""
        maps = maps + missing_bias.to(maps.dtype)[:, None, None]
        query = self.snconv1x1_theta(maps).flatten(2).mT
        key = nn.functional.max_pool2d(self.snconv1x1_phi(maps), 2).flatten(2).mT
        value = nn.functional.max_pool2d(self.snconv1x1_g(maps), 2).flatten(2).mT
        # On a CPU in a quarter of the time that `scaled_dot_product_attention` takes.
        attended = torch.bmm(torch.bmm(query, key.mT).softmax(dim=2), value)
        attended = self.snconv1x1_o_conv(attended.mT.unflatten(2, maps.shape[2:]))
        return torch.addcmul(maps, attended, self.gamma.to(attended.dtype))


class Block(nn.Module):
    """Four convolutions with a skip connection; it may double height and width."""

    def __init__(self, before: int, after: int, condition_size: int, *, grows: bool) -> None:
        super().__init__()
        inner = before // REDUCTION
        self.grows, self.after = grows, after
        self.bn_0 = BatchNorm(before, condition_size)
        self.bn_1, self.bn_2, self.bn_3 = (BatchNorm(inner, condition_size) for _ in range(3))
        self.conv_0 = _convolution(before, inner, 1)
        self.conv_1 = _convolution(inner, inner, 3)
        self.conv_2 = _convolution(inner, inner, 3)
        self.conv_3 = _convolution(inner, after, 1)

    def forward(
        self, maps: Tensor, modulations: Sequence[Modulation], *, checkpointed: bool
    ) -> Tensor:
        """Return maps, (B, after, H, W) or twice as high and wide, without the last biases.

        Args:
            maps: (B, before, H, W).
            modulations: Of the four normalisations, biases of their maps included.
            checkpointed: See `Generator`.
        """
        inner = maps
        for i, modulation in enumerate(modulations):
            function = partial(self._normalise_and_convolve, i)
            inner = call(function, inner, *modulation, checkpointed=checkpointed)
        around = maps if maps.shape[1] == self.after else maps[:, : self.after]
        return add_upsampled(inner, around) if self.grows else inner + around

    def _normalise_and_convolve(self, i: int, maps: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """Normalise maps and apply a convolution."""
        maps = Modulation(gain, shift).apply(maps)
        maps = upsample(maps) if self.grows and i == 1 else maps
        return cast(Tensor, self.get_submodule(f"conv_{i}")(maps))


def call(function: Callable[..., Tensor], *inputs: Tensor, checkpointed: bool) -> Tensor:
    """Call a function; if checkpointed, normalised maps are computed again for the gradient.

    The convolution is not computed again: it comes last, and nothing keeps its outputs.
    """
    if not checkpointed or not torch.is_grad_enabled():
        return function(*inputs)
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, again(function, *inputs))


class Generator(nn.Module):
    """From noise and class to pixels: what the published files call `generator`.

    The normalisation after a convolution adds its biases; those of a skip connection are added by
    the normalisation of the next block.

    Attributes:
        scales: Scales of all normalisations but the last, then their offsets, in one product.
        checkpointed: Compute normalised maps again for the gradient instead of keeping them: they
            are cheap, and as large as the maps before them, which must be kept.
    """

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        multipliers, condition_size = MULTIPLIERS[config.resolution_px], 2 * config.noise_size
        widths = [config.width * multiplier for multiplier in multipliers]
        self.first_width, self.resolution_px = widths[0], config.resolution_px
        self.gen_z: Layer = SpectralLayer(nn.Linear(condition_size, 4 * 4 * self.first_width))
        self.swapped, self.checkpointed = config.swapped_statistics, True
        layers: list[Attention | Block] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            if 4 * 2**i == config.attention_px:
                layers.append(Attention(before))
            layers.append(Block(before, before, condition_size, grows=False))
            layers.append(Block(before, after, condition_size, grows=True))
        self.layers = nn.ModuleList(layers)
        self.bn = BatchNorm(config.width)
        self.conv_to_rgb: Layer = _convolution(config.width, config.width, 3)
        norms = [norm for norm in self.layers.modules() if isinstance(norm, BatchNorm)]
        self._norms = norms
        self.scales: JointLinear | FusedLayer = JointLinear(
            [norm.scale for norm in norms] + [norm.offset for norm in norms]
        )

    def forward(self, condition: Tensor, truncation: float) -> Tensor:
        """Draw images, (B, 3, H, W) in [-1, 1], from u and class together, (B, 2 Z)."""
        maps = self.gen_z(condition) + self.gen_z.bias
        maps = maps.unflatten(1, (4, 4, self.first_width)).movedim(-1, 1)
        maps = maps.to(self.conv_to_rgb.dtype)
        missing_bias, at_attention, at_end = self._missing_biases()
        modulations = iter(self._modulations(condition, truncation, missing_bias, maps.dtype))
        for layer in self.layers:
            if isinstance(layer, Attention):
                maps = layer(maps, at_attention)
            else:
                maps = layer(maps, list(islice(modulations, 4)), checkpointed=self.checkpointed)
        known = self._statistics([self.bn], truncation)
        last = Modulation.of(self.bn.weight, self.bn.bias, *known, at_end)
        (last,) = last.split([len(at_end)], maps.dtype)
        colours = call(self._to_colours, maps, *last, checkpointed=self.checkpointed)
        bias = cast(Tensor, self.conv_to_rgb.bias)[:N_COLOURS]
        return torch.tanh(colours.float() + bias[:, None, None])

    def _to_colours(self, maps: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """Turn the last maps into colours before they are bounded, (B, 3, H, W)."""
        # Only three of its outputs are colours: to compute all is the costliest of all layers.
        maps = Modulation(gain, shift).apply(maps)
        return cast(Tensor, self.conv_to_rgb(maps, N_COLOURS))

    def _missing_biases(self) -> tuple[Tensor, Tensor, Tensor]:
        """Collect the biases to add: in blocks' normalisations, at attention, and at the end."""
        missing_bias: list[Any] = []
        around: Any = cast(Tensor, self.gen_z.bias).new_zeros(self.first_width)
        at_attention = around
        for layer in self.layers:
            if isinstance(layer, Attention):
                at_attention, around = around, torch.zeros_like(around)
            elif isinstance(layer, Block):
                missing_bias.append(around)
                missing_bias += [conv.bias for conv in (layer.conv_0, layer.conv_1, layer.conv_2)]
                around = around[: layer.after] + layer.conv_3.bias
        return torch.cat(missing_bias), at_attention, around

    def _modulations(
        self, condition: Tensor, truncation: float, missing_bias: Tensor, dtype: torch.dtype
    ) -> list[Modulation]:
        """Compute the modulations of all normalisations in blocks, in full precision."""
        gain, offset = self.scales(condition).chunk(2, dim=1)
        known = self._statistics(self._norms, truncation)
        sizes = [norm.running_means.shape[1] for norm in self._norms]
        return Modulation.of(1 + gain, offset, *known, missing_bias).split(sizes, dtype)

    def _statistics(self, norms: list[BatchNorm], truncation: float) -> tuple[Tensor, Tensor]:
        """Return means and variances of all channels of some normalisations, (channels,)."""
        means = torch.cat([norm.running_means for norm in norms], dim=1)
        variances = torch.cat([norm.running_vars for norm in norms], dim=1)
        return (
            interpolate_statistics(means, truncation, swapped=self.swapped),
            interpolate_statistics(variances, truncation, swapped=self.swapped),
        )

    def fuse(self, dtype: torch.dtype) -> None:
        """Replace all layers by plain ones; convolutions have the dtype of the maps."""
        self.scales = FusedLayer(self.scales.weights())
        for norm in self._norms:
            del norm.scale, norm.offset
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, SpectralLayer):
                    kind = dtype if child.weight_orig.ndim == 4 else torch.float32
                    n_outputs = N_COLOURS if name == "conv_to_rgb" else None
                    setattr(module, name, child.fused(kind, n_outputs))


class BigGAN(nn.Module):
    """A generator of images of a class.

    Attributes:
        config: What fixes the shape of the weights.
    """

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Linear(config.n_classes, config.noise_size, bias=False)
        self.generator = Generator(config)

    def forward(self, noise: Tensor, classes: Tensor, truncation: float = 1.0) -> Tensor:
        """Draw images.

        Args:
            noise: u, (B, Z), from `truncated_noise`.
            classes: Labels, (B,) int64, or shares of several classes, (B, C) in [0, 1].
            truncation: Of the noise, in [0, 1]; decides which statistics normalise.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        if not classes.is_floating_point():
            classes = one_hot(classes, self.config.n_classes).to(noise.dtype)
        condition = torch.cat([noise, self.embeddings(classes)], dim=1)
        return (self.generator(condition, truncation) + 1) / 2  # type: ignore[no-any-return]

    def fused(self, dtype: torch.dtype = torch.float32) -> BigGAN:
        """Return a frozen network that draws the same images from plain layers.

        Args:
            dtype: Of convolutions and maps; what depends on noise and class alone stays in float32.

        Returns:
            A copy, or this network if it is fused into `dtype` already.

        Raises:
            ValueError: If this one is fused into another type.
        """
        if isinstance(self.generator.conv_to_rgb, FusedLayer):
            if self.generator.conv_to_rgb.dtype != dtype:
                raise ValueError(f"it is fused into {self.generator.conv_to_rgb.dtype} already")
            return self
        frozen = copy.deepcopy(self).requires_grad_(False).eval()
        frozen.generator.fuse(dtype)
        return frozen.to(memory_format=torch.channels_last)


def frozen_sigma(networks: Iterable[BigGAN], dtype: torch.dtype) -> FrozenSigma:
    """Allocate the normalised weights of networks, none of them fused; `dtype` is that of maps."""
    networks = list(networks)
    joints = [network.generator.scales for network in networks]
    layers = [layer for network in networks for layer in spectral_layers(network)]
    return FrozenSigma(layers, [joint for joint in joints if isinstance(joint, JointLinear)], dtype)


def _convolution(before: int, after: int, size: int, *, bias: bool = True) -> SpectralLayer:
    """Make a normalised convolution that keeps height and width."""
    return SpectralLayer(nn.Conv2d(before, after, size, padding=size // 2, bias=bias))
