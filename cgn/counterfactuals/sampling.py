"""From a CGN to counterfactual images: sets for training, sheets for looking.

How the weights come about is not here: see `cgn.training.small`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.device.memory import images_at_once, in_batches
from cgn.device.precision import evaluating
from cgn.device.transfer import Mailbox, sent
from cgn.io.schema import checked
from cgn.io.weights import load_tensors
from cgn.io.writing import written
from cgn.models.cgn import CGN, MechanismOutputs, Noise, compose
from cgn.models.imagenet.cgn import ImageNetCGN, truncated_noise

BLOCK = 100  # images whose noise is drawn together: with the seed it decides what they are
SHIPPED = Path(str(resources.files("cgn") / "weights"))


@torch.inference_mode()
def sample(
    cgn: CGN | ImageNetCGN,
    n: int,
    *,
    seed: int,
    aligned: bool = False,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Draw images whose three labels are independent and uniform.

    Differs: the original permutes the labels of a batch, so that about one in ten
    counterfactuals keeps its own texture.

    Args:
        cgn: Its mechanisms draw the images.
        n: Number of images.
        seed: Fixes labels, noise and origins; the same images come on every device and in batches
            of any size, but for rounding.
        aligned: Give the three mechanisms the same label instead, as in the training data.
        batch_size: Images drawn at once; None takes as many as suit the device.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The images, with the masks they were composed with.
    """
    generator = torch.Generator().manual_seed(seed)
    n_classes = cgn.config.n_classes
    factors = Factors.independent(n, n_classes, generator)
    if aligned:
        factors = Factors.aligned(factors.shape)
    size = cgn.config.image_size_px
    pixels = torch.empty(n, 3, size, size, dtype=torch.uint8)
    masks = torch.empty(n, 1, size, size, dtype=torch.uint8)
    drawn, shown = Mailbox(pixels), Mailbox(masks)
    cgn = cgn.to(device).eval()
    parts_of = _drawing(cgn, n, generator, device)
    labels = factors.map(lambda own: sent(own, device))

    def draw(span: slice) -> None:
        parts = parts_of(span, labels.map(lambda own: own[span]))
        drawn.put(span, to_bytes(parts.image()))
        shown.put(span, to_bytes(parts.mask))

    with evaluating(device):
        in_batches(n, batch_size or images_at_once(device, size), draw, progress)
    return ImageSet(drawn.close(), factors, torch.arange(n), shown.close())


def draw_noise(cgn: CGN, n: int, generator: torch.Generator) -> Noise:
    """Draw the noise of `n` images in blocks, so that batches of any size get the same.

    Args:
        cgn: What the noise is for.
        n: Number of images.
        generator: On the CPU, decides.
    """
    blocks = torch.arange(n).split(BLOCK)
    return Noise.joined([cgn.draw_noise(len(block), generator) for block in blocks])


def _drawing(
    cgn: CGN | ImageNetCGN, n: int, generator: torch.Generator, device: torch.device | str
) -> Callable[[slice, Factors], MechanismOutputs]:
    """Draw noise of either scale; returns what makes parts of some images, by place and label."""
    if isinstance(cgn, CGN):
        noise = draw_noise(cgn, n, generator)
        return lambda span, labels: cgn.draw(noise.part(span).to(device), labels)
    truncation = cgn.truncation
    units = truncated_noise(n, cgn.config.noise_size, generator, truncation)
    return lambda span, labels: cgn.draw(sent(units[span], device), labels, truncation)


class Weights(NamedTuple):
    """A file with a trained CGN.

    Attributes:
        path: The file.
        seed: The seed of its training.
    """

    path: Path
    seed: int


@dataclass(frozen=True)
class Trained:
    """What is asked of the settings that a file's CGN was trained with."""

    seed: int = 0


def find_weights(
    world: str,
    train_sha256: str,
    own: Path,
    source: str = "",
    correlation: float = 1.0,
    *,
    seed: int = 0,
) -> Weights:
    """Find the CGN that was trained on just this training set.

    Args:
        world: Name of the world.
        train_sha256: Hash of its training set: a CGN trained on other data may have seen the
            test images.
        own: Folder with the user's own weights, which go before the shipped ones.
        source: Name of the data source. For "embedded", shipped weights will do even if another
            version of a package draws some bytes otherwise: the split is the same.
        correlation: How closely the training set's textures and backgrounds follow the class.
            Shipped weights are for 1 alone.
        seed: Of what will be trained on its images. Several CGNs, in the order of their seeds,
            are taken in turn: of three, seed 4 gets the second.

    Returns:
        The weights file and the CGN's own seed.

    Raises:
        ValueError: If there is none; the message names the command that trains one.
    """
    for folder in (own, SHIPPED):
        of_seed = {}
        for path in sorted(folder.glob(f"{world}*.safetensors")):
            about = load_tensors(path)[1]
            if about.get("train_sha256") == train_sha256:
                of_seed[_seed(about)] = path
        if of_seed:
            chosen = sorted(of_seed)[seed % len(of_seed)]
            return Weights(of_seed[chosen], chosen)
    shipped = SHIPPED / f"{world}.safetensors"
    if source == "embedded" and correlation == 1 and shipped.is_file():
        return Weights(shipped, _seed(load_tensors(shipped)[1]))
    bias = "" if correlation == 1 else f", and a `correlation` of {correlation}"
    raise ValueError(
        f"no CGN has been trained on this data of {world}; train one first, by `train cgn` with "
        f"the same `data` and `textures`{bias}"
    )


def _seed(about: Mapping[str, Any]) -> int:
    """Seed of a CGN's training, from the header of its file; 0 if it does not say."""
    config = about.get("config", {})
    return checked(Trained, config, "the header of a CGN's weights: config", open_=True).seed


def best_classes() -> Factors:
    """Return the ImageNet classes that the original authors found to be drawn best.

    Returns:
        For each mechanism its own, int64: 76 shapes, 75 textures and 38 backgrounds.

    Source:
        The lists in the authors' code, picked by eye for their weights.
    """
    text = (resources.files("cgn") / "best_classes.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    return Factors(
        *(torch.tensor([int(c) for of, c in rows if of == factor]) for factor in Factors._fields)
    )


def choose_classes(how: str, n: int, n_classes: int, generator: torch.Generator) -> Factors:
    """Choose three labels for each of `n` counterfactuals.

    Args:
        how: "random" for independent and uniform ones, "best" for independent ones of
            `best_classes`, or three labels, as in "207,340,970", for always the same.
        n: How many.
        n_classes: Classes there are.
        generator: Decides.

    Raises:
        ValueError: If it is none of these, or a label is none.

    Example:
        >>> choose_classes("2,0,1", 2, 3, torch.Generator()).background
        tensor([1, 1])
    """
    if how == "random":
        return Factors.independent(n, n_classes, generator)
    if how == "best":
        if n_classes != 1000:
            raise ValueError(f"the best classes are ImageNet's; this CGN has {n_classes} others")
        lists = best_classes()
        return lists.map(lambda own: own[torch.randint(len(own), (n,), generator=generator)])
    labels = [int(each) for each in how.split(",") if each.strip().isdecimal()]
    if len(labels) != 3 or how.count(",") != 2 or max(labels) >= n_classes:
        raise ValueError(
            f"classes are random, best, or SHAPE,TEXTURE,BACKGROUND, each below {n_classes}; "
            f"got {how!r}"
        )
    return Factors(*(torch.full((n,), label) for label in labels))


def some_classes(how: str, n: int, n_classes: int, seed: int) -> Factors:
    """Choose classes for a picture: `n` shapes, `n` textures, half as many backgrounds.

    Args:
        how: As for `choose_classes`; of three given labels there is one each.
        n: How many.
        n_classes: Classes there are.
        seed: Decides.
    """
    chosen = choose_classes(how, n, n_classes, torch.Generator().manual_seed(seed))
    n = n if how in ("random", "best") else 1
    return Factors(chosen.shape[:n], chosen.texture[:n], chosen.background[: max(1, n // 2)])


@torch.inference_mode()
def combinations(
    cgn: ImageNetCGN, classes: Factors, path: Path, *, seed: int = 0, truncation: float = 0.5
) -> None:
    """Write a picture of every combination of some shapes, textures and backgrounds.

    A block for each background; in it a row for each shape and a column for each texture. Each
    mechanism draws each of its classes once.

    Args:
        cgn: What draws.
        classes: Labels for each mechanism, each of any number, int64.
        path: The PNG file.
        seed: Fixes the noise, which all share.
        truncation: Of the noise.
    """
    from torchvision.utils import make_grid  # seconds to import, and only a sheet needs it

    generator = torch.Generator().manual_seed(seed)
    noise = truncated_noise(1, cgn.config.noise_size, generator, truncation)

    def each(draw: Callable[[Tensor, Tensor, float], Tensor], labels: Tensor) -> Tensor:
        device = next(cgn.parameters()).device
        drawn = [draw(noise.to(device), label[None].to(device), truncation) for label in labels]
        return torch.cat(drawn).cpu()

    masks = each(cgn.mask, classes.shape)
    foregrounds = each(cgn.texture, classes.texture)
    backgrounds = each(cgn.background, classes.background)
    blocks = [
        make_grid(
            compose(masks[:, None], foregrounds, background).flatten(0, 1),
            nrow=len(foregrounds),
            pad_value=1.0,
        )
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
    """Let one factor, or all, pass from a class to another, all else held fixed.

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

    One row a class; from left to right blocks of masks, foregrounds, backgrounds, images with
    all labels equal, and counterfactuals: the row's shape, anything else.

    Args:
        cgn: What draws.
        path: The PNG file.
        seed: Fixes the samples.
        n_per_class: Samples in each block.
        classes: Those that get a row; None for all.
    """
    from torchvision.utils import make_grid  # seconds to import, and only a sheet needs it

    generator = torch.Generator().manual_seed(seed)
    n_classes, device = cgn.config.n_classes, next(cgn.parameters()).device
    rows = torch.arange(n_classes) if classes is None else torch.tensor(classes)
    labels = rows.repeat_interleave(n_per_class)
    parts = cgn(Factors.aligned(labels.to(device)), generator)
    free = Factors.independent(len(labels), n_classes, generator)._replace(shape=labels)
    mask = parts.mask.expand(-1, 3, -1, -1)
    blocks = (
        mask,
        parts.foreground,
        parts.background,
        parts.image(),
        cgn(free.map(lambda label: label.to(device)), generator).image(),
    )
    grids = [make_grid(block.cpu(), nrow=n_per_class, padding=1, pad_value=1.0) for block in blocks]
    write_png(torch.cat(grids, dim=2), path)


def write_png(image: Tensor, path: Path) -> None:
    """Write one image, (3, H, W) in [0, 1], to a PNG file."""
    with written(path) as place:
        Image.fromarray(to_bytes(image).movedim(0, -1).numpy()).save(place, "png")
