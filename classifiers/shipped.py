"""Fitted classifiers that come with the package, a file a recipe and world.

They take no time to fit, and `bench.py check` evaluates them anew. How they were fitted is not
here: see `classifiers.fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from cgn.io.schema import checked
from cgn.io.weights import load_tensors, save_tensors
from cgn.models.cgn import weights_sha256
from classifiers.recipes import RECIPES

FOLDER = Path(str(resources.files("classifiers") / "weights"))
PREFIX = "shipped:"
LARGEST = 10_000  # number of classes, or of pixels on a side


@dataclass(frozen=True)
class Header:
    """What a file must say of its classifier.

    Attributes:
        recipe: Name of its recipe.
        n_classes: Number of classes.
        image_size_px: Height and width of the images it was fitted to.
        seed: The seed it was fitted with.
        generator_seed: Seeds of the generators that drew its training images.
    """

    recipe: str
    n_classes: int
    image_size_px: int
    seed: int = 0
    generator_seed: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.n_classes <= LARGEST or not 1 <= self.image_size_px <= LARGEST:
            raise ValueError(
                f"n_classes and image_size_px lie between 1 and {LARGEST:,}, got {self.n_classes} "
                f"and {self.image_size_px}"
            )


class Shipped(NamedTuple):
    """A fitted classifier read from its file.

    Attributes:
        module: From images (B, 3, H, W) in [0, 1] to logits (B, C), in evaluation mode.
        weights_sha256: Hash of its weights.
        about: The header of the file.
    """

    module: nn.Module
    weights_sha256: str
    about: Mapping[str, Any]


def is_shipped(text: str) -> bool:
    """Tell the spec of a shipped classifier from other models.

    Example:
        >>> is_shipped("shipped:cgn-ensemble"), is_shipped("cgn-ensemble")
        (True, False)
    """
    return text.startswith(PREFIX)


def save_classifier(path: Path, module: nn.Module, about: Mapping[str, object]) -> None:
    """Write a classifier to a safetensors file, weights in half precision, atomically.

    Args:
        path: The file.
        module: A network of a recipe.
        about: The header: `recipe`, `n_classes` and `image_size_px` say what the network is;
            whatever else is there tells where it comes from.
    """
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }
    save_tensors(path, tensors, dict(about))


def load_classifier(path: Path) -> Shipped:
    """Read a classifier written by `save_classifier`.

    Raises:
        ValueError: If the file is missing or damaged, or its weights do not fit its recipe.
    """
    tensors, about = load_tensors(path)
    header = checked(Header, about, f"the header of {path}", open_=True)
    of_name = {recipe.name: recipe for recipe in RECIPES}
    try:
        module = of_name[header.recipe].network(header.n_classes, header.image_size_px)
        module.load_state_dict(
            {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
        )
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} holds no weights of a recipe as it is now ({reason}); make them anew with "
            "`bench.py train classifier`"
        ) from None
    return Shipped(module.eval(), weights_sha256(module), about)


def load_shipped(spec: str, world: str, folder: Path = FOLDER) -> Shipped:
    """Read the classifier of a world that comes with the package.

    Args:
        spec: `shipped:` and the name of a recipe.
        world: Name of the world it was fitted on.
        folder: Where the files are.

    Raises:
        ValueError: If there is none; the message lists those that are there.
    """
    path = shipped_path(spec.removeprefix(PREFIX), world, folder)
    if path.parent != folder or not path.is_file():
        there = ", ".join(sorted(each.stem for each in folder.glob("*.safetensors")))
        raise ValueError(f"no classifier {spec} of {world} is shipped, only: {there or 'none'}")
    return load_classifier(path)


def shipped_path(recipe: str, world: str, folder: Path = FOLDER) -> Path:
    """Return where the classifier of a recipe and world lies.

    Example:
        >>> shipped_path("cgn-ensemble", "openmoji-9").name
        'cgn-ensemble-openmoji-9.safetensors'
    """
    return folder / f"{recipe}-{world}.safetensors"
