"""From a CGN to counterfactual images: sets for training, sheets for looking.

How the weights come about is not here: see `cgn.train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from cgn.cache import cache_key, open_or_make
from cgn.images import Factors, ImageSet, load_tensors, to_bytes
from cgn.model import CGN, weights_sha256

BATCH_SIZE = 100  # images drawn at once: on a CPU 1.5 times as fast as 500, which leave its caches
SHIPPED = Path(str(resources.files("cgn") / "weights"))


@torch.inference_mode()
def sample(
    cgn: CGN,
    n: int,
    *,
    seed: int,
    tied: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Draw images whose three labels are independent and uniform.

    Differs: the original permutes the labels of a batch, so that about one in ten
    counterfactuals keeps its own texture.

    Args:
        cgn: Its mechanisms draw the images.
        n: Number of images.
        seed: Fixes labels, noise and origins; the same images come on every device, but for
            rounding.
        tied: Give the three mechanisms the same label instead, as in the training data.
        device: Where the mechanisms run.
        progress: Called with images done and images in all.

    Returns:
        The images, with the masks they were composed with.
    """
    generator = torch.Generator().manual_seed(seed)
    n_classes = cgn.config.n_classes
    factors = Factors.independent(n, n_classes, generator)
    if tied:
        factors = Factors.tied(factors.shape)
    size = cgn.config.image_size_px
    pixels = torch.empty(n, 3, size, size, dtype=torch.uint8)
    masks = torch.empty(n, 1, size, size, dtype=torch.uint8)
    cgn = cgn.to(device).eval()
    for start in range(0, n, BATCH_SIZE):
        span = slice(start, min(start + BATCH_SIZE, n))
        parts = cgn(factors.map(lambda labels, s=span: labels[s].to(device)), generator)  # type: ignore[misc]
        pixels[span], masks[span] = to_bytes(parts.image()).cpu(), to_bytes(parts.mask).cpu()
        if progress is not None:
            progress(span.stop, n)
    return ImageSet(pixels, factors, torch.arange(n), masks)


def sample_cached(
    weights: Path,
    n: int,
    *,
    seed: int,
    cache: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Draw counterfactuals once and keep them: later calls open the file.

    Args:
        weights: A file written by `CGN.save`.
        n: Number of images.
        seed: Fixes them.
        cache: Folder for the sets; the file's name is a hash of all that went in.
        device: Where the mechanisms run, if they have to.
        progress: Called with images done and images in all.

    Raises:
        ValueError: If the weights cannot be read.
    """
    cgn, _ = CGN.load(weights)
    parts: dict[str, object] = {"weights_sha256": weights_sha256(cgn), "n": n, "seed": seed}
    names = ("counterfactuals.py", "mechanisms.py", "model.py")
    key = cache_key(parts, [Path(__file__).parent / name for name in names])

    def make(path: Path) -> None:
        sample(cgn, n, seed=seed, device=device, progress=progress).save(path, parts)

    return open_or_make(cache / f"{key}.safetensors", ImageSet.load, make)


class Weights(NamedTuple):
    """A file with a trained CGN.

    Attributes:
        path: The file.
        seed: The seed of its training.
    """

    path: Path
    seed: int


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
    flag = "" if correlation == 1 else f"--correlation {correlation} "
    raise ValueError(
        f"no CGN has been trained on this data of {world}; train one first: "
        f"bench.py train cgn --suite … {flag}with the same --data and --textures"
    )


def _seed(about: Mapping[str, Any]) -> int:
    """Seed of a CGN's training, from the header of its file; 0 if it does not say."""
    return int(about.get("config", {}).get("seed", 0))


@torch.inference_mode()
def sheet(cgn: CGN, path: Path, *, seed: int = 0, n_per_class: int = 4) -> None:
    """Write a picture of what each mechanism draws.

    One row a class; from left to right blocks of masks, foregrounds, backgrounds, images with
    all labels equal, and counterfactuals: the row's shape, anything else.

    Args:
        cgn: What draws.
        path: The PNG file.
        seed: Fixes the samples.
        n_per_class: Samples in each block.
    """
    from torchvision.utils import make_grid  # seconds to import, and only a sheet needs it

    generator = torch.Generator().manual_seed(seed)
    n_classes = cgn.config.n_classes
    labels = torch.arange(n_classes).repeat_interleave(n_per_class)
    parts = cgn(Factors.tied(labels), generator)
    free = Factors.independent(len(labels), n_classes, generator)._replace(shape=labels)
    mask = parts.mask.expand(-1, 3, -1, -1)
    blocks = (
        mask,
        parts.foreground,
        parts.background,
        parts.image(),
        cgn(free, generator).image(),
    )
    grids = [make_grid(block, nrow=n_per_class, padding=1, pad_value=1.0) for block in blocks]
    write_png(torch.cat(grids, dim=2), path)


def write_png(image: Tensor, path: Path) -> None:
    """Write one image, (3, H, W) in [0, 1], to a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_bytes(image).movedim(0, -1).numpy()).save(path)
