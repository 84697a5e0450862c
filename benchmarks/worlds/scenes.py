"""Scenes of OpenMoji-9: a textured glyph on a textured background, rendered with exact masks.

All arithmetic is in float64 before it is rounded to bytes, so that a set has the same bytes on
every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.worlds.glyphs import RADIUS_PX, TILE_SIZE_PX, glyph_labels, glyph_tiles
from benchmarks.worlds.painting import affine_maps, lay_tiles
from benchmarks.worlds.textures import (
    ATLAS_SIZE_PX,
    N_VARIANTS,
    background_textures,
    object_textures,
)
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.models.cgn import compose

IMAGE_SIZE_PX = 64
CHUNK = 64  # images rendered at once: more only costs memory

# Largest relative change of a colour channel. Light changes a landscape more than a coat: the
# colour of an object tells its class, that of a background hardly does.
OBJECT_COLOUR = 0.15
BACKGROUND_COLOUR = 0.18


@dataclass(frozen=True, kw_only=True)
class PoseRange:
    """How far the objects of a set differ in pose.

    Attributes:
        diameter_px: Smallest and largest diameter of the object.
        rotation_degrees: Largest rotation, either way.
    """

    diameter_px: tuple[float, float] = (52.0, 61.0)
    rotation_degrees: float = 15.0


USUAL_POSES = PoseRange()


class TextureCrops(NamedTuple):
    """Crops of a texture atlas, each field (N, ...)."""

    label: Tensor  # class, (N,) int64
    variant: Tensor  # (N,) int64
    corner: Tensor  # (N, 2) int64, in pixels
    gain: Tensor  # (N, 3) float64, of the three colour channels


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything N images are made of: the same scene gives the same bytes.

    Attributes:
        glyph: Index into `GLYPHS`, (N,) int64.
        pose: Affine map from image to glyph, (N, 2, 3) float64, as in `torch.affine_grid`.
        object_texture: Crops for the objects.
        background_texture: Crops for the backgrounds.
    """

    glyph: Tensor
    pose: Tensor
    object_texture: TextureCrops
    background_texture: TextureCrops

    def __len__(self) -> int:
        return len(self.glyph)

    @property
    def factors(self) -> Factors:
        """Labels of the three factors."""
        labels = glyph_labels()[self.glyph]
        return Factors(labels, self.object_texture.label, self.background_texture.label)

    def chunks(self) -> Iterator[Scene]:
        """Cut the scene into parts of `CHUNK` images."""
        for start in range(0, len(self), CHUNK):
            index = slice(start, start + CHUNK)
            yield Scene(
                glyph=self.glyph[index],
                pose=self.pose[index],
                object_texture=TextureCrops(*(field[index] for field in self.object_texture)),
                background_texture=TextureCrops(
                    *(field[index] for field in self.background_texture)
                ),
            )


class Layers(NamedTuple):
    """The exact parts of rendered images, float64.

    Attributes:
        mask: m, (B, 1, H, W) in [0, 1]: partly covered pixels lie in between.
        foreground: f, (B, 3, H, W) in [0, 1].
        background: b, (B, 3, H, W) in [0, 1].
        ink: Lines of the glyph, (B, 1, H, W) in [0, 1], for sketches.
    """

    mask: Tensor
    foreground: Tensor
    background: Tensor
    ink: Tensor


Compositor = Callable[[Layers], Tensor]
"""Joins layers to images (B, 3, H, W) in [0, 1]."""


def object_on_background(layers: Layers) -> Tensor:
    """Compose the three parts as a CGN does."""
    return compose(layers.mask, layers.foreground, layers.background)


class RenderStyle(NamedTuple):
    """How the layers of a scene become images, and the labels of what is visible in them."""

    compositor: Compositor
    factors: Factors


def draw_object_texture(labels: Tensor, rng: np.random.Generator) -> TextureCrops:
    """Draw a random crop and colour for the object of each label, (N,) int64."""
    return _draw_crops(labels, rng, OBJECT_COLOUR)


def draw_background_texture(labels: Tensor, rng: np.random.Generator) -> TextureCrops:
    """Draw a random crop and colour for the background of each label, (N,) int64."""
    return _draw_crops(labels, rng, BACKGROUND_COLOUR)


def _draw_crops(labels: Tensor, rng: np.random.Generator, colour: float) -> TextureCrops:
    n = len(labels)
    gain = 1 + colour * rng.uniform(-1, 1, (n, 3))
    return TextureCrops(
        labels,
        torch.from_numpy(rng.integers(N_VARIANTS, size=n)),
        torch.from_numpy(rng.integers(ATLAS_SIZE_PX, size=(n, 2))),
        torch.from_numpy(gain),
    )


def draw_pose(n: int, rng: np.random.Generator, poses: PoseRange = USUAL_POSES) -> Tensor:
    """Draw size, rotation, flip and place of `n` objects, all wholly inside the image.

    Returns:
        Affine maps from image to glyph, (N, 2, 3) float64.
    """
    diameter = rng.uniform(*poses.diameter_px, n)
    angle = np.deg2rad(poses.rotation_degrees) * rng.uniform(-1, 1, n)
    flip = rng.choice([-1.0, 1.0], n)
    # In units of half an image, as `affine_grid` counts. One pixel of the border stays free.
    reach = np.maximum(IMAGE_SIZE_PX - 2 - diameter, 0) / IMAGE_SIZE_PX
    shift = reach[:, None] * rng.uniform(-1, 1, (n, 2))
    shrink = 2 * RADIUS_PX / diameter * (IMAGE_SIZE_PX / TILE_SIZE_PX)
    return affine_maps(shrink, angle, flip, shift)


def draw_scene(
    glyphs: Tensor,
    textures: Tensor,
    backgrounds: Tensor,
    rng: np.random.Generator,
    poses: PoseRange = USUAL_POSES,
) -> Scene:
    """Draw poses, crops and colours.

    Args:
        glyphs: Indices into `GLYPHS`, (N,) int64.
        textures: Classes of the objects' textures, (N,) int64.
        backgrounds: Classes of the backgrounds, (N,) int64.
        rng: Decides poses, crops and colours.
        poses: How far the poses spread.
    """
    return Scene(
        glyph=glyphs,
        pose=draw_pose(len(glyphs), rng, poses),
        object_texture=draw_object_texture(textures, rng),
        background_texture=draw_background_texture(backgrounds, rng),
    )


def render(
    scene: Scene,
    ids: Tensor,
    *,
    compositor: Compositor = object_on_background,
    factors: Factors | None = None,
) -> ImageSet:
    """Turn a scene into images with exact masks.

    Args:
        scene: What to draw.
        ids: What the images were made from, (N,) int64.
        compositor: Joins the layers.
        factors: Labels, if the compositor changes what is visible; else those of the scene.

    Example:
        >>> dog = draw_scene(*torch.zeros(3, 1, dtype=torch.int64), np.random.default_rng(0))
        >>> images = render(dog, torch.tensor([0]))
        >>> images.pixels.shape, images.factors.shape
        (torch.Size([1, 3, 64, 64]), tensor([0]))
    """
    style = RenderStyle(compositor, factors or scene.factors)
    return render_each(scene, ids, {"images": style})["images"]


def render_each(
    scene: Scene, ids: Tensor, styles: Mapping[str, RenderStyle]
) -> dict[str, ImageSet]:
    """Turn a scene into one set for each style, by name, from the same layers."""
    pixels: dict[str, list[Tensor]] = {name: [] for name in styles}
    masks = []
    for chunk in scene.chunks():
        layers = _layers(chunk)
        masks.append(torch.where(layers.mask >= 0.5, 255, 0).to(torch.uint8))
        for name, style in styles.items():
            pixels[name].append(to_bytes(style.compositor(layers).clamp(0, 1)))
    mask = torch.cat(masks)
    return {
        name: ImageSet(torch.cat(pixels[name]), style.factors, ids, mask)
        for name, style in styles.items()
    }


def _layers(scene: Scene) -> Layers:
    """Render the parts of a chunk."""
    tiles = glyph_tiles()[scene.glyph]
    mask, shaded, ink = lay_tiles(tiles, scene.pose, IMAGE_SIZE_PX).split(1, dim=1)
    shading = shaded / mask.clamp_min(1e-9)
    surface = _crop(_windows(object_textures), scene.object_texture)
    background = _crop(_windows(background_textures), scene.background_texture)
    foreground = surface.mul_(shading.mul_(0.65).add_(0.35))  # lines dark, not black
    return Layers(mask, foreground, background, ink)


def _crop(windows: Tensor, crops: TextureCrops) -> Tensor:
    """Cut crops out of an atlas, (B, 3, H, W) float64 in [0, 1]."""
    top, left = crops.corner.unbind(1)
    images = windows[crops.label, crops.variant, :, top, left]
    return images.mul_(crops.gain[:, :, None, None]).clamp_(0, 1)


@cache
def _windows(textures: Callable[[], Tensor]) -> Tensor:
    """View a periodic atlas as all its crops, (C, variants, 3, S, S, H, W) float64."""
    atlas = textures()
    for axis in (-2, -1):
        atlas = torch.cat([atlas, atlas.narrow(axis, 0, IMAGE_SIZE_PX - 1)], dim=axis)
    unit = atlas.double() / 255
    return unit.unfold(-2, IMAGE_SIZE_PX, 1).unfold(-2, IMAGE_SIZE_PX, 1)
