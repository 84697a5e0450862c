"""Fitted classifiers in safetensors files: ensembles of users, and those that this package ships.

Both hold a state dict and a header that says how to build the network. An ensemble's file has full
precision; a shipped classifier's has half, and names its recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from cgn.io.cache import weights_sha256
from cgn.io.schema import checked
from cgn.io.weights import load_tensors, misfit, save_tensors
from classifiers.networks.backbones import Backbone
from classifiers.networks.joins import Join
from classifiers.networks.small import InvariantEnsemble
from classifiers.recipes import MODELS

FOLDER = Path(str(resources.files("classifiers") / "weights"))
PREFIX = "shipped:"
MAX_ENSEMBLE_PX = 4_096  # side of an image
MAX_CLASSIFIER = 10_000  # number of classes, or of pixels on a side


@dataclass(frozen=True)
class EnsembleHeader:
    """What the file of an ensemble says of it.

    Attributes:
        architecture: Name of the backbone, in timm.
        classes: Names of the classes, in the order of their labels.
        size_px: Height and width of the images that it was fitted to.
        join: How its heads are joined; None for the baseline, which has one.
        nuisances: Factors that were taken to tell nothing of the class when the join was learned.
    """

    architecture: str
    classes: list[str]
    size_px: int
    join: Join | None
    nuisances: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.classes or not 1 <= self.size_px <= MAX_ENSEMBLE_PX:
            raise ValueError(
                f"it takes a class at least, and size_px between 1 and {MAX_ENSEMBLE_PX}, got "
                f"{len(self.classes)} classes and {self.size_px} pixels"
            )


@dataclass(frozen=True)
class ClassifierHeader:
    """What the file of a shipped classifier says of it; it may say more.

    Attributes:
        recipe: Name of its recipe.
        n_classes: Number of classes.
        image_size_px: Height and width of the images it was fitted to.
        seed: The seed it was fitted with.
        generator_seed: Seeds of the generators that drew its training images.
        selected_on: What the settings of its recipe were chosen by.
    """

    recipe: str
    n_classes: int
    image_size_px: int
    seed: int = 0
    generator_seed: str = ""
    selected_on: str = ""

    def __post_init__(self) -> None:
        if not all(1 <= n <= MAX_CLASSIFIER for n in (self.n_classes, self.image_size_px)):
            raise ValueError(
                f"n_classes and image_size_px lie between 1 and {MAX_CLASSIFIER:,}, got "
                f"{self.n_classes} and {self.image_size_px}"
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


def save_ensemble(
    network: nn.Module,
    classes: Sequence[str],
    size_px: int,
    path: Path,
    origin: dict[str, Any],
    nuisances: Sequence[str] = (),
) -> None:
    """Write an ensemble around a backbone of timm, or its baseline, to one file, atomically.

    Args:
        network: From a fit of `EnsembleConfig.recipe`.
        classes: Names of the classes, in the order of their labels.
        size_px: Height and width of the images that it was fitted to.
        path: The safetensors file.
        origin: More entries for the file's header, anything JSON can hold.
        nuisances: `Recipe.nuisances` of the fit.

    Raises:
        ValueError: If the network is neither.
    """
    ensemble = network if isinstance(network, InvariantEnsemble) else None
    features = ensemble.backbone if ensemble else next(network.children(), None)
    config = getattr(getattr(features, "network", None), "pretrained_cfg", None)
    if config is None:
        raise ValueError(f"a {type(network).__name__} is no ensemble around a backbone of timm")
    header = {
        "architecture": config["architecture"],
        "classes": list(classes),
        "size_px": size_px,
        "join": ensemble.join.name if ensemble else None,
        "nuisances": list(nuisances),
    }
    learned = {"join": describe_join(network)} if ensemble else {}
    save_tensors(path, network.state_dict(), {"ensemble": header} | learned | origin)


def describe_join(network: nn.Module) -> dict[str, dict[str, float]]:
    """Return the numbers with which a network joins its heads, by name; empty if it learns none.

    Example:
        >>> describe_join(InvariantEnsemble(10, 32))["exponents"]
        {'shape': 1.0, 'texture': 1.0, 'background': 1.0}
    """
    return network.join.described() if isinstance(network, InvariantEnsemble) else {}


def load_ensemble(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read what `save_ensemble` wrote, in evaluation mode.

    Returns:
        The ensemble, or its baseline; and the fields of `EnsembleHeader`.

    Raises:
        ValueError: If the file holds none, or that of an earlier version.
    """
    tensors, metadata = load_tensors(path)
    if "ensemble" not in metadata:
        raise ValueError(f"{path} holds no ensemble; `fit` makes one")
    stored = metadata["ensemble"]
    if isinstance(stored, dict) and "head_weights" in stored:
        raise ValueError(
            f"{path} comes from an earlier version, whose heads had fixed weights; make it anew "
            "with `fit`"
        )
    header = checked(EnsembleHeader, stored, f"the header of {path}")
    build = Backbone(f"timm:{header.architecture}")
    if header.join is not None:
        build = replace(build, heads=True, join=header.join)
    network = build(len(header.classes), header.size_px)
    if problem := misfit(network, tensors):
        raise ValueError(f"{path}: weights and architecture differ: {problem}")
    network.load_state_dict(tensors)
    return network.eval(), asdict(header)


def save_classifier(path: Path, module: nn.Module, about: Mapping[str, object]) -> None:
    """Write the network of a recipe to a safetensors file, weights in half precision, atomically.

    Args:
        path: The file.
        module: The network.
        about: The header: the fields of `ClassifierHeader`, and anything else.
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
    header = checked(ClassifierHeader, about, f"the header of {path}", open_=True)
    try:
        module = MODELS[header.recipe].network(header.n_classes, header.image_size_px)
        module.load_state_dict(
            {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
        )
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} holds no weights of a recipe as it is now ({reason}); make them anew with "
            "`train classifier`"
        ) from None
    return Shipped(module.eval(), weights_sha256(module), about)


def is_shipped(spec: str) -> bool:
    """Return whether a spec names a shipped classifier.

    Example:
        >>> is_shipped("shipped:cgn-ensemble"), is_shipped("cgn-ensemble")
        (True, False)
    """
    return spec.startswith(PREFIX)


def load_shipped(spec: str, world: str, folder: Path = FOLDER) -> Shipped:
    """Read a classifier that comes with the package.

    Args:
        spec: `shipped:` and the name of a recipe.
        world: Name of the training domain that it was fitted on.
        folder: Where the files are.

    Raises:
        ValueError: If there is none; the message lists those that exist.
    """
    path = shipped_path(spec.removeprefix(PREFIX), world, folder)
    if path.parent != folder or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        raise ValueError(f"no classifier {spec} of {world} is shipped, only: {known or 'none'}")
    return load_classifier(path)


def shipped_path(recipe: str, world: str, folder: Path = FOLDER) -> Path:
    """Return where the classifier of a recipe and training domain lies.

    Example:
        >>> shipped_path("cgn-ensemble:background", "openmoji-9").name
        'cgn-ensemble--background-openmoji-9.safetensors'
    """
    return folder / f"{recipe.replace(':', '--')}-{world}.safetensors"
