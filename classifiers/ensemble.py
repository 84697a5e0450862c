"""The invariant ensemble on images of one's own, at any scale: its settings, and its file.

How it is fitted is not here: see `classifiers.fit`.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021. https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from cgn.io.schema import checked, require_in_range
from cgn.io.weights import load_tensors, misfit, save_tensors
from classifiers.augmentation import Augmentation, flip_and_crop, flip_and_shift, identity
from classifiers.networks.backbones import Backbone
from classifiers.networks.small import HEAD_WEIGHTS, InvariantEnsemble
from classifiers.objectives.basic import invariant
from classifiers.recipes import CGN_SOURCE, ERM, Recipe
from classifiers.schedules import Schedule, adamw_cosine, adamw_one_cycle, sgd_thirds

SCHEDULES: dict[str, Schedule] = {
    "sgd-thirds": sgd_thirds,
    "adamw-cosine": adamw_cosine,
    "adamw-one-cycle": adamw_one_cycle,
}
LARGEST_PX = 4_096  # side of the images of any backbone
NEG_LOGIT = -1e4  # a logit that leaves no probability
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": identity,
    "shift": flip_and_shift,
    "crop": flip_and_crop,
}


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Everything that fixes a fit of the ensemble, but for the images; defaults are the paper's."""

    backbone: str = "timm:resnet50.tv_in1k"  # timm:NAME.TAG, timm:NAME untrained, …
    schedule: str = "sgd-thirds"  # sgd-thirds, the paper's; adamw-cosine; adamw-one-cycle
    epochs: int = 45  # rounds through the real images; 0 where steps decide
    steps: int = 1  # optimiser steps, at least
    batch_size: int = 256  # real images in a step, over all processes
    ratio: float = 1.0  # counterfactual images for each real one
    learning_rate: float = 1e-3  # the highest
    weight_decay: float = 1e-4
    augment: str = "crop"  # crop, shift or none
    ema_decay: float = 0.0  # of the running mean of the weights; 0 keeps the last
    frozen_norms: bool = True  # batch norms keep their statistics
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("schedule", SCHEDULES), ("augment", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        require_in_range(self)

    def recipe(self, *, real_only: bool = False) -> Recipe:
        """Return what `classifiers.fit` takes; its sets are "biased" and "recombined".

        Args:
            real_only: Whether it is the ensemble's baseline, one plain head on "biased" alone,
                with as many optimiser steps.
        """
        ensemble = Recipe(
            name="ensemble",
            about="one backbone with a head a factor, on real and counterfactual images",
            source=CGN_SOURCE,
            trains_on=("biased", "recombined"),
            network=Backbone(self.backbone, heads=True),
            objective=invariant,
            schedule=SCHEDULES[self.schedule],
            steps=self.steps,
            epochs=self.epochs,
            epoch_reference="biased",
            batch_size=self.batch_size,
            ratio=self.ratio,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            augment=AUGMENTATIONS[self.augment],
            ema_decay=self.ema_decay,
            frozen_norms=self.frozen_norms,
        )
        if not real_only:
            return ensemble
        return replace(
            ensemble,
            name="plain",
            about="one backbone with one head, on real images",
            source=ERM.source,
            trains_on=("biased",),
            network=Backbone(self.backbone),
            objective=ERM.objective,
        )


@dataclass(frozen=True)
class About:
    """What a file says of its ensemble.

    Attributes:
        architecture: Name of the backbone, in timm.
        classes: Names of the classes, in the order of their labels.
        size_px: Height and width of the images that it was fitted to.
        head_weights: How much its heads count; None for the baseline, which has one.
    """

    architecture: str
    classes: list[str]
    size_px: int
    head_weights: tuple[float, float, float] | None = HEAD_WEIGHTS

    def __post_init__(self) -> None:
        if not self.classes or not 1 <= self.size_px <= LARGEST_PX:
            raise ValueError(
                f"it takes a class at least, and size_px between 1 and {LARGEST_PX}, got "
                f"{len(self.classes)} classes and {self.size_px} pixels"
            )


def save_ensemble(
    network: nn.Module, classes: Sequence[str], size_px: int, path: Path, origin: dict[str, Any]
) -> None:
    """Write an ensemble around a backbone of timm, or its baseline, to one file, atomically.

    Args:
        network: From a fit of `EnsembleConfig.recipe`.
        classes: Names of the classes, in the order of their labels.
        size_px: Height and width of the images that it was fitted to.
        path: The safetensors file.
        origin: What else the file's header is to say, anything JSON can hold.

    Raises:
        ValueError: If the network is neither.
    """
    ensemble = network if isinstance(network, InvariantEnsemble) else None
    features = ensemble.backbone if ensemble else next(network.children(), None)
    config = getattr(getattr(features, "network", None), "pretrained_cfg", None)
    if config is None:
        raise ValueError(f"a {type(network).__name__} is no ensemble around a backbone of timm")
    about = {
        "architecture": config["architecture"],
        "classes": list(classes),
        "size_px": size_px,
        "head_weights": list(ensemble.head_weights) if ensemble else None,
    }
    save_tensors(path, network.state_dict(), {"ensemble": about} | origin)


def embed_in_label_space(network: nn.Module, places: Sequence[int], n_outputs: int) -> nn.Module:
    """Let a network that knows few classes answer as one that knows many, but never with the rest.

    Args:
        network: As `load_ensemble` returns it.
        places: Which of the many outputs each of its classes is, in their order.
        n_outputs: How many there are.

    Returns:
        A copy, whose other outputs have a probability of 0.
    """
    wide = copy.deepcopy(network)
    linear: Any = wide.classifiers if isinstance(wide, InvariantEnsemble) else wide
    for i, layer in enumerate(linear):
        if isinstance(layer, nn.Linear):
            linear[i] = nn.Linear(layer.in_features, n_outputs).requires_grad_(False)
            nn.init.zeros_(linear[i].weight)[list(places)] = layer.weight.detach()
            nn.init.constant_(linear[i].bias, NEG_LOGIT)[list(places)] = layer.bias.detach()
    return wide.eval()


def load_ensemble(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read what `save_ensemble` wrote, in evaluation mode, and what it says of itself.

    Returns:
        The ensemble, or its baseline; architecture, classes, size_px and head_weights, which are
        None for the baseline.

    Raises:
        ValueError: If the file holds none.
    """
    tensors, metadata = load_tensors(path)
    if "ensemble" not in metadata:
        raise ValueError(f"{path} holds no ensemble; `bench.py fit --help` makes one")
    about = checked(About, metadata["ensemble"], f"the header of {path}")
    build = Backbone(f"timm:{about.architecture}")
    if about.head_weights is not None:
        build = replace(build, heads=True, head_weights=about.head_weights)
    network = build(len(about.classes), about.size_px)
    if problem := misfit(network, tensors):
        raise ValueError(f"{path}: weights and architecture differ: {problem}")
    network.load_state_dict(tensors)
    return network.eval(), asdict(about)
