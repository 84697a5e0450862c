"""From a CGN to sets of counterfactual images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.device.memory import images_at_once, in_batches
from cgn.device.precision import evaluating
from cgn.device.transfer import Mailbox, sent
from cgn.io.schema import checked
from cgn.io.weights import load_tensors
from cgn.models.cgn import CGN, MechanismOutputs, Noise
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
        n: How many.
        seed: Fixes labels, noise and origins; the same images come on every device and in batches
            of any size, but for rounding.
        aligned: Give the three mechanisms the same label instead, as in the training data.
        batch_size: Images drawn at once; None takes as many as suit the device.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The images, with the masks they were composed with.

    Example:
        >>> from cgn.models.cgn import CGNConfig
        >>> cgn = CGN(CGNConfig(n_classes=3, image_size_px=32, width=8, noise_size=4))
        >>> sample(cgn, 5, seed=0).images().shape
        torch.Size([5, 3, 32, 32])
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
    """Draw the noise of `n` images in blocks, so that batches of any size get the same."""
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
    """A file with a trained CGN, and the seed of its training."""

    path: Path
    seed: int


@dataclass(frozen=True)
class Trained:
    """What is read of the settings that a file's CGN was trained with."""

    seed: int = 0


def find_weights(
    world: str,
    train_sha256: str,
    own: Path,
    source: str = "",
    correlation: float = 1.0,
    *,
    seed: int = 0,
    method: str = "",
) -> Weights:
    """Find the CGN that was trained on just this training set.

    Args:
        world: Name of the training domain.
        train_sha256: Of its training set: a CGN of other data may have seen the test images.
        own: Folder with the user's own weights, which go before the shipped ones.
        source: Of the data. For "embedded", shipped weights will do even if another version of a
            package draws some bytes otherwise: the split is the same.
        correlation: How closely textures and backgrounds follow the class; shipped weights are
            for 1 alone.
        seed: Of what will be trained on its images. Several CGNs, in the order of their seeds,
            are taken in turn: of three, seed 4 gets the second.
        method: How it was trained: "end-to-end", or empty where objects were segmented first.

    Raises:
        ValueError: If there is none; the message names the command that trains one.
    """
    for folder in (own, SHIPPED):
        of_seed = {}
        for path in sorted(folder.glob(f"{world}*.safetensors")):
            about = load_tensors(path)[1]
            same_data = about.get("train_sha256") == train_sha256
            if same_data and about.get("method", "") == method:
                of_seed[_seed(about)] = path
        if of_seed:
            chosen = sorted(of_seed)[seed % len(of_seed)]
            return Weights(of_seed[chosen], chosen)
    shipped = SHIPPED / f"{world}{f'-{method}' if method else ''}.safetensors"
    if source == "embedded" and correlation == 1 and shipped.is_file():
        return Weights(shipped, _seed(load_tensors(shipped)[1]))
    bias = "" if correlation == 1 else f", and a `correlation` of {correlation}"
    command = "train cgn" + (f"-{method}" if method else "")
    raise ValueError(
        f"no CGN has been trained on this data of {world}; train one first, by `{command}` with "
        f"the same `data` and `textures`{bias}"
    )


def _seed(about: Mapping[str, Any]) -> int:
    """Seed of a CGN's training, from the header of its file; 0 if it does not say."""
    config = about.get("config", {})
    return checked(Trained, config, "the header of a CGN's weights: config", open_=True).seed


def best_classes() -> Factors:
    """Return the ImageNet classes that the original authors found to be drawn best.

    These are 76 shapes, 75 textures and 38 backgrounds, picked by eye for the authors' weights.
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
        generator: Decides which.

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
