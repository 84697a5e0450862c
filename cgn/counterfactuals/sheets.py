"""Pictures of what a CGN draws, in PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from cgn.counterfactuals.sampling import choose_classes
from cgn.data.factors import Factors
from cgn.data.image_set import to_bytes
from cgn.data.shards import SetConfig
from cgn.io.writing import written
from cgn.models.cgn import CGN, compose
from cgn.models.imagenet.cgn import ImageNetCGN, truncated_noise

# Rows of the sheet: the authors' choice.
SHEET_CLASSES = (15, 251, 330, 382, 385, 483, 559, 751, 938, 947, 999)


def write_png(image: Tensor, path: Path) -> None:
    """Write one image, (3, H, W) in [0, 1], to a PNG file."""
    with written(path) as place:
        Image.fromarray(to_bytes(image).movedim(0, -1).numpy()).save(place, "png")


def _grid(images: Tensor, n_columns: int, padding: int = 2) -> Tensor:
    """Lay images, (N, 3, H, W), side by side in one, (3, H', W')."""
    from torchvision.utils import make_grid  # seconds to import

    grid: Tensor = make_grid(images.cpu(), nrow=n_columns, padding=padding, pad_value=1.0)
    return grid


@torch.inference_mode()
def sheet(
    cgn: CGN | ImageNetCGN,
    path: Path,
    *,
    seed: int = 0,
    n_per_class: int = 4,
    classes: Sequence[int] | None = None,
) -> None:
    """Write a picture of what each mechanism draws.

    One row a class; from left to right blocks of `n_per_class` masks, foregrounds, backgrounds,
    images with all labels equal, and counterfactuals: the row's shape, anything else. `classes`
    are those that get a row; None for all.
    """
    generator = torch.Generator().manual_seed(seed)
    n_classes, device = cgn.config.n_classes, next(cgn.parameters()).device
    rows = torch.arange(n_classes) if classes is None else torch.tensor(classes)
    labels = rows.repeat_interleave(n_per_class)
    parts = cgn(Factors.aligned(labels.to(device)), generator)
    free = Factors.independent(len(labels), n_classes, generator)._replace(shape=labels)
    blocks = (
        parts.mask.expand(-1, 3, -1, -1),
        parts.foreground,
        parts.background,
        parts.image(),
        cgn(free.map(lambda label: label.to(device)), generator).image(),
    )
    write_png(torch.cat([_grid(block, n_per_class, padding=1) for block in blocks], dim=2), path)


def training_sheets(folder: Path) -> Callable[[ImageNetCGN, int], None]:
    """Return what draws a sheet of the CGN at each checkpoint, named by the step."""

    def draw(cgn: ImageNetCGN, step: int) -> None:
        sheet(cgn, folder / f"step{step:05}.png", n_per_class=1, classes=SHEET_CLASSES)

    return draw


@torch.inference_mode()
def combinations(
    cgn: ImageNetCGN, classes: Factors, path: Path, *, seed: int = 0, truncation: float = 0.5
) -> None:
    """Write a picture of every combination of some shapes, textures and backgrounds.

    A block for each background; in it a row for each shape and a column for each texture. Each
    mechanism draws each of its classes once, all with the same noise.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = truncated_noise(1, cgn.config.noise_size, generator, truncation)

    def draw_each(draw: Callable[[Tensor, Tensor, float], Tensor], labels: Tensor) -> Tensor:
        device = next(cgn.parameters()).device
        drawn = [draw(noise.to(device), label[None].to(device), truncation) for label in labels]
        return torch.cat(drawn).cpu()

    masks = draw_each(cgn.mask, classes.shape)
    foregrounds = draw_each(cgn.texture, classes.texture)
    backgrounds = draw_each(cgn.background, classes.background)
    blocks = [
        _grid(compose(masks[:, None], foregrounds, background).flatten(0, 1), len(foregrounds))
        for background in backgrounds
    ]
    write_png(torch.cat(blocks, dim=2), path)


@torch.inference_mode()
def interpolation(
    cgn: ImageNetCGN,
    classes: Factors,
    factor: str,
    end: int,
    *,
    n: int = 8,
    seed: int = 0,
    truncation: float = 0.5,
) -> Tensor:
    """Let one factor, or "all", pass from a class to another, all else held fixed.

    Args:
        cgn: What draws.
        classes: The labels to begin with, each (1,) int64.
        factor: shape, texture, background or all.
        end: The label to end with.
        n: Images, the first and the last included.
        seed: Fixes the noise, which all share.
        truncation: Of the noise.

    Returns:
        (n, 3, H, W) in [0, 1].

    Raises:
        ValueError: If there is no such factor or class.

    Source:
        As in the authors' code, linear in the class vectors.
    """
    n_classes = cgn.config.n_classes
    if factor not in (*Factors._fields, "all") or not 0 <= end < n_classes:
        raise ValueError(
            f"a factor is {', '.join(Factors._fields)} or all, and a class is below {n_classes}; "
            f"got {factor!r} and {end}"
        )
    device = next(cgn.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    noise = truncated_noise(1, cgn.config.noise_size, generator, truncation).to(device)
    begin = classes.map(lambda label: one_hot(label, n_classes).float().to(device))
    goal = one_hot(torch.tensor([end]), n_classes).float().to(device)
    moving = Factors._fields if factor == "all" else (factor,)
    images = []
    for share in torch.linspace(0, 1, n).tolist():
        moved = {name: getattr(begin, name).lerp(goal, share) for name in moving}
        images.append(cgn.draw(noise, begin._replace(**moved), truncation).image().cpu())
    return torch.cat(images)


def some_classes(how: str, n: int, n_classes: int, seed: int) -> Factors:
    """Choose classes for a picture: `n` shapes, `n` textures, half as many backgrounds.

    `how` is as for `choose_classes`; of three labels there is one each.
    """
    chosen = choose_classes(how, n, n_classes, torch.Generator().manual_seed(seed))
    n = n if how in ("random", "best") else 1
    return Factors(chosen.shape[:n], chosen.texture[:n], chosen.background[: max(1, n // 2)])


def draw_picture(
    cgn: ImageNetCGN,
    config: SetConfig,
    path: Path,
    *,
    combine: int | None = None,
    interpolate: str | None = None,
    to: int | None = None,
) -> None:
    """Write a PNG file of combinations, or of the way from one class to another.

    Args:
        cgn: What draws.
        config: Classes, truncation and seed.
        path: The file.
        combine: How many shapes and textures to combine; None draws the way instead.
        interpolate: The factor that passes to another class, or "all".
        to: The class that it ends with.

    Raises:
        ValueError: If there is neither, or no such factor or class.
    """
    seed, truncation, n_classes = config.seed, config.truncation, cgn.config.n_classes
    if combine:
        classes = some_classes(config.classes, combine, n_classes, seed)
        combinations(cgn, classes, path, seed=seed, truncation=truncation)
        return
    if interpolate is None or to is None:
        raise ValueError("interpolate needs a factor and to, the class that it ends with")
    begin = some_classes(config.classes, 1, n_classes, seed)
    images = interpolation(cgn, begin, interpolate, to, seed=seed, truncation=truncation)
    write_png(torch.cat(list(images), dim=2), path)
