"""BigGAN-deep: the class-conditional generator that the ImageNet mechanisms start from.

How three of them become a CGN is not here: see `cgn.imagenet`. Layers bear the names of the
published files, so that these load as they are.

Source:
    Brock, Donahue and Simonyan, Large Scale GAN Training for High Fidelity Natural Image
    Synthesis, ICLR 2019. https://arxiv.org/abs/1809.11096
    Miyato et al., Spectral Normalization for GANs, ICLR 2018. https://arxiv.org/abs/1802.05957
    Published weights: https://github.com/huggingface/pytorch-pretrained-BigGAN
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ParamSpec, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, linear, normalize, one_hot
from torch.utils.checkpoint import checkpoint

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
EPSILON = 1e-4
P = ParamSpec("P")
T = TypeVar("T")
# What a layer gives before it is multiplied by its scale and its biases are added, if any are left.
Undivided: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
REDUCTION = 4  # a block's inner maps have a quarter of the channels of its input
N_COLOURS = 3  # of the last layer's channels, the others belong to nothing


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
        """Size of the map at which places look at each other."""
        return min(64, self.resolution_px // 2)


class SpectralLayer(nn.Module):
    """A linear layer or convolution, its weights W divided by their largest singular value.

    That is s = u^T W v, with u and v kept close to the singular vectors. The outputs are divided
    by s, not the weights, which costs a tenth of the time where weights are many and images few.

    Attributes:
        weight_orig: W, (outputs, inputs, …).
        weight_u: u, (outputs,).
        weight_v: v, (all other numbers of W,).
        norm: s, a scalar, where `hold_norms` holds it; else None and computed where needed.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.weight_orig = layer.weight
        self.bias = layer.bias
        self.padding = 0 if isinstance(layer, nn.Linear) else int(layer.padding[0])
        n_outputs = layer.weight.shape[0]
        self.register_buffer("weight_u", normalize(torch.randn(n_outputs), dim=0))
        self.register_buffer("weight_v", torch.zeros(layer.weight[0].numel()))
        self.norm: Tensor | None = None
        for _ in range(5):
            self.iterate()

    def _matrix(self) -> tuple[Tensor, Tensor]:
        """Return W as a matrix and v in its order; a view where channels lie last in memory."""
        if self.weight_orig.ndim == 2:
            return self.weight_orig, self.weight_v
        ordered = self.weight_v.view(self.weight_orig.shape[1:]).movedim(0, -1).flatten()
        return self.weight_orig.movedim(1, -1).flatten(1), ordered

    @torch.no_grad()
    def iterate(self) -> Tensor:
        """Bring u and v closer to the singular vectors, by one power iteration; return s."""
        matrix, _ = self._matrix()
        ordered = normalize(matrix.mT @ self.weight_u, dim=0, eps=EPSILON)
        moved = matrix @ ordered
        self.weight_u.copy_(normalize(moved, dim=0, eps=EPSILON))
        if self.weight_orig.ndim == 4:
            n_inputs, *size = self.weight_orig.shape[1:]
            ordered = ordered.view(*size, n_inputs).movedim(-1, 0).flatten()
        self.weight_v.copy_(ordered)
        return self.weight_u @ moved

    def forward(self, inputs: Tensor, n_outputs: int | None = None) -> Tensor:
        """Apply the layer, or its first outputs only."""
        return divided(*self.undivided(inputs, n_outputs))

    def undivided(
        self, inputs: Tensor, n_outputs: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Apply W alone; return the outputs, and 1 / s and biases for whoever needs both."""
        weight, bias, scale = self.weight_orig, self.bias, 1 / self._largest()
        if n_outputs is not None:  # else its gradient would be written a second time
            weight, bias = weight[:n_outputs], None if bias is None else bias[:n_outputs]
        if weight.ndim == 2:
            outputs = linear(inputs, weight)
        else:
            # Last, for a checkpoint computes again no more than what is kept for the gradient.
            outputs = conv2d(inputs, weight, padding=self.padding)
        return outputs, scale, bias

    def _largest(self) -> Tensor:
        """Return s, with a gradient."""
        if self.norm is not None:
            return self.norm
        with full_precision(self.weight_u.device):
            matrix, ordered = self._matrix()
            return self.weight_u @ (matrix @ ordered)

    @torch.no_grad()
    def pass_on(self) -> None:
        """Add to the weights' gradient what goes through s, and hold it no longer.

        While s was held, it was a constant to the gradient G. But outputs are linear in W / s, so
        the loss's derivative by s is -<W, G> / s: it asks for none of the maps.
        """
        norm, self.norm = self.norm, None
        gradient = self.weight_orig.grad
        if norm is None or gradient is None:
            return
        matrix, ordered = self._matrix()  # u v^T is the derivative of s = u^T W v
        gradient = gradient if gradient.ndim == 2 else gradient.movedim(1, -1)
        by_norm = -torch.dot(matrix.flatten(), gradient.flatten()) / norm
        if gradient.is_contiguous():
            gradient.flatten(1).addr_(self.weight_u * by_norm, ordered)
        else:
            outer = torch.outer(self.weight_u * by_norm, ordered)
            gradient.add_(outer.view(gradient.shape))

    def folded(self, dtype: torch.dtype, n_outputs: int | None = None) -> nn.Linear | nn.Conv2d:
        """Return the plain layer that does the same."""
        weight = (self.weight_orig / self._largest())[:n_outputs].detach().to(dtype)
        n_outputs, n_inputs = weight.shape[:2]
        layer: nn.Linear | nn.Conv2d
        with torch.device("meta"):
            if weight.ndim == 2:
                layer = nn.Linear(n_inputs, n_outputs, bias=self.bias is not None)
            else:
                size, padding = weight.shape[2], self.padding
                layer = nn.Conv2d(n_inputs, n_outputs, size, 1, padding, bias=self.bias is not None)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            bias = self.bias[:n_outputs].detach().to(dtype)
            layer.bias = nn.Parameter(bias, requires_grad=False)
        return layer


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off inside the block, where there is any."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def map_dtype(device: torch.device) -> torch.dtype:
    """Name what convolutions give: what autocast uses, where it is on."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.get_default_dtype()


def hold_norms(module: nn.Module) -> None:
    """Iterate once, and compute each s once, for as long as the weights do not change."""
    for layer in spectral_layers(module):
        layer.norm = layer.iterate()


def release_norms(module: nn.Module) -> None:
    """Pass on the gradients of all s that were held."""
    for layer in spectral_layers(module):
        layer.pass_on()


def spectral_layers(module: nn.Module) -> list[SpectralLayer]:
    """Return all layers of a module that are normalised."""
    return [layer for layer in module.modules() if isinstance(layer, SpectralLayer)]


class BatchNorm(nn.Module):
    """Batch normalisation by statistics that are known for each truncation of the noise.

    Attributes:
        running_means: Of each channel at truncations 0, 0.02, …, 1, (51, channels).
        running_vars: The same of variances.
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, n_channels: int, condition_size: int | None, *, swapped: bool) -> None:
        super().__init__()
        self.register_buffer("running_means", torch.zeros(N_STATISTICS, n_channels))
        self.register_buffer("running_vars", torch.ones(N_STATISTICS, n_channels))
        self.swapped = swapped
        self.conditional = condition_size is not None
        if condition_size is None:
            self.weight = nn.Parameter(torch.ones(n_channels))
            self.bias = nn.Parameter(torch.zeros(n_channels))
        else:
            self.scale = SpectralLayer(nn.Linear(condition_size, n_channels, bias=False))
            self.offset = SpectralLayer(nn.Linear(condition_size, n_channels, bias=False))

    def forward(
        self,
        maps: Tensor,
        condition: Tensor,
        truncation: float,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Normalise and modulate maps, (B, channels, H, W), and set what is below 0 to 0.

        If the layer before has left its scale and biases undone, all is done at once.
        """
        # In full precision: it is cheap, and all of an image's pixels share its errors.
        with full_precision(maps.device):
            mean = interpolated(self.running_means, truncation, swapped=self.swapped)
            variance = interpolated(self.running_vars, truncation, swapped=self.swapped)
            if self.conditional:
                gain, offset = 1 + self.scale(condition), self.offset(condition)
            else:
                gain, offset = self.weight[None], self.bias[None]
            gain = gain * (variance + EPSILON).rsqrt()
            shift = offset + ((0 if bias is None else bias) - mean) * gain
            gain = gain if scale is None else gain * scale
        gain, shift = (each.to(maps.dtype)[:, :, None, None] for each in (gain, shift))
        return torch.relu_(torch.addcmul(shift, maps, gain))


def interpolated(statistics: Tensor, truncation: float, *, swapped: bool = False) -> Tensor:
    """Interpolate statistics linearly between the truncations they are known for.

    Args:
        statistics: At truncations 0, 0.02, …, 1, (51, channels).
        truncation: In [0, 1].
        swapped: Give each neighbour the weight of the other, as the published code does. Weights
            that were chosen by the images of that code may look better with it.

    Returns:
        (channels,).

    Raises:
        ValueError: If the truncation is not within [0, 1].

    Example:
        >>> statistics = torch.arange(51.0)[:, None]
        >>> interpolated(statistics, 0.5), interpolated(statistics, 0.505)
        (tensor([25.]), tensor([25.2500]))
        >>> interpolated(statistics, 0.505, swapped=True)
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


class Attention(nn.Module):
    """Lets every place look at all others, at a quarter of their resolution."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        inner, values = max(1, n_channels // 8), n_channels // 2
        self.snconv1x1_theta = _convolution(n_channels, inner, 1, bias=False)
        self.snconv1x1_phi = _convolution(n_channels, inner, 1, bias=False)
        self.snconv1x1_g = _convolution(n_channels, values, 1, bias=False)
        self.snconv1x1_o_conv = _convolution(values, n_channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor, condition: Tensor, truncation: float) -> Tensor:
        """Add to maps, (B, channels, H, W), what they see."""
        query = self.snconv1x1_theta(maps).flatten(2).mT
        key = nn.functional.max_pool2d(self.snconv1x1_phi(maps), 2).flatten(2).mT
        value = nn.functional.max_pool2d(self.snconv1x1_g(maps), 2).flatten(2).mT
        # On a CPU in a quarter of the time that `scaled_dot_product_attention` takes.
        seen = torch.bmm(torch.bmm(query, key.mT).softmax(dim=2), value)
        seen = self.snconv1x1_o_conv(seen.mT.unflatten(2, maps.shape[2:]))
        return torch.addcmul(maps, seen, self.gamma.to(seen.dtype))


class Block(nn.Module):
    """Four convolutions around which the maps go unchanged; it may double their size."""

    def __init__(
        self, before: int, after: int, condition_size: int, *, grows: bool, swapped: bool
    ) -> None:
        super().__init__()
        inner = before // REDUCTION
        self.grows, self.after = grows, after
        self.bn_0 = BatchNorm(before, condition_size, swapped=swapped)
        self.bn_1, self.bn_2, self.bn_3 = (
            BatchNorm(inner, condition_size, swapped=swapped) for _ in range(3)
        )
        self.conv_0 = _convolution(before, inner, 1)
        self.conv_1 = _convolution(inner, inner, 3)
        self.conv_2 = _convolution(inner, inner, 3)
        self.conv_3 = _convolution(inner, after, 1)

    def forward(self, maps: Tensor, condition: Tensor, truncation: float) -> Tensor:
        """Return maps, (B, after, H, W) or twice as high and wide."""
        around = maps[:, : self.after]
        around = interpolate(around, scale_factor=2) if self.grows else around
        inner: Undivided = maps, None, None
        for i in range(4):
            inner = sparing(self._convolved, i, condition, truncation, *inner)
        return divided(*inner).add_(around)

    def _convolved(
        self, i: int, condition: Tensor, truncation: float, *inner: *Undivided
    ) -> Undivided:
        """Normalise what a convolution left, and apply the next one."""
        maps, scale, bias = inner
        maps = self.get_submodule(f"bn_{i}")(maps, condition, truncation, scale, bias)
        if self.grows and i == 1:
            maps = interpolate(maps, scale_factor=2)
        return undivided(self.get_submodule(f"conv_{i}"), maps)


def sparing(normalise_and_convolve: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call it so that the normalised maps are computed again when gradients ask for them.

    They are cheap, and as large as those before them, which must be kept. The convolution is not
    computed again, for it comes last and nothing keeps its outputs.
    """
    if not torch.is_grad_enabled():
        return normalise_and_convolve(*args, **kwargs)
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return cast(T, again(normalise_and_convolve, *args, **kwargs))


def undivided(layer: nn.Module, inputs: Tensor, n_outputs: int | None = None) -> Undivided:
    """Apply a layer, but leave scale and biases to the next one, if it has not been folded."""
    if isinstance(layer, SpectralLayer):
        return layer.undivided(inputs, n_outputs)
    return layer(inputs), None, None


def divided(outputs: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Do what `undivided` left."""
    if scale is None:
        return outputs
    scale = scale.to(outputs.dtype)
    if bias is None:
        return outputs * scale
    bias = bias.to(outputs.dtype)
    return torch.addcmul(bias if outputs.ndim == 2 else bias[:, None, None], outputs, scale)


class Generator(nn.Module):
    """From noise and class to pixels: what the published files call `generator`."""

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        multipliers, condition_size = MULTIPLIERS[config.resolution_px], 2 * config.noise_size
        widths = [config.width * multiplier for multiplier in multipliers]
        self.first_width, self.resolution_px = widths[0], config.resolution_px
        self.gen_z = SpectralLayer(nn.Linear(condition_size, 4 * 4 * self.first_width))
        swapped = config.swapped_statistics
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            if 4 * 2**i == config.attention_px:
                layers.append(Attention(before))
            layers.append(Block(before, before, condition_size, grows=False, swapped=swapped))
            layers.append(Block(before, after, condition_size, grows=True, swapped=swapped))
        self.layers = nn.ModuleList(layers)
        self.bn = BatchNorm(config.width, None, swapped=swapped)
        self.conv_to_rgb = _convolution(config.width, config.width, 3)
        self.dtype: torch.dtype | None = None  # of the maps; None leaves it to autocast

    def forward(self, condition: Tensor, truncation: float) -> Tensor:
        """Draw images, (B, 3, H, W) in [-1, 1], from u and class together, (B, 2 Z)."""
        device = condition.device
        with full_precision(device):  # of a few images it costs less than rounding all its weights
            maps = self.gen_z(condition).unflatten(1, (4, 4, self.first_width)).movedim(-1, 1)
        maps = maps.to(self.dtype or map_dtype(device))
        for layer in self.layers:
            maps = layer(maps, condition, truncation)
        colours = divided(*sparing(self._colours, maps, condition, truncation))
        return torch.tanh(colours.float())

    def _colours(self, maps: Tensor, condition: Tensor, truncation: float) -> Undivided:
        """Turn the last maps into colours before they are bounded, (B, 3, H, W)."""
        # Only three of its outputs are colours: to compute all is the costliest of all layers.
        return undivided(self.conv_to_rgb, self.bn(maps, condition, truncation), N_COLOURS)


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
            noise: u, (B, Z), a normal distribution cut at 2 and multiplied by the truncation.
            classes: Labels, (B,) int64, or shares of several classes, (B, C) in [0, 1].
            truncation: In [0, 1]; statistics that noise of this truncation has are taken.

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        if not classes.is_floating_point():
            classes = one_hot(classes, self.config.n_classes).to(noise.dtype)
        with full_precision(noise.device):
            condition = torch.cat([noise, self.embeddings(classes)], dim=1)
        return (self.generator(condition, truncation) + 1) / 2  # type: ignore[no-any-return]

    def folded(self, dtype: torch.dtype = torch.float32) -> BigGAN:
        """Return a frozen network that draws the same images from plain layers.

        Args:
            dtype: Of the convolutions' weights and of the maps; all that depends on noise and
                class alone stays in full precision.

        Returns:
            A network of its own, unless this one already is what is wanted.

        Raises:
            ValueError: If this one was folded into another type.
        """
        if self.generator.dtype == dtype:
            return self
        if self.generator.dtype is not None:
            raise ValueError(f"it is folded into {self.generator.dtype} already")
        frozen = copy.deepcopy(self).requires_grad_(False).eval()
        for module in list(frozen.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, SpectralLayer):
                    n_outputs = N_COLOURS if name == "conv_to_rgb" else None
                    kind = dtype if child.weight_orig.ndim == 4 else torch.float32
                    setattr(module, name, child.folded(kind, n_outputs))
        frozen.generator.dtype = dtype
        return frozen.to(memory_format=torch.channels_last)


def _convolution(before: int, after: int, size: int, *, bias: bool = True) -> SpectralLayer:
    """Make a normalised convolution that keeps height and width."""
    return SpectralLayer(nn.Conv2d(before, after, size, padding=size // 2, bias=bias))
