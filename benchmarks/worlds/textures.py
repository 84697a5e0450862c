"""Procedural textures: animal coats, landscapes, and the surfaces of OpenMoji-9.

Every texture is a pattern in [0, 1] looked up in a palette. Patterns are periodic and
stationary, so any crop shows the class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.special import ndtr
from torch import Tensor

Array = NDArray[np.float64]
Pattern = Callable[[np.random.Generator, int, float], Array]
"""From a generator, the size in pixels and a magnification to an (S, S) pattern in [0, 1]."""

WILDLIFE_SIZE_PX = 150
ATLAS_SIZE_PX = 128
N_VARIANTS = 4
MAGNIFICATIONS = (0.8, 0.95, 1.1, 1.3)  # one for each variant of an atlas
# Mist over the backgrounds of OpenMoji-9: its share, and how bright it is. Bright, saturated
# backgrounds would be the only cue that a plain classifier learns; on ImageNet it is texture.
HAZE, MIST = 0.35, 0.62
GRAIN = 0.025  # standard deviation of the fine noise on every texture, as a share of full range


@dataclass(frozen=True)
class Texture:
    """A pattern and its colours.

    Attributes:
        pattern: Makes values in [0, 1].
        palette: Positions in [0, 1] and their colours as RGB hex; linear in between.
        haze: Share of grey mist in front of it, in [0, 1]: it mutes the colours.
    """

    pattern: Pattern
    palette: str
    haze: float = 0.0

    def draw(self, rng: np.random.Generator, size_px: int, magnification: float = 1.0) -> Tensor:
        """Draw the texture once, (3, S, S) uint8; the same state gives the same bytes."""
        values = self.pattern(rng, size_px, magnification)
        stops = [stop.split() for stop in self.palette.split(",")]
        positions = [float(position) for position, _ in stops]
        colours = np.array([list(bytes.fromhex(colour)) for _, colour in stops]) / 255
        image = np.stack([np.interp(values, positions, channel) for channel in colours.T])
        image = (1 - self.haze) * image + self.haze * MIST
        image = image + GRAIN * gaussian_noise(rng, size_px, 2.5)
        return torch.from_numpy((np.clip(image, 0, 1) * 255).round().astype(np.uint8))


def gaussian_noise(
    rng: np.random.Generator,
    size_px: int,
    wavelength_px: float,
    *,
    stretch: float = 1.0,
    angle_degrees: float = 0.0,
    bandwidth: float = 0.45,
) -> Array:
    """Draw periodic noise with mean 0 and variance 1 around one wavelength.

    Args:
        rng: Decides the noise.
        size_px: Height and width.
        wavelength_px: Where the spectrum peaks, across the grain.
        stretch: How many times longer features are along the grain than across it.
        angle_degrees: Direction of the grain, from horizontal.
        bandwidth: Width of the spectrum in units of the natural logarithm of frequency.

    Returns:
        Noise, (S, S).

    Example:
        >>> noise = gaussian_noise(np.random.default_rng(0), 64, 8)
        >>> noise.shape, bool(abs(noise.mean()) < 1e-9), round(float(noise.std()), 6)
        ((64, 64), True, 1.0)
    """
    frequency = np.fft.fftfreq(size_px)
    vertical, horizontal = frequency[:, None], frequency[None, :]
    angle = np.deg2rad(angle_degrees)
    along = horizontal * np.cos(angle) + vertical * np.sin(angle)
    across = vertical * np.cos(angle) - horizontal * np.sin(angle)
    radius = np.hypot(along * stretch, across) * wavelength_px
    radius[0, 0] = np.inf  # no constant part: the mean is 0
    gain = np.exp(-0.5 * (np.log(np.maximum(radius, 1e-12)) / bandwidth) ** 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size_px, size_px))) * gain).real
    return np.asarray(noise / noise.std())


def grain(
    wavelength: float, stretch: float = 1.0, angle: float = 0.0, width: float = 0.45
) -> Pattern:
    """Blotches, or with a stretch fur and stripes: noise made uniform on [0, 1]."""

    def pattern(rng: np.random.Generator, size: int, magnification: float) -> Array:
        noise = gaussian_noise(
            rng,
            size,
            wavelength * magnification,
            stretch=stretch,
            angle_degrees=angle,
            bandwidth=width,
        )
        return np.asarray(ndtr(noise))

    return pattern


def veins(wavelength: float, stretch: float = 1.0, angle: float = 0.0) -> Pattern:
    """Thin curves, 0 on the curve and 1 far from it: where the noise changes its sign."""
    blotches = grain(wavelength, stretch, angle)
    return lambda rng, size, magnification: np.abs(2 * blotches(rng, size, magnification) - 1)


def layered(coarse: Pattern, fine: Pattern, share: float) -> Pattern:
    """Lay a fine pattern over a coarse one; `share` is that of the fine one."""

    def pattern(rng: np.random.Generator, size: int, magnification: float) -> Array:
        base, detail = (make(rng, size, magnification) for make in (coarse, fine))
        return (1 - share) * base + share * detail

    return pattern


def _cell_distances(
    rng: np.random.Generator, size: int, spacing: float, jitter: float
) -> tuple[Array, Array]:
    """Distances of every pixel to the nearest and second nearest of jittered lattice points."""
    n_side = max(2, round(size / spacing))
    lattice = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2)
    offset = np.stack([0.5 * (lattice[:, 1] % 2), np.zeros(len(lattice))], axis=-1)
    shaken = lattice + offset + jitter * rng.uniform(-0.5, 0.5, lattice.shape)
    points = (shaken * (size / n_side)) % size
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1) + 0.5
    tree = KDTree(points, boxsize=np.full(2, float(size)))
    nearest, second = np.moveaxis(np.asarray(tree.query(pixels % size, k=2)[0]), -1, 0)
    return nearest, second


def spots(spacing: float, jitter: float = 0.8) -> Pattern:
    """Round spots: 0 at their centres, 1 half a spacing away."""

    def pattern(rng: np.random.Generator, size: int, magnification: float) -> Array:
        spacing_px = spacing * magnification
        nearest, _ = _cell_distances(rng, size, spacing_px, jitter)
        return np.clip(nearest / (0.6 * spacing_px), 0, 1)

    return pattern


def cells(spacing: float, jitter: float = 0.9) -> Pattern:
    """Polygons: 0 on the seams between cells, 1 inside."""

    def pattern(rng: np.random.Generator, size: int, magnification: float) -> Array:
        spacing_px = spacing * magnification
        nearest, second = _cell_distances(rng, size, spacing_px, jitter)
        return np.clip((second - nearest) / (0.6 * spacing_px), 0, 1)

    return pattern


def weave(spacing: float) -> Pattern:
    """Checks of a cloth: two crossing waves with a whole number of periods."""

    def pattern(rng: np.random.Generator, size: int, magnification: float) -> Array:
        periods = round(size / (spacing * magnification))
        phase = 2 * np.pi * (np.arange(size) * periods / size + rng.uniform())
        return np.asarray(0.5 + 0.25 * (np.sin(phase)[:, None] + np.sin(phase)[None, :]))

    return pattern


COATS = {
    "zebra": Texture(grain(16, 3, 70), "0 f4efe4,.46 ece4d6,.54 221d1a,1 14110f"),
    "leopard": Texture(spots(17), "0 c08a48,.28 a8743a,.36 241a12,.58 2e2016,.66 d9a862,1 e6bd7c"),
    "giraffe": Texture(cells(26), "0 f0dfb4,.2 ead6a6,.3 9a5a26,1 7c4218"),
    "tiger": Texture(grain(15, 4, 10), "0 f2ddb8,.2 e89a3c,.58 d9761e,.66 1d1410,1 120c09"),
    "cow": Texture(grain(42), "0 fbf8f2,.53 f3efe8,.56 2a211d,1 1b1512"),
    "ladybird": Texture(spots(26, 0.5), "0 120c0c,.42 1a1010,.5 c8201c,1 e03a28"),
    "bear": Texture(grain(6, 5, 80), "0 2c1a10,.5 5c3a22,1 94683e"),
    "snake": Texture(cells(11, 0.2), "0 20301a,.25 34502a,.4 7c9a3c,1 b4c25c"),
    "parrot": Texture(grain(13, 3, 50), "0 1c6a30,.3 2fa048,.5 e8c82c,.7 d8402c,1 2858b8"),
    "elephant": Texture(veins(14, 1.5, 0), "0 3c3a3a,.2 6c6868,.5 8e8a88,1 a8a4a0"),
}

LANDSCAPES = {
    "sky": Texture(grain(48, 1.8, width=0.7), "0 3f84cc,.45 6ba6e0,.65 e4eef8,1 ffffff"),
    "dunes": Texture(grain(24, 5, 15), "0 a8743c,.5 d8a860,1 f4d9a0"),
    "meadow": Texture(grain(6, 4, 88), "0 2c6420,.5 5c9a34,.93 98c850,.96 f0e048,1 f8f0a0"),
    "forest": Texture(layered(grain(28), grain(6), 0.4), "0 0c2010,.4 1c4420,.7 38702c,1 6c9440"),
    "sea": Texture(grain(13, 4, 3), "0 0c3458,.5 1c6090,.8 4898bc,.9 d8ecf4,1 ffffff"),
    "snow": Texture(grain(30, 2, 160), "0 b4c4dc,.5 e0e8f2,1 ffffff"),
    "lava": Texture(veins(26), "0 ffe070,.1 f88c1c,.22 a82410,.35 2c1614,1 1c1210"),
    "dusk": Texture(grain(34, 6, 0, 0.6), "0 3c1c40,.35 98384c,.65 e8783c,1 f8c868"),
    "rock": Texture(layered(cells(20), grain(7), 0.5), "0 38342f,.4 77706a,1 b4aca4"),
    "autumn": Texture(layered(spots(12), grain(9), 0.5), "0 601c10,.4 b84818,.6 d8882c,1 e8c850"),
}

OBJECT_TEXTURES = {  # what the objects of OpenMoji-9 are made of
    "dog": Texture(grain(7, 4, 60), "0 6c4420,.5 b47c40,1 e8c488"),
    "bird": Texture(grain(8, 2.5, 20), "0 102c78,.4 2058b8,.7 4c90e8,1 f0a840"),
    "wheeled vehicle": Texture(weave(9), "0 3c0408,.3 8c1018,.6 d02028,.8 ec5830,1 f8a050"),
    "reptile": Texture(cells(9, 0.3), "0 1c3014,.25 2c5020,.45 6c9c38,1 acc860"),
    "carnivore": Texture(grain(12, 3.5, 80), "0 f0d8ac,.25 e0943c,.55 cc7420,.63 241812,1 140e0a"),
    "insect": Texture(spots(12, 0.6), "0 181410,.45 241c10,.55 d0a818,1 f0d848"),
    "musical instrument": Texture(grain(9, 9, 5, 0.6), "0 401c0c,.4 803c18,.7 b0682c,1 d89850"),
    "primate": Texture(grain(5, 3, 110), "0 140c14,.5 382030,.85 583850,1 7c5070"),
    "fish": Texture(cells(10, 0.1), "0 581030,.3 b02868,.6 e05890,1 f8b0cc"),
}

BACKGROUND_TEXTURES = {  # what lies behind the objects of OpenMoji-9
    "dog": Texture(grain(6, 4, 95), "0 2c5c1c,.5 549430,1 98c858"),
    "bird": Texture(grain(30, 1.5, width=0.7), "0 4888cc,.5 78b0e4,.7 e0ecf6,1 ffffff"),
    "wheeled vehicle": Texture(
        layered(veins(30), grain(4), 0.5), "0 2c2c30,.3 55555a,.6 74747a,1 a0a0a4"
    ),
    "reptile": Texture(cells(20, 1.0), "0 5c4428,.15 8c6c40,.4 c8a468,1 e0c48c"),
    "carnivore": Texture(grain(10, 6, 100), "0 806018,.5 c8a03c,.85 e8cc74,1 f8e8b0"),
    "insect": Texture(
        layered(spots(18), grain(8), 0.3), "0 e858a8,.25 d83888,.4 3c7c34,.7 285c28,1 68a048"
    ),
    "musical instrument": Texture(weave(16), "0 381430,.4 782c54,.6 a84868,1 e8b890"),
    "primate": Texture(
        layered(grain(24), grain(7, 2, 45), 0.5), "0 08180c,.4 143818,.65 2c6424,1 5c9830"
    ),
    "fish": Texture(grain(14, 3, 0), "0 083c5c,.5 106c8c,.85 38a4b0,1 b0e4e0"),
}


@cache
def coats() -> Tensor:
    """Draw the ten animal coats of wildlife MNIST, (10, 3, 150, 150) uint8; deterministic.

    Example:
        >>> coats().shape
        torch.Size([10, 3, 150, 150])
    """
    rng = np.random.default_rng(1)
    return torch.stack([coat.draw(rng, WILDLIFE_SIZE_PX) for coat in COATS.values()])


@cache
def landscapes() -> Tensor:
    """Draw the ten landscapes of wildlife MNIST, (10, 3, 150, 150) uint8; deterministic."""
    rng = np.random.default_rng(2)
    return torch.stack([land.draw(rng, WILDLIFE_SIZE_PX) for land in LANDSCAPES.values()])


def _atlas(textures: dict[str, Texture], seed: int, haze: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    drawn = [
        torch.stack([texture.draw(rng, ATLAS_SIZE_PX, size) for size in MAGNIFICATIONS])
        for texture in (replace(texture, haze=haze) for texture in textures.values())
    ]
    return torch.stack(drawn)


@cache
def object_textures() -> Tensor:
    """Draw the object textures of OpenMoji-9: class, variant, (9, 4, 3, 128, 128) uint8."""
    return _atlas(OBJECT_TEXTURES, seed=3)


@cache
def background_textures() -> Tensor:
    """Draw the background textures of OpenMoji-9: class, variant, (9, 4, 3, 128, 128) uint8."""
    return _atlas(BACKGROUND_TEXTURES, seed=4, haze=HAZE)
